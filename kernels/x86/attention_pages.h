/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over one span as two small matrix products a page, shared by the vector instruction sets. All rows (query heads of
 * one key/value head x tokens) meet the same keys and values while these stand in the first-level cache, in register tiles of a
 * few rows x 32 columns: the columns are tokens in the first product (scores) and dimensions in the second (weighted values).
 * Both are
 *
 *	c[r][j] = start, then fmaf(a[r][i], b[i][j], c[r][j]) for i ascending
 *
 * so one micro-kernel serves both, lanes are never pieces of one sum, and a row's bits do not depend on its tile. The
 * micro-kernel widens elements on the way; where many tiles would repeat that, a page is staged in f32 once. Eight-bit codes
 * are multiplied as floats too: their sums are integers below 2^24, so exact.
 *
 * Between the two stands the softmax of eight rows at a time: one row's largest score and one row's sum are each a chain of
 * shuffles, those of eight rows a small transposition.
 *
 * The including file gives, before this text:
 *	ATTENTION(op)   its name for op
 *	TILE_ROWS       most rows of a tile: 3 or 8
 *	STAGE(kv, rows) whether pages of this type are staged for so many rows
 *	product(rows, kv, from_zero, a, lda, b, ldb, steps, start, c, ldc)   always inline, the micro-kernel over 32 columns:
 *	                start is +0 or c[r][j] * start[r]; b's elements are of enum pages_kv; rows, kv, from_zero are constants
 *	widen(in, kv, n, out)   always inline, to f32, n a multiple of 16
 */
#include <string.h>

#include "kernels/attention.h"
#include "kernels/elementary.h"

/* One page as the products read it. */
struct page {
	const void *keys, *values;              /* [dim][32], [32][dim] */
	const float *key_scales, *value_scales; /* [32] of PAGES_Q8, else NULL */
	uint32_t kv;                            /* enum pages_kv */
	uint32_t at;                            /* position of the first token */
	uint32_t dim;
};

/* Scratch: the staged page, each part with room to read a whole tile from its last row, then what the softmax leaves. */
struct stage {
	float *keys, *values;
	float *weights;    /* [rows][32] scores, then weights */
	float *correction; /* [rows] */
	float *sum;        /* [rows] of a row's weights */
	float *scale;      /* [rows] of a row's codes, with PAGES_Q8 */
	float *codes;      /* [rows][dim] */
};

/* attention_scratch_bytes() counts these. */
static struct stage stage_at(void *scratch, uint32_t dim, uint32_t rows)
{
	size_t half = (size_t)(dim + 1) * PAGE_TOKENS;
	float *keys = scratch, *weights = keys + 2 * half, *correction = weights + (size_t)rows * PAGE_TOKENS;
	return (struct stage){keys,
			      keys + half,
			      weights,
			      correction,
			      correction + rows,
			      correction + 2 * (size_t)rows,
			      correction + 3 * (size_t)rows};
}

static inline uint32_t visible(uint32_t length, uint32_t at)
{
	return length <= at ? 0 : length - at < PAGE_TOKENS ? length - at : PAGE_TOKENS;
}

/* Element n of a page's half. */
static inline const void *advance(const struct page *page, const void *elements, size_t n)
{
	return (const char *)elements + n * (page->kv == PAGES_F32 ? 4 : page->kv == PAGES_F16 ? 2 : 1);
}

static void stage_part(const void *in, uint32_t kv, uint32_t dim, float *out)
{
	size_t n = (size_t)dim * PAGE_TOKENS;
	if (kv == PAGES_F16)
		widen(in, PAGES_F16, n, out);
	else if (kv == PAGES_Q8)
		widen(in, PAGES_Q8, n, out);
	else
		memcpy(out, in, n * sizeof *out);
}

