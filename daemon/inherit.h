/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors with names that falcond is started with. systemd hands over two kinds, in one row and no fixed order: those of its
 * store, which are the segments, and the sockets of falcond.socket. An `upgrade` hands its own on in the same way. The names
 * tell them apart: a set of segments has one of keep.c's, whatever else there is was meant for web.c.
 */
#ifndef FALCON_DAEMON_INHERIT_H
#define FALCON_DAEMON_INHERIT_H

#include <stddef.h>

#include "base/err.h"

struct inherited {
	struct inherited_fd { char *name; int fd; } *list; /* [n] */
	size_t n;
};

/*
 * Takes what LISTEN_FDS tells, close-on-exec, and removes that from the environment, so that it is to be called once. Nothing was
 * handed over: n is 0. The list is ended by inherited_done(), which closes nothing.
 */
void inherited_take(struct inherited *in);
void inherited_add(struct inherited *in, const char *name, int fd);
void inherited_done(struct inherited *in);

/* Hands these, and no other descriptor above 2, to the program that this process becomes by exec. 0 or -errno. */
int inherited_pass(struct inherited *in, struct err *e);

#endif
