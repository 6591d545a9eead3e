/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token logs: what is left of sessions when the rest of their board is of another version or cannot be trusted. A record says by
 * itself that it is one and where it stands, at a multiple of 4,096 bytes, so they are found by looking at the segment's data.
 */
#ifndef FALCON_DAEMON_TOKENLOG_H
#define FALCON_DAEMON_TOKENLOG_H

#include "shm/board.h"

struct tokenlog {
	struct board_record record; /* its terms are whole; n_tokens is the length of ids */
	int32_t *ids;               /* [record.n_tokens] */
	void *probs;                /* entries of [record.n_given, record.n_tokens), if its flags say so; NULL: none, or lost */
};

struct tokenlogs {
	struct tokenlog *list;
	uint32_t n, capacity;
};

/*
 * Reads the token logs of the segment `fd`, which nobody writes. Lengths and counts are within bounds; everything else is as it
 * stood there. Never fails: what cannot be read is not there.
 */
void tokenlog_read(int fd, struct tokenlogs *ret);
void tokenlog_done(struct tokenlogs *l);

/*
 * Whether the session can go on over this board and vocabulary: its record (board_record_check), name, length and ids. 0 or
 * -EINVAL.
 */
int tokenlog_check(const struct tokenlog *l, const struct board *b, uint32_t n_vocab, struct err *e);

#endif
