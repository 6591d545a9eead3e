/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's pool: a fixed number of threads that run one function together as a team (base/team.h), the calling thread
 * being member 0. Between two calls the others spin for a moment, because the next step usually follows at once, and then
 * sleep on a futex. A pool of as many members as the process may use CPUs has one on each.
 */
#ifndef FALCON_ENGINE_THREADS_H
#define FALCON_ENGINE_THREADS_H

#include "base/err.h"
#include "base/team.h"

enum { THREADS_MAX = 256 };

struct threads;

typedef void threads_work(void *arg, struct team *team, uint32_t member);

/* A pool of n members, n - 1 of them new threads. 0 or -errno. The caller becomes member 0: its MXCSR is set too. */
int threads_new(uint32_t n, struct threads **ret, struct err *e);
void threads_free(struct threads *t);

/* Runs work on all members and returns when the last has finished. Only the thread that made the pool may call it. */
void threads_run(struct threads *t, threads_work *work, void *arg);

uint32_t threads_count(const struct threads *t);

#endif
