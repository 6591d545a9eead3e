/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is at the other end. Over a Unix socket the kernel says the uid. Over loopback TCP it is the API key, where keys are
 * configured; where none are, the kernel knows the uid there too: the client's socket stands in its table of connections
 * (/proc/net/tcp) with its owner. A browser speaks for whoever wrote the page that it shows, so over TCP a request from a
 * page of another origin, or to another name than this machine's own, is refused.
 */
#ifndef FALCON_HTTP_IDENTITY_H
#define FALCON_HTTP_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* Owners of API keys have numbers above all uids: this bit, and a hash of the key's name. */
#define IDENTITY_KEY_OWNER (UINT64_C(1) << 62)

struct identity_keys {
	struct identity_key { char *name, *key; bool admin; } *list;
	size_t n;
};

/*
 * Reads a file of lines `NAME KEY`, or `NAME KEY admin` for an administrator's; blank lines and those that begin with # are skipped.
 * Others than its owner must not be able to read it. file NULL: no keys. 0, or -EINVAL or -errno with file and line.
 */
int identity_load(struct identity_keys *k, const char *file, struct err *e);
void identity_done(struct identity_keys *k);

/* The owner whom `Authorization: Bearer KEY` names, 0 if it is none of the keys. header may be NULL. */
uint64_t identity_of_key(const struct identity_keys *k, const char *header, bool *ret_admin);

/* The uid at the other end of a connected socket, (uid_t)-1 if the kernel does not say. tcp: it is no Unix socket. */
uid_t identity_of_peer(int fd, bool *ret_tcp);

/* The same of a Unix socket; (uid_t)-1 of others. */
uid_t identity_of_socket(int fd);

/* Whether a request over TCP with these headers (NULL: absent) came for this machine and from none but its own pages. */
bool identity_is_local(const char *host, const char *origin);

#endif
