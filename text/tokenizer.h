/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte-level BPE from the tables of a weights image (struct weights_tokenizer). A tokenizer may be used by several threads at
 * once.
 */
#ifndef FALCON_TEXT_TOKENIZER_H
#define FALCON_TEXT_TOKENIZER_H

#include <stdbool.h>

#include "base/err.h"
#include "base/mem.h"
#include "shm/weights.h"

struct tokenizer;

/* Copies what it needs out of tables [blob, blob + size), as at header.tokenizer_offset, after checking them. 0 or -EINVAL. */
int tokenizer_new(const void *blob, size_t size, struct tokenizer **ret, struct err *e);

/* The same for turning ids into text alone, in a small part of the time: neither tokenizer_encode() nor tokenizer_find(). */
int tokenizer_new_words(const void *blob, size_t size, struct tokenizer **ret, struct err *e);
void tokenizer_free(struct tokenizer *t);

/*
 * Appends the ids of `text` (any bytes; NUL included) to list. `special`: control tokens written out in the text become their
 * ids; otherwise their text is ordinary text. No BOS is added. O(n log n). A byte for which the vocabulary has no token is left
 * out, as the reference does (Falcon's own lacks 14 control characters such as VT, and 14 bytes that UTF-8 never has). On an error
 * (a text too long to be matched) list is as it was.
 */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, bool special, struct ids *list, struct err *e);

/* The bytes of one token (raw; a part of a UTF-8 character may be one token), or NULL if there is no such id. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *ret_length);

/* Id of a token by its exact text, control tokens included; -1 if there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t length);

enum weights_token_kind tokenizer_kind(const struct tokenizer *t, int32_t id);
uint32_t tokenizer_size(const struct tokenizer *t);
bool tokenizer_is_eos(const struct tokenizer *t, int32_t id);
int32_t tokenizer_bos(const struct tokenizer *t); /* -1: none, or the model's files do not say that prompts start with it */

#endif
