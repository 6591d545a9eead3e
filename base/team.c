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
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

void team_barrier(struct team *t)
{
	uint32_t round = atomic_load_explicit(&t->round, memory_order_relaxed);
	if (atomic_fetch_add_explicit(&t->waiting, 1, memory_order_acq_rel) + 1 == t->n) {
		atomic_store_explicit(&t->waiting, 0, memory_order_relaxed);
		atomic_store_explicit(&t->next, 0, memory_order_relaxed);
		atomic_store_explicit(&t->round, round + 1, memory_order_release);
		if (t->n > 1)
			syscall(SYS_futex, &t->round, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
		return;
	}
	for (int i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(&t->round, memory_order_acquire) != round)
			return;
		relax();
	}
	while (atomic_load_explicit(&t->round, memory_order_acquire) == round)
		syscall(SYS_futex, &t->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
}
