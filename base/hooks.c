/* SPDX-License-Identifier: Apache-2.0 */
/* Linked into the builds of tests/hooks alone. */
#define _GNU_SOURCE
#include "base/hooks.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

static struct hooks *hooks;

__attribute__((constructor)) static void map_hooks(void)
{
	const char *path = getenv("FALCON_TEST_HOOKS");
	if (path == NULL)
		return;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	hooks = mmap(NULL, sizeof *hooks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(hooks != MAP_FAILED);
	close(fd);
}

/* Takes one of a count that is not used up. */
static bool take(_Atomic uint32_t *count)
{
	uint32_t n = atomic_load_explicit(count, memory_order_acquire);
	while (n > 0)
		if (atomic_compare_exchange_weak(count, &n, n - 1))
			return true;
	return false;
}

void stopping_place(const char *name)
{
	if (hooks == NULL || atomic_load_explicit(&hooks->times, memory_order_acquire) == 0 || strcmp(name, hooks->place) != 0)
		return;
	if (take(&hooks->pass) || !take(&hooks->times))
		return;
	atomic_store_explicit(&hooks->stopped, getpid(), memory_order_release);
	raise((int)hooks->signal);
}

static void hang(void)
{
	const struct timespec moment = {.tv_nsec = 10000000};
	for (;;)
		nanosleep(&moment, NULL);
}

void hooks_compute(const char *session, size_t length, uint32_t first, uint32_t n)
{
	if (hooks == NULL || atomic_load_explicit(&hooks->harms, memory_order_acquire) == 0)
		return;
	if (strlen(hooks->session) != length || memcmp(hooks->session, session, length) != 0 || hooks->position - first >= n)
		return;
	if (!take(&hooks->harms))
		return;
	if (hooks->harm == HOOKS_HANG)
		hang();
	raise((int)hooks->harm);
}
