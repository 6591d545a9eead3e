/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/upgrade.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "daemon/child.h"

void upgrade_init(struct upgrade *u, int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", u->path, sizeof u->path - 1);
	u->path[n > 0 ? n : 0] = '\0';
	u->argc = argc;
	u->argv = argv;
}

static void on_closed(uv_handle_t *handle)
{
	((struct upgrade *)handle->data)->checking = false;
}

static void on_checked(uv_process_t *process, int64_t status, int signal)
{
	struct upgrade *u = process->data;
	struct err e;
	uv_close((uv_handle_t *)process, on_closed);
	if (status == 0 && signal == 0) {
		u->decided = true;
		u->decide(u->decide_arg, NULL);
		u->begin(u->arg);
		return;
	}
	err_set(&e, -EINVAL, "%s --check ended with %s %lld", u->path, signal ? "signal" : "status",
		signal ? (long long)signal : (long long)status);
	err_hint(&e, "its own words are in falcond's log; this falcond goes on");
	u->decide(u->decide_arg, &e);
}

int upgrade_check(struct upgrade *u, void (*decide)(void *arg, const struct err *e), void *arg, struct err *e)
{
	if (u->checking || u->decided)
		return err_set(e, -EBUSY, "an upgrade is under way");
	char **argv = xcalloc((size_t)u->argc + 2, sizeof *argv);
	memcpy(argv, u->argv, (size_t)u->argc * sizeof *argv);
	argv[u->argc] = (char[]){"--check"};
	u->process.data = u;
	u->decide = decide;
	u->decide_arg = arg;
	u->checking = true;
	int r = child_spawn(u->loop, &u->process, u->path, argv, NULL, 0, on_checked, e);
	free(argv);
	if (r < 0)
		uv_close((uv_handle_t *)&u->process, on_closed);
	return r;
}

int upgrade_exec(struct upgrade *u, struct inherited *in, struct err *e)
{
	int r = inherited_pass(in, e);
	if (r < 0)
		return r;
	execv(u->path, u->argv);
	return err_set(e, -errno, "cannot start %s: %s", u->path, strerror(errno));
}
