/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-split: cuts text into the pieces that merges never reach across. text/ alone includes this. */
#ifndef FALCON_TEXT_SPLIT_H
#define FALCON_TEXT_SPLIT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "shm/weights.h"

struct split {
	/* shared by all threads */
	pcre2_code *code;             /* matches one piece at the offset it is given */
	pcre2_match_context *limits;
	bool digit_bytes;             /* then cut each piece at digits, as split.c says */
};

/* Takes one piece, never empty. Nonzero ends the split and is returned by split_text. */
typedef int split_take(void *context, const char *piece, size_t length);

/* 0, or -EINVAL for a pre-split that is not known here. */
int split_init(struct split *s, uint32_t pre, struct err *e);
void split_done(struct split *s);

/*
 * Hands the pieces of text, which is valid UTF-8, to `take` in order; together they are the text. `match` is the caller's
 * (room for one pair) and no other thread's meanwhile. 0, what `take` returned, or -E2BIG for a piece that is beyond what PCRE2
 * can match (hundreds of megabytes).
 */
int split_text(const struct split *s, pcre2_match_data *match, const char *text, size_t length, split_take *take,
	void *context);

#endif
