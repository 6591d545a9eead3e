/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets from addresses. Only this machine is served: a Unix socket, or a loopback address. */
#ifndef FALCON_HTTP_LISTEN_H
#define FALCON_HTTP_LISTEN_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct listen_at {
	const char *text; /* [length], not ended by NUL */
	size_t length;
};

/* The next address of a list with blanks between; moves *at behind it. length 0: there are no more. */
struct listen_at listen_next(const char **at);

/* Checks an address: unix: and an absolute path, or a numeric loopback address and a port. 0 or -EINVAL. */
int listen_check(struct listen_at a, struct err *e);

/*
 * A listening socket there. A Unix socket's file that nobody listens at is replaced, a live one refused. mode and group are the
 * file's; group (gid_t)-1: as it is. The descriptor, or -errno.
 */
int listen_open(struct listen_at a, uint32_t mode, gid_t group, struct err *e);

/* Whether a descriptor that somebody handed over is such a socket. 0, -ENOTSOCK: it does not listen, or -EINVAL: others reach it. */
int listen_check_handed(int fd, struct err *e);

/* Another descriptor of a socket that was handed over. It, or -errno. */
int listen_duplicate(int fd, struct err *e);

/* Removes a Unix socket's file; nothing to do for others. */
void listen_remove(struct listen_at a);

#endif
