/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what: the kernel says which uid is at the other end of the socket, and that is all that counts. */
#ifndef FALCON_DAEMON_AUTH_H
#define FALCON_DAEMON_AUTH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "daemon/config.h"

struct auth {
	uid_t self;
	uid_t *admins; /* members of the admin group when falcond started */
	size_t n_admins;
	gid_t admin_group;  /* (gid_t)-1: there is none */
	gid_t socket_group; /* (gid_t)-1: leave the socket's group as it is */
	uint32_t socket_mode;
};

/*
 * Reads groups, and refuses a shared service (a socket that other uids may open) in a user namespace that does not map every
 * uid: there all other peers look the same. Without a configured mode the socket is private there. 0 or -errno.
 */
int auth_init(struct auth *a, const struct config *c, struct err *e);
void auth_done(struct auth *a);

/* Whether this peer may be served at all: the kernel knew it, and it is not the overflow uid, which stands for many. */
bool auth_known(uid_t uid);
bool auth_admin(const struct auth *a, uid_t uid);

/* Whether uid_map text maps the whole range of uids to itself. */
bool auth_map_is_whole(const char *uid_map);

#endif
