/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte-level BPE vocabulary on its way from a model's files to the tables of shm/weights.h. Both kinds of file write a
 * token's bytes in GPT-2's alphabet of 256 printable characters, and a merge as two tokens written in it; here the alphabet
 * is undone and the merges become ids.
 */
#ifndef FALCON_PACK_VOCAB_H
#define FALCON_PACK_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "pack/names.h"
#include "shm/weights.h"

struct vocab_token {
	const char *text; /* as the file writes it; NULL: no such token */
	uint32_t length;
	uint8_t kind; /* enum weights_token_kind; the text of CONTROL and ADDED tokens is literal */
};

struct vocab {
	struct weights_tokenizer head; /* pre, flags, bos, eos; the counts are filled in by vocab_blob() */
	struct vocab_token *tokens;
	uint32_t n_tokens;
	struct names index; /* text -> id */
	struct weights_merge *merges;
	uint32_t n_merges;
};

enum { VOCAB_TOKENS = 1 << 22, VOCAB_TEXT = 65536 };

/* An empty vocabulary of n tokens (at most VOCAB_TOKENS): no texts, no bos, no eos. */
void vocab_init(struct vocab *v, uint32_t n);
void vocab_done(struct vocab *v);

/* Gives token `id` its text, which must outlive v. 0, or -EINVAL with e set: out of range, too long, or there already. */
int vocab_set(struct vocab *v, uint64_t id, const char *text, size_t length, enum weights_token_kind kind, struct err *e);

/* Room for n merges, then each in its turn. The joined text must be a token as well. 0, or -EINVAL with e set. */
void vocab_reserve_merges(struct vocab *v, uint32_t n);
int vocab_merge(struct vocab *v, const char *left, size_t left_length, const char *right, size_t right_length, struct err *e);
/* "left right" with the one space between them. */
int vocab_merge_line(struct vocab *v, const char *line, size_t length, struct err *e);

/* Adds an end-of-text token, once; the ninth different one is refused. `key` names where it comes from. 0 or -EINVAL. */
int vocab_add_eos(struct vocab *v, const char *key, int64_t id, struct err *e);
int vocab_set_bos(struct vocab *v, const char *key, int64_t id, struct err *e);

/* Appends the tables to ret_blob. 0, or -EINVAL if a merge is there twice. */
int vocab_blob(struct vocab *v, struct buf *ret_blob, struct err *e);

/* Appends the tables of a model without a tokenizer. */
void vocab_blob_none(struct buf *ret_blob);

#endif
