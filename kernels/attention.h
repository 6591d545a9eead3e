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

/* Bytes for one page of keys and of values in f32, and for each row its weights of a page, their sum and a correction. */
static inline size_t attention_scratch_bytes(uint32_t head_dim, uint32_t rows)
{
	return (2 * ((size_t)head_dim + 1) * PAGE_TOKENS + (size_t)rows * (PAGE_TOKENS + 2)) * sizeof(float);
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
