/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over one span, row by row, page by page: the text of docs/ARITHMETIC.md as plain C. Online softmax keeps, for each
 * row, the largest score m seen so far, the sum l of exp2(score - m), and o, the sum of values weighted likewise.
 *
 * A token at or beyond a row's length is never multiplied: its key and value are whatever the page held before, and
 * 0 * NaN is NaN.
 */
#include <math.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/elementary.h"

static void widen(const void *half, uint32_t kv, size_t n, float *out)
{
	if (kv == PAGES_F32) {
		memcpy(out, half, n * sizeof *out);
		return;
	}
	const uint16_t *in = half;
	for (size_t i = 0; i < n; i++)
		out[i] = f32_from_f16(in[i]);
}

static float tree(const float e[PAGE_TOKENS])
{
	float u[8];
	for (int j = 0; j < 8; j++)
		u[j] = (e[j] + e[j + 8]) + (e[j + 16] + e[j + 24]);
	return ((u[0] + u[4]) + (u[2] + u[6])) + ((u[1] + u[5]) + (u[3] + u[7]));
}

/* One row and the first n tokens of one page: keys [head_dim][32], values [32][head_dim]. position: of the page's first token.
 */
static void row_page(const float *keys, const float *values, const float *q, uint32_t head_dim, uint32_t n, const float *slope,
		     uint32_t position, float *m, float *l, float *o)
{
	float s[PAGE_TOKENS], e[PAGE_TOKENS] = {0}, largest = *m;
	for (uint32_t t = 0; t < n; t++) {
		s[t] = 0.0f;
		for (uint32_t d = 0; d < head_dim; d++)
			s[t] = fmaf(q[d], keys[d * PAGE_TOKENS + t], s[t]);
		if (slope)
			s[t] += attention_bias(*slope, position + t, attention_scale(head_dim));
		largest = s[t] > largest ? s[t] : largest;
	}
	largest += 0.0f; /* a largest score of -0 is +0, whichever of equal ones is met first */
	float c = elementary_exp2(*m - largest);
	for (uint32_t t = 0; t < n; t++)
		e[t] = elementary_exp2(s[t] - largest);
	*m = largest;
	*l = fmaf(*l, c, tree(e));
	for (uint32_t d = 0; d < head_dim; d++) {
		o[d] *= c;
		for (uint32_t t = 0; t < n; t++)
			o[d] = fmaf(e[t], values[t * head_dim + d], o[d]);
	}
}

void attend_c(const struct kernels_cache *cache, uint32_t first, const float *q, const uint32_t *length, const float *slope,
	      uint32_t rows, struct kernels_partial out, void *scratch)
{
	size_t dim = cache->head_dim;
	float *keys = scratch, *values = keys + dim * PAGE_TOKENS;
	uint32_t longest = 0;
	for (uint32_t r = 0; r < rows; r++) {
		out.m[r] = -INFINITY;
		out.l[r] = 0.0f;
		memset(out.o + r * dim, 0, dim * sizeof *out.o);
		longest = length[r] > longest ? length[r] : longest;
	}
	for (uint32_t at = first; at < first + KERNELS_SPAN && at < longest; at += PAGE_TOKENS) {
		widen(cache->keys[at / PAGE_TOKENS], cache->kv, dim * PAGE_TOKENS, keys);
		widen(cache->values[at / PAGE_TOKENS], cache->kv, dim * PAGE_TOKENS, values);
		for (uint32_t r = 0; r < rows; r++) {
			if (length[r] <= at)
				continue;
			uint32_t n = length[r] - at < PAGE_TOKENS ? length[r] - at : PAGE_TOKENS;
			row_page(keys, values, q + r * dim, cache->head_dim, n, slope ? &slope[r] : NULL, at, &out.m[r],
				 &out.l[r], out.o + r * dim);
		}
	}
}
