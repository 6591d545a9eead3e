/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products as docs/ARITHMETIC.md defines them, in plain C: the specification of every other version.
 *
 * Quantised weights meet quantised activations: within a block of 32 columns the sum is an exact integer, so its order does not
 * matter; blocks are added to the output's sum in ascending order, by one FMA each. Dense weights meet the activations as they
 * are, one FMA a column, in ascending order.
 */
#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "kernels/matmul.h"

static uint16_t half_at(const uint8_t *p, uint32_t i)
{
	uint16_t h;
	memcpy(&h, p + 2 * i, sizeof h);
	return h;
}

/* The code of row r (0..15), column c (0..31) of a block, its offset subtracted. */
static int32_t code_at(const uint8_t *block, struct matmul_block b, uint32_t type, uint32_t r, uint32_t c)
{
	uint32_t group = c / 4, byte = r * 4 + c % 4;
	if (type == WEIGHTS_Q8_0)
		return (int8_t)block[b.codes + group * 64 + byte];
	uint8_t pair = block[b.codes + group % 4 * 64 + byte];
	int32_t code = group < 4 ? pair & 15 : pair >> 4;
	if (b.high)
		code |= (block[b.high + byte] >> group & 1) << 4;
	return code - b.offset;
}

/* Largest |x| of a block as bits (integers order like magnitudes); above the bits of infinity it is a NaN. */
static uint32_t largest_bits(const float *x)
{
	uint32_t largest = 0;
	for (int c = 0; c < WEIGHTS_BLOCK; c++) {
		uint32_t bits = f32_bits(x[c]) & 0x7fffffffu;
		largest = bits > largest ? bits : largest;
	}
	return largest;
}

static float quantise_block(const float *x, int32_t q[WEIGHTS_BLOCK])
{
	float largest = f32_from_bits(largest_bits(x));
	if (largest < 0x1p-100f) {
		memset(q, 0, WEIGHTS_BLOCK * sizeof *q);
		return 0.0f;
	}
	float inverse = 127.0f / largest;
	for (int c = 0; c < WEIGHTS_BLOCK; c++) {
		float rounded = rintf(x[c] * inverse);
		q[c] = (int32_t)(rounded > 127.0f ? 127.0f : rounded < -127.0f ? -127.0f : rounded);
	}
	return largest / 127.0f;
}

static void place_codes(struct kernels_activations *a, uint32_t t, uint32_t b, const int32_t q[WEIGHTS_BLOCK], float d)
{
	uint32_t group = kernels_group(a->n), lane = t % group;
	size_t block = (size_t)(t / group) * (a->cols / WEIGHTS_BLOCK) + b;
	int8_t *codes = a->q + block * WEIGHTS_BLOCK * group;
	int16_t *sum = a->sum + (block * group + lane) * 2;
	sum[0] = sum[1] = 0;
	for (uint32_t c = 0; c < WEIGHTS_BLOCK; c++) {
		codes[(c / 4 * group + lane) * 4 + c % 4] = (int8_t)q[c];
		sum[c % 4 / 2] = (int16_t)(sum[c % 4 / 2] + q[c]);
	}
	a->d[block * group + lane] = d;
	a->dsum[block * group + lane] = d * (float)(sum[0] + sum[1]);
}

bool quantise_c(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a)
{
	uint32_t end = first + count, group = kernels_group(a->n), padded = (end + group - 1) / group * group;
	bool finite = true;
	for (uint32_t t = first; t < padded; t++) {
		for (uint32_t b = 0; b < a->cols / WEIGHTS_BLOCK; b++) {
			int32_t q[WEIGHTS_BLOCK] = {0};
			const float *block = x + t * ldx + b * WEIGHTS_BLOCK;
			bool good = t < end && largest_bits(block) < 0x7f800000u;
			float d = good ? quantise_block(block, q) : 0.0f;
			finite &= good || t >= end;
			place_codes(a, t, b, q, d);
		}
	}
	return finite;
}

