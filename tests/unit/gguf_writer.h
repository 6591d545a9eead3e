/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes tiny GGUF files into memory. Metadata and tensors are collected apart, because their counts stand in front of both;
 * gguf_finish() puts the parts together.
 */
#ifndef FALCON_TESTS_GGUF_WRITER_H
#define FALCON_TESTS_GGUF_WRITER_H

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

struct gguf_writer {
	struct buf values, infos, data, file;
	uint64_t n_values, n_tensors;
};

static inline void put_u32(struct buf *b, uint32_t v) { buf_add(b, &v, sizeof v); }
static inline void put_u64(struct buf *b, uint64_t v) { buf_add(b, &v, sizeof v); }

static inline void put_string(struct buf *b, const char *text)
{
	put_u64(b, strlen(text));
	buf_add(b, text, strlen(text));
}

static inline void gguf_put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
	put_string(&w->values, key);
	put_u32(&w->values, type);
	w->n_values++;
}

static inline void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
	gguf_put_key(w, key, 4);
	put_u32(&w->values, v);
}

static inline void gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
	gguf_put_key(w, key, 6);
	buf_add(&w->values, &v, sizeof v);
}

static inline void gguf_put_string(struct gguf_writer *w, const char *key, const char *text)
{
	gguf_put_key(w, key, 8);
	put_string(&w->values, text);
}

static inline void gguf_put_strings(struct gguf_writer *w, const char *key, const char *const *texts, uint64_t n)
{
	gguf_put_key(w, key, 9);
	put_u32(&w->values, 8);
	put_u64(&w->values, n);
	for (uint64_t i = 0; i < n; i++)
		put_string(&w->values, texts[i]);
}

/* A tensor of ggml type `type`; rows 0: a vector. Its data (size bytes) are padded to 32. */
static inline void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint64_t rows, uint64_t cols,
				   const void *data, size_t size)
{
	put_string(&w->infos, name);
	put_u32(&w->infos, rows ? 2 : 1);
	put_u64(&w->infos, cols);
	if (rows)
		put_u64(&w->infos, rows);
	put_u32(&w->infos, type);
	put_u64(&w->infos, w->data.length);
	buf_add(&w->data, data, size);
	while (w->data.length % 32)
		buf_add(&w->data, "", 1);
	w->n_tensors++;
}

/* The whole file is w->file then. */
static inline void gguf_finish(struct gguf_writer *w, uint32_t version)
{
	w->file.length = 0;
	buf_add(&w->file, "GGUF", 4);
	put_u32(&w->file, version);
	put_u64(&w->file, w->n_tensors);
	put_u64(&w->file, w->n_values);
	buf_add(&w->file, w->values.data, w->values.length);
	buf_add(&w->file, w->infos.data, w->infos.length);
	while (w->file.length % 32)
		buf_add(&w->file, "", 1);
	buf_add(&w->file, w->data.data, w->data.length);
}

static inline void gguf_writer_done(struct gguf_writer *w)
{
	buf_done(&w->values);
	buf_done(&w->infos);
	buf_done(&w->data);
	buf_done(&w->file);
}

#endif
