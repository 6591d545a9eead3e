/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <config.h>

#include "daemon/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { FIRST = 3, ABOVE = 256 }; /* where handed descriptors begin; a number above all of them */

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#else
/* What falcond hands to itself over an `upgrade`. */
static int sd_listen_fds_with_names(int unset_environment, char ***ret_names)
{
	const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
	(void)unset_environment;
	if (pid == NULL || n == NULL || names == NULL || strtol(pid, NULL, 10) != getpid())
		return 0;
	int count = atoi(n);
	*ret_names = xcalloc((size_t)count + 1, sizeof **ret_names);
	for (int i = 0; i < count; i++) {
		size_t length = strcspn(names, ":");
		(*ret_names)[i] = xstrndup(names, length);
		names += length + (names[length] == ':');
		fcntl(FIRST + i, F_SETFD, FD_CLOEXEC);
	}
	return count;
}
#endif

void inherited_add(struct inherited *in, const char *name, int fd)
{
	in->list = xreallocarray(in->list, in->n + 1, sizeof *in->list);
	in->list[in->n++] = (struct inherited_fd){.name = xstrdup(name), .fd = fd};
}

void inherited_take(struct inherited *in)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);
	*in = (struct inherited){0};
	for (int i = 0; i < n; i++) {
		inherited_add(in, names[i], FIRST + i);
		free(names[i]);
	}
	free(names);
}

void inherited_done(struct inherited *in)
{
	for (size_t i = 0; i < in->n; i++)
		free(in->list[i].name);
	free(in->list);
	*in = (struct inherited){0};
}

static void set_number(const char *name, long value)
{
	char text[32];
	snprintf(text, sizeof text, "%ld", value);
	setenv(name, text, 1);
}

int inherited_pass(struct inherited *in, struct err *e)
{
	struct buf names = {0};
	/* First above all numbers wanted, then to where they are looked for. */
	for (size_t i = 0; i < in->n; i++)
		if ((in->list[i].fd = fcntl(in->list[i].fd, F_DUPFD_CLOEXEC, ABOVE)) < 0)
			return err_set(e, -errno, "cannot keep a descriptor: %s", strerror(errno));
	for (size_t i = 0; i < in->n; i++) {
		if (dup2(in->list[i].fd, FIRST + (int)i) < 0)
			return err_set(e, -errno, "cannot keep a descriptor: %s", strerror(errno));
		buf_printf(&names, "%s%s", i > 0 ? ":" : "", in->list[i].name);
	}
	close_range((unsigned)(FIRST + in->n), ~0u, CLOSE_RANGE_CLOEXEC);
	set_number("LISTEN_PID", getpid());
	set_number("LISTEN_FDS", (long)in->n);
	setenv("LISTEN_FDNAMES", names.length > 0 ? names.data : "", 1);
	buf_done(&names);
	return 0;
}
