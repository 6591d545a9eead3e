/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers for tests. */
#ifndef FALCON_TESTS_SUPPORT_BLOB_H
#define FALCON_TESTS_SUPPORT_BLOB_H

#include "base/mem.h"
#include "shm/weights.h"
#include "text/tokenizer.h"

/*
 * The tokenizer of a tokenizer.json as the packer reads it, but with this pre-split (WEIGHTS_PRE_NONE: the file's own). Fails
 * the program if there is none.
 */
struct tokenizer *blob_tokenizer(const char *path, enum weights_pre pre);

/* Makes tables of header->n_tokens tokens (NUL-terminated), their kinds and header->n_merges merges. */
void blob_from_tokens(const struct weights_tokenizer *header, const char *const *tokens, const uint8_t *kinds,
	const struct weights_merge *merges, struct buf *ret_blob);

#endif