/* Values are read 32 dimensions at a time: where that would pass a row's end they are staged whatever the type. */
static struct page page_open(const struct kernels_cache *cache, uint32_t at, uint32_t rows, const struct stage *stage)
{
	struct page page = {.keys = cache->keys[at / PAGE_TOKENS],
			    .values = cache->values[at / PAGE_TOKENS],
			    .kv = cache->kv,
			    .at = at,
			    .dim = cache->head_dim};
	if (page.kv == PAGES_Q8) {
		page.key_scales = advance(&page, page.keys, (size_t)page.dim * PAGE_TOKENS);
		page.value_scales = advance(&page, page.values, (size_t)page.dim * PAGE_TOKENS);
	}
	if (page.dim % 32 == 0 && !STAGE(page.kv, rows))
		return page;
	stage_part(page.keys, cache->kv, page.dim, stage->keys);
	stage_part(page.values, cache->kv, page.dim, stage->values);
	page.keys = stage->keys;
	page.values = stage->values;
	page.kv = PAGES_F32;
	return page;
}

/* The micro-kernel for a number of rows and a type known only now. */
static void product_of(uint32_t rows, uint32_t kv, bool from_zero, const float *a, size_t lda, const void *b, size_t ldb,
		       uint32_t steps, const float *start, float *c, size_t ldc)
{
#define START(n, kind)                                                                                                         \
	if (from_zero)                                                                                                         \
		product(n, kind, true, a, lda, b, ldb, steps, start, c, ldc);                                                  \
	else                                                                                                                   \
		product(n, kind, false, a, lda, b, ldb, steps, start, c, ldc)
#define CASE(n)                                                                                                                \
	case n:                                                                                                                \
		if (kv == PAGES_F16) {                                                                                         \
			START(n, PAGES_F16);                                                                                   \
		} else if (kv == PAGES_Q8) {                                                                                   \
			START(n, PAGES_Q8);                                                                                    \
		} else {                                                                                                       \
			START(n, PAGES_F32);                                                                                   \
		}                                                                                                              \
		break
	switch (rows) {
		CASE(1);
		CASE(2);
#if TILE_ROWS > 2
		CASE(3);
#endif
#if TILE_ROWS > 3
		CASE(4);
		CASE(5);
		CASE(6);
		CASE(7);
		CASE(8);
#endif
	}
#undef CASE
#undef START
}

/* Rows are cut into tiles as even as can be: 9 are 5 + 4, not 8 + 1. */
static inline uint32_t tile_rows(uint32_t rows)
{
	uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
	return (rows + tiles - 1) / tiles;
}

/* Dimensions [d, d + 32) of a tile's values: all rows as far as the shortest sees, then each row alone. */
static void weigh_columns(const struct page *page, const uint32_t *length, uint32_t rows, const float *weights,
			  const float *correction, uint32_t d, float *o, size_t ldo)
{
	static const float one = 1.0f;
	uint32_t shortest = PAGE_TOKENS;
	for (uint32_t r = 0; r < rows; r++)
		shortest = visible(length[r], page->at) < shortest ? visible(length[r], page->at) : shortest;
	product_of(rows, page->kv, false, weights, PAGE_TOKENS, advance(page, page->values, d), page->dim, shortest, correction,
		   o, ldo);
	const void *rest = advance(page, page->values, (size_t)shortest * page->dim + d);
	for (uint32_t r = 0; r < rows; r++) {
		uint32_t more = visible(length[r], page->at) - shortest;
		if (more)
			product_of(1, page->kv, false, weights + r * PAGE_TOKENS + shortest, PAGE_TOKENS, rest, page->dim, more,
				   &one, o + r * ldo, ldo);
	}
}

/* o = o * correction + weights x values for one tile; a last piece of less than 32 dimensions goes through a copy. */
static void weigh(const struct page *page, const uint32_t *length, uint32_t rows, const float *weights, const float *correction,
		  float *o)
{
	uint32_t dim = page->dim, whole = dim / 32 * 32;
	for (uint32_t d = 0; d < whole; d += 32)
		weigh_columns(page, length, rows, weights, correction, d, o + d, dim);
	if (whole == dim)
		return;
	float piece[TILE_ROWS][32] = {{0}};
	for (uint32_t r = 0; r < rows; r++)
		memcpy(piece[r], o + r * dim + whole, (dim - whole) * sizeof *o);
	weigh_columns(page, length, rows, weights, correction, whole, piece[0], 32);
	for (uint32_t r = 0; r < rows; r++)
		memcpy(o + r * dim + whole, piece[r], (dim - whole) * sizeof *o);
}

