/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"

enum { MOST = 16, FIRST = 3, ABOVE = FIRST + MOST };

int spawn(const char *path, const char *const argv[], const int *fds, int n, pid_t *ret_pid, struct err *e)
{
	int high[MOST], r = 0, made = 0;
	CHECK(n <= MOST);
	/* First above the numbers wanted, where no dup2 below can overwrite one that is still needed. */
	for (; made < n; made++) {
		high[made] = fcntl(fds[made], F_DUPFD_CLOEXEC, ABOVE);
		if (high[made] < 0) {
			r = -errno;
			break;
		}
	}
	posix_spawn_file_actions_t actions;
	CHECK(posix_spawn_file_actions_init(&actions) == 0);
	for (int i = 0; i < made; i++)
		CHECK(posix_spawn_file_actions_adddup2(&actions, high[i], FIRST + i) == 0);
	CHECK(posix_spawn_file_actions_addclosefrom_np(&actions, FIRST + n) == 0);
	if (r == 0)
		r = -posix_spawn(ret_pid, path, &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	for (int i = 0; i < made; i++)
		close(high[i]);
	return r == 0 ? 0 : err_set(e, r, "cannot start %s: %s", path, strerror(-r));
}

int spawn_sibling(const char *name, char *ret_path, unsigned size, struct err *e)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		return err_set(e, -errno, "cannot read /proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	if ((unsigned)snprintf(ret_path, size, "%s/%s", self, name) >= size)
		return err_set(e, -ENAMETOOLONG, "the path of %s is too long", name);
	return 0;
}
