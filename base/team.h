/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A team of threads that runs one function together: all members call it, each with its own number, and meet at barriers
 * inside it. Work between two barriers is taken in pieces from a shared counter. The threads themselves are the caller's
 * (engine/threads.h); a team of one is an ordinary function call.
 */
#ifndef FALCON_BASE_TEAM_H
#define FALCON_BASE_TEAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct team {
	uint32_t n;                     /* members */
	_Atomic uint32_t waiting;       /* members at the barrier */
	_Atomic uint32_t round;         /* barriers passed */
	_Atomic uint32_t next;          /* next piece of the current phase */
	_Atomic uint32_t sleeping;      /* members in futex wait, or about to be */
};

/* A little work that a member can do while it waits, less than a microsecond a call. False: there is no more of it. */
typedef bool team_idle(void *arg);

void team_init(struct team *t, uint32_t n);

/*
 * Waits until all members are here; the piece counter is then 0. Memory written before is seen by all after. Spins for a
 * few tens of microseconds, then sleeps (futex).
 */
void team_barrier(struct team *t);

/* The same; until the others are here `idle` is called again and again. */
void team_barrier_idle(struct team *t, team_idle *idle, void *arg);

/* The next piece of the phase: 0, 1, 2 ... each number goes to one member. */
static inline uint32_t team_take(struct team *t)
{
	return atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
}

#endif