enum { EIGHT = 8 };

static inline __m256 both(__m256 a, __m256 b, const bool add)
{
	return add ? _mm256_add_ps(a, b) : _mm256_max_ps(a, b);
}

/* The lanes of eight registers folded by halves, as docs/ARITHMETIC.md has it: lane r is what became of register r. */
static inline __m256 fold(const __m256 u[EIGHT], const bool add)
{
	__m256 a[4], b[2];
	for (int i = 0; i < 4; i++)
		a[i] = both(_mm256_permute2f128_ps(u[i], u[i + 4], 0x20), _mm256_permute2f128_ps(u[i], u[i + 4], 0x31), add);
	for (int i = 0; i < 2; i++) {
		__m256d x = _mm256_castps_pd(a[2 * i]), y = _mm256_castps_pd(a[2 * i + 1]);
		b[i] = both(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)), add);
	}
	return both(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd), add);
}

/* Of each row's 32 scores and m, the largest; a NaN is never larger: the instruction takes its second operand then. */
static inline void largest_of(const float *s, uint32_t rows, const float *m, float ret[EIGHT])
{
	__m256 u[EIGHT];
	for (uint32_t r = 0; r < EIGHT; r++) {
		u[r] = r < rows ? _mm256_set1_ps(m[r]) : _mm256_setzero_ps();
		for (uint32_t v = 0; v < 4 && r < rows; v++)
			u[r] = _mm256_max_ps(_mm256_loadu_ps(s + r * PAGE_TOKENS + 8 * v), u[r]);
	}
	_mm256_storeu_ps(ret, _mm256_add_ps(fold(u, false), _mm256_setzero_ps()));
}

/* The sum of each row's 32 weights. */
static inline void sum_of(const float *e, uint32_t rows, float ret[EIGHT])
{
	__m256 u[EIGHT];
	for (uint32_t r = 0; r < EIGHT; r++, e += PAGE_TOKENS)
		u[r] = r >= rows ? _mm256_setzero_ps()
				 : _mm256_add_ps(_mm256_add_ps(_mm256_loadu_ps(e), _mm256_loadu_ps(e + 8)),
						 _mm256_add_ps(_mm256_loadu_ps(e + 16), _mm256_loadu_ps(e + 24)));
	_mm256_storeu_ps(ret, fold(u, true));
}

/*
 * At most eight rows' online step over the first n[r] of 32 scores, which become weights. Sets the exponent of the correction of
 * what was summed before, and the sum of the weights; a row that sees nothing keeps what it has.
 */
static inline __attribute__((always_inline)) void softmax(float *s, const uint32_t rows, const uint32_t *n, float *m,
							  float *ret_exponent, float *ret_sum)
{
	float largest[EIGHT], sum[EIGHT];
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t t = n[r]; t < PAGE_TOKENS; t++)
			s[r * PAGE_TOKENS + t] = -INFINITY;
	largest_of(s, rows, m, largest);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t t = 0; t < PAGE_TOKENS; t++)
			s[r * PAGE_TOKENS + t] = elementary_exp2(s[r * PAGE_TOKENS + t] - largest[r]);
	sum_of(s, rows, sum);
	for (uint32_t r = 0; r < rows; r++) {
		ret_exponent[r] = n[r] ? m[r] - largest[r] : 0.0f;
		ret_sum[r] = n[r] ? sum[r] : 0.0f;
		m[r] = largest[r];
	}
}

static void add_bias(float *s, float slope, const struct page *page)
{
	float scale = attention_scale(page->dim);
	for (uint32_t t = 0; t < PAGE_TOKENS; t++)
		s[t] += attention_bias(slope, page->at + t, scale);
}

static void multiply(float *s, float factor, const float *scales)
{
	for (uint32_t t = 0; t < PAGE_TOKENS; t++)
		s[t] *= factor * scales[t];
}

