/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcond replaces itself by the program that stands at its path now, in the same process and over the same segments. First the
 * new program is asked whether it starts with these arguments (--check), so that a broken one is refused while the old one
 * still serves. Then the old one stops its server and its engine, and becomes the new one.
 */
#ifndef FALCON_DAEMON_UPGRADE_H
#define FALCON_DAEMON_UPGRADE_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/inherit.h"

struct upgrade {
	uv_loop_t *loop;
	char path[4096]; /* of the program, as it was at the start */
	char **argv;     /* [argc] as it was called */
	int argc;
	void (*begin)(void *arg); /* the new program is good: everything is to be stopped for upgrade_exec() */
	void *arg;

	uv_process_t process;  /* the check */
	bool checking, decided;
	void (*decide)(void *arg, const struct err *e); /* e NULL: it is good */
	void *decide_arg;
};

/* Notes what falcond was started as. loop, begin and arg are set by the caller. */
void upgrade_init(struct upgrade *u, int argc, char **argv);

/*
 * Asks the new program whether it starts, then calls decide, and if it does, begin. -EBUSY: that is under way; -errno: it cannot
 * be asked. decide is called then with neither.
 */
int upgrade_check(struct upgrade *u, void (*decide)(void *arg, const struct err *e), void *arg, struct err *e);

/* Becomes the new program, which is handed these descriptors. Returns only if that fails: -errno. */
int upgrade_exec(struct upgrade *u, struct inherited *in, struct err *e);

#endif
