/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attention topic's functions, one set a suffix (c, avx2, avx512), the scratch they need, and the two formulas that every
 * version computes for ALiBi.
 */
#ifndef FALCON_KERNELS_ATTENTION_H
#define FALCON_KERNELS_ATTENTION_H

#include <math.h>

#include "base/f16.h"
#include "kernels/kernels.h"

#define ATTENTION_DECLARE(suffix)                                                                                              \
	void attend_##suffix(const struct kernels_cache *cache, uint32_t first, const float *q, const uint32_t *length,        \
			     const float *slope, uint32_t rows, struct kernels_partial out, void *scratch);

ATTENTION_DECLARE(c)
ATTENTION_DECLARE(avx2)
ATTENTION_DECLARE(avx512)

/* Bytes for one page of keys and of values in f32, and for each row its weights of a page, three floats, and its codes. */
static inline size_t attention_scratch_bytes(uint32_t head_dim, uint32_t rows)
{
	return (2 * ((size_t)head_dim + 1) * PAGE_TOKENS + (size_t)rows * (PAGE_TOKENS + 3 + head_dim)) * sizeof(float);
}

/*
 * The scale d of n floats as 8-bit codes, x ~ d * code, and what attention_code() multiplies by. A value that is not finite
 * makes the scale a NaN, which every score and value of the token then is.
 */
static inline float attention_code_scale(const float *x, size_t n, float *ret_factor)
{
	uint32_t largest = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t bits = f32_bits(x[i]) & 0x7fffffffu;
		largest = bits > largest ? bits : largest;
	}
	float a = f32_from_bits(largest);
	*ret_factor = a >= 0x1p-100f && a < INFINITY ? 127.0f / a : 0.0f;
	return largest >= 0x7f800000u ? NAN : *ret_factor == 0.0f ? 0.0f : a / 127.0f;
}

/* A code as a float: products of two and sums of up to 1,040 products are integers below 2^24, exact in any order. */
static inline float attention_code(float x, float factor)
{
	return factor == 0.0f ? 0.0f : (x * factor + 0x1.8p23f) - 0x1.8p23f;
}

/* log2(e) / sqrt(head_dim), rounded once: what queries are scaled by, and biases too. */
static inline float attention_scale(uint32_t head_dim)
{
	return (float)(0x1.71547652b82fep0 / sqrt((double)head_dim));
}

/* What ALiBi adds to the score of a position: the reference's product in bfloat16, times attention_scale(). */
static inline float attention_bias(float slope, uint32_t position, float scale)
{
	float product = f32_from_bf16(bf16_from_f32(slope)) * f32_from_bf16(bf16_from_f32((float)position));
	return f32_from_bf16(bf16_from_f32(product)) * scale;
}

#endif
