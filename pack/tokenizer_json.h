/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer.json, as Hugging Face's tokenizers write it: byte-level BPE with one of the pre-splits that text/ knows.
 * No pattern of the file is ever run: it is compared with those that are known.
 */
#ifndef FALCON_PACK_TOKENIZER_JSON_H
#define FALCON_PACK_TOKENIZER_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"
#include "pack/vocab.h"

/*
 * Appends the tables of shm/weights.h to ret_blob. bos is what the file's own post-processor puts in front, if it does;
 * end-of-text tokens are in other files, so there are none. 0, or -EINVAL with e set: not byte-level BPE, an unknown pre-split
 * (e shows it), a token or merge that is there twice or names what is not there.
 */
int tokenizer_json_blob(const void *json, size_t length, struct buf *ret_blob, struct err *e);

/* The same in two steps: root, a parsed file, must outlive v. vocab_done() in either case. */
int tokenizer_json_read(const json_t *root, struct vocab *v, struct err *e);

#endif