/* Queries become codes for the whole span. */
static void encode(const float *q, uint32_t dim, uint32_t rows, const struct stage *stage)
{
	for (uint32_t r = 0; r < rows; r++, q += dim) {
		float factor, *codes = stage->codes + (size_t)r * dim;
		stage->scale[r] = attention_code_scale(q, dim, &factor);
		for (uint32_t d = 0; d < dim; d++)
			codes[d] = attention_code(q[d], factor);
	}
}

/* Scores of at most eight rows, from `first` on, become weights. */
static void weigh_scores(const struct page *page, const uint32_t *length, const float *slope, uint32_t rows, uint32_t first, float *m,
			 const struct stage *stage)
{
	float *s = stage->weights + first * PAGE_TOKENS;
	uint32_t n[EIGHT];
	for (uint32_t r = 0; r < rows; r++) {
		n[r] = visible(length[r], page->at);
		if (page->key_scales)
			multiply(s + r * PAGE_TOKENS, stage->scale[first + r], page->key_scales);
		if (slope)
			add_bias(s + r * PAGE_TOKENS, slope[r], page);
	}
	if (rows == EIGHT)
		softmax(s, EIGHT, n, m, stage->correction + first, stage->sum + first);
	else
		softmax(s, rows, n, m, stage->correction + first, stage->sum + first);
	for (uint32_t r = 0; r < rows && page->value_scales; r++)
		multiply(s + r * PAGE_TOKENS, 1.0f, page->value_scales);
}

/* All rows against one page. */
static void attend_page(const struct page *page, const float *q, const uint32_t *length, const float *slope, uint32_t rows,
			struct kernels_partial out, const struct stage *stage)
{
	size_t dim = page->dim;
	uint32_t tile = tile_rows(rows);
	for (uint32_t r = 0, n; r < rows; r += n) {
		n = rows - r < tile ? rows - r : tile;
		product_of(n, page->kv, true, q + r * dim, dim, page->keys, PAGE_TOKENS, page->dim, NULL,
			   stage->weights + r * PAGE_TOKENS, PAGE_TOKENS);
	}
	for (uint32_t r = 0; r < rows; r += EIGHT)
		weigh_scores(page, length + r, slope ? slope + r : NULL, rows - r < EIGHT ? rows - r : EIGHT, r, out.m + r, stage);
	for (uint32_t r = 0; r < rows; r++) {
		stage->correction[r] = elementary_exp2(stage->correction[r]);
		out.l[r] = fmaf(out.l[r], stage->correction[r], stage->sum[r]);
	}
	for (uint32_t r = 0, n; r < rows; r += n) {
		n = rows - r < tile ? rows - r : tile;
		weigh(page, length + r, n, stage->weights + r * PAGE_TOKENS, stage->correction + r, out.o + r * dim);
	}
}

void ATTENTION(attend)(const struct kernels_cache *cache, uint32_t first, const float *q, const uint32_t *length,
		       const float *slope, uint32_t rows, struct kernels_partial out, void *scratch)
{
	size_t dim = cache->head_dim;
	struct stage stage = stage_at(scratch, cache->head_dim, rows);
	uint32_t longest = 0;
	for (uint32_t r = 0; r < rows; r++) {
		out.m[r] = -INFINITY;
		out.l[r] = 0.0f;
		longest = length[r] > longest ? length[r] : longest;
	}
	memset(out.o, 0, rows * dim * sizeof *out.o);
	if (cache->kv == PAGES_Q8) {
		encode(q, cache->head_dim, rows, &stage);
		q = stage.codes;
	}
	for (uint32_t at = first; at < first + KERNELS_SPAN && at < longest; at += PAGE_TOKENS) {
		/* Rows in front that see nothing of this page or those behind it are done: lengths usually ascend. */
		uint32_t done = 0;
		while (length[done] <= at)
			done++;
		struct page page = page_open(cache, at, rows - done, &stage);
		struct kernels_partial left = {out.m + done, out.l + done, out.o + done * dim};
		struct stage rest = stage;
		rest.scale += done;
		attend_page(&page, q + done * dim, length + done, slope ? slope + done : NULL, rows - done, left, &rest);
	}
}