/* acc after all blocks of one row and one token. */
static float dot_quantised(const uint8_t *strip, struct matmul_block b, uint32_t type, uint32_t r,
			   const struct kernels_activations *a, uint32_t t, float acc)
{
	uint32_t n_blocks = a->cols / WEIGHTS_BLOCK, group = kernels_group(a->n), lane = t % group;
	for (uint32_t k = 0; k < n_blocks; k++, strip += b.bytes) {
		size_t block = (size_t)(t / group) * n_blocks + k;
		const int8_t *q = a->q + block * WEIGHTS_BLOCK * group + lane * 4;
		float da = a->d[block * group + lane];
		int32_t i = 0;
		for (uint32_t c = 0; c < WEIGHTS_BLOCK; c++)
			i += code_at(strip, b, type, r, c) * q[c / 4 * group * 4 + c % 4];
		acc = fmaf(f32_from_f16(half_at(strip, r)) * da, (float)i, acc);
		if (b.minima)
			acc = fmaf(f32_from_f16(half_at(strip + b.minima, r)), a->dsum[block * group + lane], acc);
	}
	return acc;
}

static uint32_t rows_of_strip(const struct kernels_matrix *m, uint32_t strip)
{
	uint32_t left = m->rows - strip * WEIGHTS_STRIP;
	return left < WEIGHTS_STRIP ? left : WEIGHTS_STRIP;
}

void matmul_c(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a, float *out,
	      size_t ldo, bool more, void *scratch)
{
	(void)scratch;
	struct matmul_block b = matmul_block(m->type);
	uint64_t stride = weights_strip_bytes(m->type, m->cols);
	for (uint32_t s = strip; s < strip + n_strips; s++)
		for (uint32_t t = 0; t < a->n; t++)
			for (uint32_t r = 0; r < rows_of_strip(m, s); r++) {
				float *o = out + t * ldo + s * WEIGHTS_STRIP + r;
				*o = dot_quantised(m->data + s * stride, b, m->type, r, a, t, more ? *o : 0.0f);
			}
}

/* Row r (0..15) of column c of a dense strip. */
static float dense_at(const uint8_t *strip, uint32_t type, uint32_t r, uint32_t c)
{
	size_t i = (size_t)c * WEIGHTS_STRIP + r;
	if (type == WEIGHTS_F32) {
		float f;
		memcpy(&f, strip + 4 * i, sizeof f);
		return f;
	}
	uint16_t h;
	memcpy(&h, strip + 2 * i, sizeof h);
	return type == WEIGHTS_F16 ? f32_from_f16(h) : f32_from_bf16(h);
}

void matmul_dense_c(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx, uint32_t n,
		    float *out, size_t ldo, bool more, void *scratch)
{
	(void)scratch;
	uint64_t stride = weights_strip_bytes(m->type, m->cols);
	for (uint32_t s = strip; s < strip + n_strips; s++)
		for (uint32_t t = 0; t < n; t++)
			for (uint32_t r = 0; r < rows_of_strip(m, s); r++) {
				float *o = out + t * ldo + s * WEIGHTS_STRIP + r, acc = more ? *o : 0.0f;
				for (uint32_t c = 0; c < m->cols; c++)
					acc = fmaf(dense_at(m->data + s * stride, m->type, r, c), x[t * ldx + c], acc);
				*o = acc;
			}
}

void row_c(const struct kernels_matrix *m, uint32_t row, float *out)
{
	const uint8_t *strip = m->data + row / WEIGHTS_STRIP * weights_strip_bytes(m->type, m->cols);
	uint32_t r = row % WEIGHTS_STRIP;
	if (m->type <= WEIGHTS_BF16) {
		for (uint32_t c = 0; c < m->cols; c++)
			out[c] = dense_at(strip, m->type, r, c);
		return;
	}
	struct matmul_block b = matmul_block(m->type);
	for (uint32_t c = 0; c < m->cols; c++) {
		const uint8_t *block = strip + c / WEIGHTS_BLOCK * b.bytes;
		float d = f32_from_f16(half_at(block, r)), code = (float)code_at(block, b, m->type, r, c % WEIGHTS_BLOCK);
		out[c] = b.minima ? fmaf(d, code, f32_from_f16(half_at(block + b.minima, r))) : d * code;
	}
}
