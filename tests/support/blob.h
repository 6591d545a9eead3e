/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizer tables (shm/weights.h) for tests, of a tokenizer.json and without pack/. */
#ifndef FALCON_TESTS_SUPPORT_BLOB_H
#define FALCON_TESTS_SUPPORT_BLOB_H

#include "base/mem.h"
#include "shm/weights.h"
#include "text/tokenizer.h"

/* Makes tables with this pre-split and these flags of the file at path. Fails the test if it cannot. */
void blob_from_json(const char *path, enum weights_pre pre, uint32_t flags, struct buf *ret_blob);

/* The tokenizer of blob_from_json(). */
struct tokenizer *blob_tokenizer(const char *path, enum weights_pre pre, uint32_t flags);

/* Makes tables of n tokens (NUL-terminated) and merges. */
void blob_from_tokens(const struct weights_tokenizer *header, const char *const *tokens, const uint8_t *kinds,
	const struct weights_merge *merges, struct buf *ret_blob);

#endif
