/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of a run by cursor. Text(c) is a pure function of the token log (text/ending.h); what is kept here is a cache of it:
 * the text so far, and for each position how much of it may be sent. It can be thrown away at any time.
 */
#ifndef FALCON_DAEMON_STREAM_H
#define FALCON_DAEMON_STREAM_H

#include "text/ending.h"

struct stream {
	struct ending ending;
	uint32_t n_given;  /* of the run that the cache is of */
	struct board_record *terms; /* a copy of the run's: what stands on the board may be damaged meanwhile */
	uint32_t capacity;
	uint32_t *visible; /* [position - n_given + 1] bytes of Text(n_given + i) */
};

/* The log of a run, which begins at n_given, by the terms of r. */
struct stream_run {
	const struct board_record *r;
	const int32_t *log;
	uint32_t n_given, n_tokens;
};

/*
 * Brings the cache to n_tokens of the log, from scratch if it is of another run. t may be NULL: there is no text then.
 * Positions [n_given, n_tokens) of the log are read.
 */
void stream_follow(struct stream *s, const struct tokenizer *t, const struct stream_run *run);

/*
 * Appends to out the text of (from, to]: Text(to) without Text(from), or with `rest` all that is left of the run's text after
 * Text(from). n_given <= from <= to <= the position that was followed to. Always valid UTF-8.
 */
void stream_text(const struct stream *s, uint32_t from, uint32_t to, bool rest, struct buf *out);

void stream_done(struct stream *s); /* may be used again afterwards */

#endif
