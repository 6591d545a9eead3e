/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Session files on their way to or from a client, in parts that fit a message. A transfer is a file without a name; it is known
 * by its owner and the request id of its parts, so each part may be asked for twice, and goes when nobody has asked for long.
 */
#ifndef FALCON_DAEMON_TRANSFER_H
#define FALCON_DAEMON_TRANSFER_H

#include "daemon/spill.h"

struct transfer {
	const struct owner *owner;
	bool import;
	char id[BOARD_REQUEST + 1];
	size_t id_length;
	int fd;
	uint64_t size;           /* bytes that the file has; of an import, so far */
	bool busy;               /* a thread makes the snapshot, or reads the head */
	bool over;               /* its last part has been told */
	uint64_t touched;        /* clock_ns */
	uint32_t users;          /* requests that threads work at */
	struct spill_copy copy;  /* export, while the snapshot is made */
	struct spill_head head;  /* import, once the last part is there */
	uint8_t *head_bytes;     /* what head points into */
	TAILQ_ENTRY(transfer) link;
};

TAILQ_HEAD(transfers, transfer);

struct transfer *transfer_find(struct transfers *list, const struct owner *o, bool import, const char *id, size_t id_length);

/* Takes the descriptor, or closes it and returns NULL: the owner has too many. */
struct transfer *transfer_new(struct transfers *list, const struct owner *o, bool import, const char *id, size_t id_length, int fd);
void transfer_free(struct transfers *list, struct transfer *t); /* nobody uses it */

/* Ends those that nobody has asked about for a minute. */
void transfers_expire(struct transfers *list);
void transfers_done(struct transfers *list);

#endif
