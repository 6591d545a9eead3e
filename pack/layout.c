/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strips are transposed in words: four bytes of codes (four columns of Q8_0, two times four of the 4-bit types) stay together,
 * so a block is a 16 x n transposition of 32-bit words beside one of scales, and nothing is unpacked. The formats of the
 * source, a block of 32 columns of one row each:
 *
 *	Q8_0  f16 d | 32 signed bytes
 *	Q4_0  f16 d | 16 bytes: column j low, column j + 16 high
 *	Q4_1  f16 d | f16 m | 16 bytes as Q4_0
 *	Q5_0  f16 d | 32 bits: bit 4 of column j at bit j | 16 bytes as Q4_0
 *	Q5_1  f16 d | f16 m | 32 bits | 16 bytes
 */
#include "pack/layout.h"

#include <string.h>

#include "base/check.h"
#include "base/f16.h"
#include "pack/source.h"
#include "shm/weights.h"

enum { STRIP = WEIGHTS_STRIP };

/* Inlined wherever it is called, with the type and a full strip's 16 rows known. */
#define INLINE static inline __attribute__((always_inline))

static inline uint16_t load16(const uint8_t *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof v);
	return v;
}

static inline uint32_t load32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* 16-bit values at offset `at` of the n rows' blocks, to the head of out. Returns where the next section begins. */
static inline uint8_t *put16(const uint8_t *const row[STRIP], uint32_t n, size_t at, uint8_t *out)
{
	uint16_t v[STRIP] = {0};
	for (uint32_t r = 0; r < n; r++)
		v[r] = load16(row[r] + at);
	memcpy(out, v, sizeof v);
	return out + sizeof v;
}

/* `groups` words at offset `at` of the n rows' blocks, group by group. */
static inline uint8_t *put32(const uint8_t *const row[STRIP], uint32_t n, size_t at, uint32_t groups, uint8_t *out)
{
	for (uint32_t g = 0; g < groups; g++, out += 4 * STRIP) {
		uint32_t v[STRIP] = {0};
		for (uint32_t r = 0; r < n; r++)
			v[r] = load32(row[r] + at + 4 * g);
		memcpy(out, v, sizeof v);
	}
	return out;
}

/* Bits 0, 4, 8 .. 28 of x to bits 0 .. 7. */
static inline uint32_t every_fourth(uint32_t x)
{
	x &= 0x11111111u;
	x = (x | x >> 3) & 0x03030303u;
	x = (x | x >> 6) & 0x000f000fu;
	return (x | x >> 12) & 0xffu;
}

/* High bits: source bit 4g + c of a row goes to bit g of byte c of the row's word. */
static inline uint8_t *put_high(const uint8_t *const row[STRIP], uint32_t n, size_t at, uint8_t *out)
{
	uint32_t v[STRIP] = {0};
	for (uint32_t r = 0; r < n; r++) {
		uint32_t bits = load32(row[r] + at);
		v[r] = every_fourth(bits) | every_fourth(bits >> 1) << 8 | every_fourth(bits >> 2) << 16 |
		       every_fourth(bits >> 3) << 24;
	}
	memcpy(out, v, sizeof v);
	return out + sizeof v;
}

/* One block of a strip; row[] points at its source blocks. */
INLINE uint8_t *put_block(uint32_t type, const uint8_t *const row[STRIP], uint32_t n, uint8_t *out)
{
	out = put16(row, n, 0, out);
	switch (type) {
	case WEIGHTS_Q8_0:
		return put32(row, n, 2, 8, out);
	case WEIGHTS_Q4_0:
		return put32(row, n, 2, 4, out);
	case WEIGHTS_Q4_1:
		out = put16(row, n, 2, out);
		return put32(row, n, 4, 4, out);
	case WEIGHTS_Q5_0:
		out = put32(row, n, 6, 4, out);
		return put_high(row, n, 2, out);
	default: /* WEIGHTS_Q5_1 */
		out = put16(row, n, 2, out);
		out = put32(row, n, 8, 4, out);
		return put_high(row, n, 4, out);
	}
}

INLINE void put_blocks(uint32_t type, const uint8_t *row[STRIP], uint32_t n, uint32_t cols, uint8_t *out)
{
	size_t step = (size_t)source_row_bytes(type, WEIGHTS_BLOCK);
	for (uint32_t b = 0; b < cols / WEIGHTS_BLOCK; b++) {
		out = n == STRIP ? put_block(type, row, STRIP, out) : put_block(type, row, n, out);
		for (uint32_t r = 0; r < n; r++)
			row[r] += step;
	}
}

/* Dense strips: for each column the 16 rows' values. */
static void put_dense16(const uint8_t *const row[STRIP], uint32_t n, uint32_t cols, uint8_t *out)
{
	for (uint32_t c = 0; c < cols; c++)
		out = n == STRIP ? put16(row, STRIP, 2 * (size_t)c, out) : put16(row, n, 2 * (size_t)c, out);
}

static void put_dense32(const uint8_t *const row[STRIP], uint32_t n, uint32_t cols, uint8_t *out)
{
	if (n == STRIP)
		put32(row, STRIP, 0, cols, out);
	else
		put32(row, n, 0, cols, out);
}

static void put_strip(uint32_t type, const uint8_t *row[STRIP], uint32_t n, uint32_t cols, uint8_t *out)
{
	switch (type) {
	case WEIGHTS_F32:
		put_dense32(row, n, cols, out);
		break;
	case WEIGHTS_F16:
	case WEIGHTS_BF16:
		put_dense16(row, n, cols, out);
		break;
	case WEIGHTS_Q8_0:
		put_blocks(WEIGHTS_Q8_0, row, n, cols, out);
		break;
	case WEIGHTS_Q4_0:
		put_blocks(WEIGHTS_Q4_0, row, n, cols, out);
		break;
	case WEIGHTS_Q4_1:
		put_blocks(WEIGHTS_Q4_1, row, n, cols, out);
		break;
	case WEIGHTS_Q5_0:
		put_blocks(WEIGHTS_Q5_0, row, n, cols, out);
		break;
	default:
		CHECK(type == WEIGHTS_Q5_1);
		put_blocks(WEIGHTS_Q5_1, row, n, cols, out);
	}
}

void layout_strips(uint32_t type, const uint8_t *source, const struct row_map *map, uint32_t rows, uint32_t cols,
		   uint32_t strip, uint32_t n, uint8_t *out)
{
	uint64_t row_bytes = source_row_bytes(type, cols), strip_bytes = weights_strip_bytes(type, cols);
	for (uint32_t s = strip; s < strip + n; s++) {
		const uint8_t *row[STRIP];
		uint32_t first = s * STRIP, valid = rows - first < STRIP ? rows - first : STRIP;
		for (uint32_t r = 0; r < valid; r++)
			row[r] = source + row_map_at(map, first + r) * row_bytes;
		put_strip(type, row, valid, cols, out + s * strip_bytes);
	}
}

void layout_vector(uint32_t type, const uint8_t *source, const struct row_map *map, uint32_t n, float *out)
{
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *p = source + row_map_at(map, i) * (type == WEIGHTS_F32 ? 4 : 2);
		if (type == WEIGHTS_F32)
			out[i] = f32_from_bits(load32(p));
		else
			out[i] = type == WEIGHTS_F16 ? f32_from_f16(load16(p)) : f32_from_bf16(load16(p));
	}
}
