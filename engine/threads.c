/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "engine/threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "kernels/kernels.h"

enum { SPINS = 10000 }; /* tens of microseconds: longer than what lies between two steps of a busy engine */

struct member {
	struct threads *pool;
	pthread_t thread;
	uint32_t number;
};

struct threads {
	struct team team;
	threads_work *work; /* NULL: the pool ends */
	void *arg;
	_Atomic uint32_t call;     /* rises with each threads_run(); publishes work and arg */
	_Atomic uint32_t sleeping; /* members in futex wait, or about to be */
	uint32_t n;
	struct member members[];   /* [n], the first unused */
};

/* Waits until `call` is no longer `seen`. A member announces itself in `sleeping` before it looks for the last time. */
static void wait_for_call(struct threads *t, uint32_t seen)
{
	for (int i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(&t->call, memory_order_acquire) != seen)
			return;
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#endif
	}
	atomic_fetch_add(&t->sleeping, 1);
	while (atomic_load(&t->call) == seen)
		syscall(SYS_futex, &t->call, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
	atomic_fetch_sub(&t->sleeping, 1);
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct threads *t = m->pool;
	kernels_thread_init();
	for (uint32_t seen = 0;; seen++) {
		wait_for_call(t, seen);
		if (t->work == NULL)
			return NULL;
		t->work(t->arg, &t->team, m->number);
		team_barrier(&t->team);
	}
}

static void call(struct threads *t, threads_work *work, void *arg)
{
	t->work = work;
	t->arg = arg;
	atomic_fetch_add(&t->call, 1);
	if (atomic_load(&t->sleeping) > 0)
		syscall(SYS_futex, &t->call, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/*
 * A member for each CPU that this process may use: every member gets its own. The kernel does not see to that: members sleep at a
 * barrier in turn, so that two of them on one CPU never look like too many for it, and the step takes five times as long
 * (measured: one run in three). With fewer members than CPUs the choice is left to the kernel, which knows who else is there.
 */
static void spread(const struct threads *t, uint32_t n)
{
	cpu_set_t allowed;
	if (n < 2 || sched_getaffinity(0, sizeof allowed, &allowed) < 0 || (uint32_t)CPU_COUNT(&allowed) != n)
		return;
	uint32_t member = 0;
	for (int cpu = 0; cpu < CPU_SETSIZE && member < n; cpu++) {
		if (!CPU_ISSET(cpu, &allowed))
			continue;
		cpu_set_t one;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		pthread_t thread = member == 0 ? pthread_self() : t->members[member].thread;
		(void)pthread_setaffinity_np(thread, sizeof one, &one); /* where it is refused, the kernel chooses */
		member++;
	}
}

int threads_new(uint32_t n, struct threads **ret, struct err *e)
{
	if (n == 0 || n > THREADS_MAX)
		return err_set(e, -EINVAL, "%u threads, expected 1 to %d", n, THREADS_MAX);
	struct threads *t = xcalloc(1, sizeof *t + n * sizeof t->members[0]);
	team_init(&t->team, n);
	kernels_thread_init();
	for (t->n = 1; t->n < n; t->n++) {
		struct member *m = &t->members[t->n];
		*m = (struct member){.pool = t, .number = t->n};
		int code = pthread_create(&m->thread, NULL, member_main, m);
		if (code != 0) {
			threads_free(t);
			return err_set(e, -code, "cannot start %u threads: %s", n, strerror(code));
		}
	}
	spread(t, n);
	*ret = t;
	return 0;
}

void threads_free(struct threads *t)
{
	if (t == NULL)
		return;
	call(t, NULL, NULL);
	for (uint32_t i = 1; i < t->n; i++)
		CHECK(pthread_join(t->members[i].thread, NULL) == 0);
	free(t);
}

void threads_run(struct threads *t, threads_work *work, void *arg)
{
	CHECK(work != NULL);
	call(t, work, arg);
	work(arg, &t->team, 0);
	team_barrier(&t->team);
}

uint32_t threads_count(const struct threads *t)
{
	return t->n;
}
