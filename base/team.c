/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/team.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 2000 };

void team_init(struct team *t, uint32_t n)
{
	t->n = n;
	atomic_init(&t->waiting, 0);
	atomic_init(&t->round, 0);
	atomic_init(&t->next, 0);
	atomic_init(&t->sleeping, 0);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

static bool passed(struct team *t, uint32_t round)
{
	return atomic_load_explicit(&t->round, memory_order_acquire) != round;
}

/* A member announces itself in `sleeping` before it looks for the last time, so whoever opens the barrier sees it or is seen. */
static void sleep_until_passed(struct team *t, uint32_t round)
{
	atomic_fetch_add(&t->sleeping, 1);
	while (atomic_load(&t->round) == round)
		syscall(SYS_futex, &t->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
	atomic_fetch_sub(&t->sleeping, 1);
}

void team_barrier_idle(struct team *t, team_idle *idle, void *arg)
{
	uint32_t round = atomic_load_explicit(&t->round, memory_order_relaxed);
	if (atomic_fetch_add_explicit(&t->waiting, 1, memory_order_acq_rel) + 1 == t->n) {
		atomic_store_explicit(&t->waiting, 0, memory_order_relaxed);
		atomic_store_explicit(&t->next, 0, memory_order_relaxed);
		atomic_store(&t->round, round + 1);
		if (atomic_load(&t->sleeping) > 0)
			syscall(SYS_futex, &t->round, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
		return;
	}
	while (idle != NULL && idle(arg))
		if (passed(t, round))
			return;
	for (int i = 0; i < SPINS; i++) {
		if (passed(t, round))
			return;
		relax();
	}
	sleep_until_passed(t, round);
}

void team_barrier(struct team *t)
{
	team_barrier_idle(t, NULL, NULL);
}
