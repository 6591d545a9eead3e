/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cursor over untrusted little-endian bytes. Every read is bounds-checked; the first that does not fit makes the reader
 * fail for good and gives zeros, so that a parser may check once after a group of fields.
 */
#ifndef FALCON_BASE_READER_H
#define FALCON_BASE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct reader {
	const uint8_t *data;
	size_t size, at; /* at <= size, always */
	bool failed;
};

static inline struct reader reader_over(const void *data, size_t size)
{
	return (struct reader){.data = data, .size = size};
}

/* The next n bytes, or NULL (and failed) if there are fewer. */
static inline const uint8_t *reader_take(struct reader *r, uint64_t n)
{
	if (r->failed || n > r->size - r->at) {
		r->failed = true;
		return NULL;
	}
	const uint8_t *p = r->data + r->at;
	r->at += (size_t)n;
	return p;
}

static inline uint64_t reader_uint(struct reader *r, size_t bytes)
{
	uint64_t value = 0;
	const uint8_t *p = reader_take(r, bytes);
	if (p != NULL)
		memcpy(&value, p, bytes);
	return value;
}

static inline uint8_t reader_u8(struct reader *r) { return (uint8_t)reader_uint(r, 1); }
static inline uint16_t reader_u16(struct reader *r) { return (uint16_t)reader_uint(r, 2); }
static inline uint32_t reader_u32(struct reader *r) { return (uint32_t)reader_uint(r, 4); }
static inline uint64_t reader_u64(struct reader *r) { return reader_uint(r, 8); }

#endif
