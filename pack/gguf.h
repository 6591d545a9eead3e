/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GGUF container, versions 2 and 3: typed metadata and a table of tensors, little endian. Nothing here knows a model.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
#ifndef FALCON_PACK_GGUF_H
#define FALCON_PACK_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "pack/names.h"
#include "pack/source.h"

enum gguf_type {
	GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
	GGUF_I64, GGUF_F64, GGUF_TYPES
};

/* A metadata value: n items of a type (n is 1 unless it is an array), lying at data[0 .. size). */
struct gguf_value {
	uint32_t type; /* enum gguf_type of the items; never GGUF_ARRAY */
	bool array;
	uint64_t n;
	const uint8_t *data;
	uint64_t size;
};

struct gguf {
	const char *file; /* for messages */
	const uint8_t *data;
	uint64_t size;
	struct gguf_value *values;
	struct names keys;
};

/*
 * Reads metadata into *g and tensors into *s from [data, data + size), which must outlive both. 0 or -EINVAL with e set; in
 * either case gguf_close() and source_done() release what was made.
 */
int gguf_open(const void *data, size_t size, const char *file, struct gguf *g, struct source *s, struct err *e);
void gguf_close(struct gguf *g);

/* The value of a key, or NULL. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);

/*
 * A scalar of a key. 0, -ENOENT (not there: *ret is left as it is and e untouched), or -EINVAL with e set if it has another
 * type or does not fit. Integers of every width are taken, as writers differ.
 */
int gguf_u32(const struct gguf *g, const char *key, uint32_t *ret, struct err *e);
int gguf_f32(const struct gguf *g, const char *key, float *ret, struct err *e);
int gguf_bool(const struct gguf *g, const char *key, bool *ret, struct err *e);
int gguf_string(const struct gguf *g, const char *key, const char **ret, size_t *ret_length, struct err *e);

/*
 * The tokenizer of a GGUF file as the tables of shm/weights.h, appended to ret_blob; for a file without one, empty tables
 * (WEIGHTS_PRE_NONE). Reads the whole file. 0 or -EINVAL. (pack/gguf_tokenizer.c)
 */
int gguf_tokenizer_blob(const void *data, size_t length, struct buf *ret_blob, struct err *e);
int gguf_tokenizer(const struct gguf *g, struct buf *ret_blob, struct err *e);

#endif
