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

/* One page, widened. */
struct page {
	float *keys, *values;                   /* [dim][32], [32][dim] */
	const float *key_scales, *value_scales; /* [32] of PAGES_Q8, else NULL */
	uint32_t at;                            /* position of the first token */
	uint32_t dim;
};

/* Widens n elements; what stands behind them. */
static const void *widen(const void *half, uint32_t kv, size_t n, float *out)
{
	const float *f32 = half;
	const uint16_t *f16 = half;
	const int8_t *codes = half;
	for (size_t i = 0; i < n; i++)
		out[i] = kv == PAGES_F32 ? f32[i] : kv == PAGES_F16 ? f32_from_f16(f16[i]) : (float)codes[i];
	return codes + n;
}

static float tree(const float e[PAGE_TOKENS])
{
	float u[8];
	for (int j = 0; j < 8; j++)
		u[j] = (e[j] + e[j + 8]) + (e[j + 16] + e[j + 24]);
	return ((u[0] + u[4]) + (u[2] + u[6])) + ((u[1] + u[5]) + (u[3] + u[7]));
}

/* One row and the first n tokens of one page. With PAGES_Q8 q are codes, and q_scale is theirs. */
static void row_page(const struct page *page, const float *q, float q_scale, uint32_t n, const float *slope, float *m, float *l,
		     float *o)
{
	float s[PAGE_TOKENS], e[PAGE_TOKENS] = {0}, largest = *m;
	for (uint32_t t = 0; t < n; t++) {
		s[t] = 0.0f;
		for (uint32_t d = 0; d < page->dim; d++)
			s[t] = fmaf(q[d], page->keys[d * PAGE_TOKENS + t], s[t]);
		if (page->key_scales)
			s[t] *= q_scale * page->key_scales[t];
		if (slope)
			s[t] += attention_bias(*slope, page->at + t, attention_scale(page->dim));
		largest = s[t] > largest ? s[t] : largest;
	}
	largest += 0.0f; /* a largest score of -0 is +0, whichever of equal ones is met first */
	float c = elementary_exp2(*m - largest);
	for (uint32_t t = 0; t < n; t++)
		e[t] = elementary_exp2(s[t] - largest);
	*m = largest;
	*l = fmaf(*l, c, tree(e));
	for (uint32_t t = 0; page->value_scales && t < n; t++)
		e[t] *= page->value_scales[t];
	for (uint32_t d = 0; d < page->dim; d++) {
		o[d] *= c;
		for (uint32_t t = 0; t < n; t++)
			o[d] = fmaf(e[t], page->values[t * page->dim + d], o[d]);
	}
}

/* Codes of a row's query in place of it. */
static float row_codes(const float *q, uint32_t dim, float *codes)
{
	float factor, scale = attention_code_scale(q, dim, &factor);
	for (uint32_t d = 0; d < dim; d++)
		codes[d] = attention_code(q[d], factor);
	return scale;
}

void attend_c(const struct kernels_cache *cache, uint32_t first, const float *q, const uint32_t *length, const float *slope,
	      uint32_t rows, struct kernels_partial out, void *scratch)
{
	size_t dim = cache->head_dim, elements = dim * PAGE_TOKENS;
	float *codes = (float *)scratch + 2 * elements, scale = 1.0f;
	struct page page = {.keys = scratch, .values = (float *)scratch + elements, .dim = cache->head_dim};
	uint32_t longest = 0;
	for (uint32_t r = 0; r < rows; r++) {
		out.m[r] = -INFINITY;
		out.l[r] = 0.0f;
		memset(out.o + r * dim, 0, dim * sizeof *out.o);
		longest = length[r] > longest ? length[r] : longest;
	}
	for (page.at = first; page.at < first + KERNELS_SPAN && page.at < longest; page.at += PAGE_TOKENS) {
		const void *behind_keys = widen(cache->keys[page.at / PAGE_TOKENS], cache->kv, elements, page.keys);
		const void *behind_values = widen(cache->values[page.at / PAGE_TOKENS], cache->kv, elements, page.values);
		page.key_scales = cache->kv == PAGES_Q8 ? behind_keys : NULL;
		page.value_scales = cache->kv == PAGES_Q8 ? behind_values : NULL;
		for (uint32_t r = 0; r < rows; r++) {
			if (length[r] <= page.at)
				continue;
			uint32_t n = length[r] - page.at < PAGE_TOKENS ? length[r] - page.at : PAGE_TOKENS;
			const float *row = q + r * dim;
			if (cache->kv == PAGES_Q8) {
				scale = row_codes(row, cache->head_dim, codes);
				row = codes;
			}
			row_page(&page, row, scale, n, slope ? &slope[r] : NULL, &out.m[r], &out.l[r], out.o + r * dim);
		}
	}
}
