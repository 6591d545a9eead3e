/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompt-lookup speculation: where a session's last tokens have stood before in its own log, what followed them there is
 * drafted to follow again, and the drafted tokens are computed in the same step as the token they follow. A token is a function
 * of what stands before it, so each drafted one that equals the token drawn in its place is that token, and the step has
 * brought several. One that differs is overwritten. So no bytes depend on what is drafted, only time does.
 *
 * Where the last tokens have stood is looked up in a table of one entry a hash of SPECULATE_GRAM tokens, kept up with the log
 * in O(1) a token; a later place replaces an earlier one. A new view of a session builds it from the log.
 *
 * Drafting pays for itself, session by session: rows that are drafted cost, tokens that come of them earn, both counted in
 * tokens of the session, and what may be spent is what has been earned, up to SPECULATE_CREDIT. Each token earns 1/64 besides:
 * that pays for a try now and then, and is all that a session can lose whose text never repeats itself.
 */
#ifndef FALCON_ENGINE_SPECULATE_H
#define FALCON_ENGINE_SPECULATE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	SPECULATE_GRAM = 3,   /* tokens that must have stood together before */
	SPECULATE_MOST = 15,  /* tokens drafted a step: 16 rows, a whole number of every kernel's tiles */
	SPECULATE_CREDIT = 4, /* tokens */
};

struct speculate {
	uint32_t *ends;   /* [mask + 1] where a gram with this hash ended last, 0: nowhere; NULL: never drafts */
	uint32_t mask;
	uint32_t indexed; /* grams that end at or before this position are in the table */
	uint32_t length;  /* tokens worth drafting next */
	float credit;     /* tokens */
};

/* For a log of at most n_most tokens. At most 64 KiB are taken: in longer logs older places give way. */
void speculate_init(struct speculate *s, uint32_t n_most);
void speculate_done(struct speculate *s);

/*
 * Drafts up to `most` tokens to follow log[0, n) and writes them behind it, where there must be room for them. Returns how many:
 * 0 where the last tokens have not stood together before.
 */
uint32_t speculate_draft(struct speculate *s, int32_t *log, uint32_t n, uint32_t most);

/* A step drafted so many tokens at the price of `cost` tokens, and so many of them were right. */
void speculate_learn(struct speculate *s, uint32_t drafted, uint32_t right, float cost);

#endif
