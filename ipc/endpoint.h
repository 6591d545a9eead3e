/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's end of nng's REQ/REP: any number of requests may wait for their reply. They are handed over on a thread of the
 * endpoint's; the receiver queues them for its loop.
 */
#ifndef FALCON_IPC_ENDPOINT_H
#define FALCON_IPC_ENDPOINT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct endpoint;
struct endpoint_request; /* one request that waits for its reply; owned by the receiver until endpoint_reply() */

struct endpoint_options {
	const char *url;   /* ipc:// */
	uint32_t mode;     /* of the socket file */
	gid_t group;       /* of the socket file, (gid_t)-1: leave */
	size_t max_bytes;  /* larger messages close the connection */
	unsigned max_peers;    /* connections, of which one user has at most half; further ones are closed at once */
	size_t max_user_bytes; /* messages and replies of one user that are in memory; what needs more closes its connection */
	void (*receive)(void *arg, struct endpoint_request *r); /* on the endpoint's thread */
	void *arg;
};

/* Listens. A stale socket file is replaced, a live one refused (-EADDRINUSE). No request is handed over before this returns 0. */
int endpoint_open(const struct endpoint_options *o, struct endpoint **ret, struct err *e);

/*
 * Refuses new requests, removes the socket's file, lets replies on their way leave (a second at most), closes, and waits until
 * no callback runs. Open requests must be replied to (or dropped) first. NULL is fine.
 */
void endpoint_close(struct endpoint *ep);

/* The peer's uid as the kernel says, or (uid_t)-1 if it cannot. */
uid_t endpoint_uid(const struct endpoint_request *r);
const char *endpoint_bytes(const struct endpoint_request *r, size_t *ret_length);

/*
 * Sends the reply (copied) and frees the request; with bytes NULL it is dropped without a reply. Any thread. A peer that has
 * gone is nobody's error, and one that reads no replies is not read from either.
 */
void endpoint_reply(struct endpoint_request *r, const char *bytes, size_t length);

#endif
