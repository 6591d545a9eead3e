/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dense matrix products by AVX2: as dense_avx512.c, with a strip's 16 rows in two registers and tiles of 6 tokens. One token
 * would not hide an FMA's latency alone: it takes FEW strips at a time.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile with -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>

#include "kernels/matmul.h"

enum { TILE = 6, FEW = 4, PANEL = 256, PANEL_FROM = 12 };

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

/* Half h (8 rows) of column c of a strip, widened. */
INLINE __m256 column(const uint8_t *strip, uint32_t type, size_t c, int h)
{
	size_t i = c * WEIGHTS_STRIP + (size_t)h * 8;
	if (type == WEIGHTS_F32)
		return _mm256_loadu_ps((const float *)(const void *)strip + i);
	__m128i half = _mm_loadu_si128((const __m128i *)(const void *)(strip + 2 * i));
	if (type == WEIGHTS_F16)
		return _mm256_cvtph_ps(half);
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m256i row_mask(uint32_t rows)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* n columns of neighbouring strips that stand stride bytes apart; the last has `rows` rows to be written. */
struct columns {
	const uint8_t *strip;
	uint64_t stride;
	uint32_t type, n, rows;
};

/* Sums of strips x tokens: two registers each, out in rows of ldo. */
INLINE void tile(struct columns w, const uint32_t strips, const float *x, size_t ldx, const uint32_t tokens, float *out, size_t ldo,
		 bool more)
{
	const __m256i full = _mm256_set1_epi32(-1);
	const __m256i mask[2] = {row_mask(w.rows), row_mask(w.rows > 8 ? w.rows - 8 : 0)};
	__m256 f[2 * FEW][TILE]; /* strips x 2 halves, tokens: at most 12 are used */
	UNROLL
	for (uint32_t h = 0; h < 2 * strips; h++)
		UNROLL
		for (uint32_t i = 0; i < tokens; i++)
			f[h][i] = more ? _mm256_maskload_ps(out + i * ldo + h * 8, h + 2 < 2 * strips ? full : mask[h % 2])
				       : _mm256_setzero_ps();
	for (uint32_t c = 0; c < w.n; c++) {
		UNROLL
		for (uint32_t s = 0; s < strips; s++) {
			__m256 a = column(w.strip + s * w.stride, w.type, c, 0), b = column(w.strip + s * w.stride, w.type, c, 1);
			UNROLL
			for (uint32_t i = 0; i < tokens; i++) {
				__m256 y = _mm256_broadcast_ss(x + i * ldx + c);
				f[2 * s][i] = _mm256_fmadd_ps(a, y, f[2 * s][i]);
				f[2 * s + 1][i] = _mm256_fmadd_ps(b, y, f[2 * s + 1][i]);
			}
		}
	}
	UNROLL
	for (uint32_t h = 0; h < 2 * strips; h++)
		UNROLL
		for (uint32_t i = 0; i < tokens; i++)
			_mm256_maskstore_ps(out + i * ldo + h * 8, h + 2 < 2 * strips ? full : mask[h % 2], f[h][i]);
}

/* One strip, any number of tokens. */
INLINE void tokens_of(struct columns w, const float *x, size_t ldx, uint32_t tokens, float *out, size_t ldo, bool more)
{
	uint32_t t = 0;
	for (; t + TILE <= tokens; t += TILE)
		tile(w, 1, x + t * ldx, ldx, TILE, out + t * ldo, ldo, more);
	if (t + 4 <= tokens) {
		tile(w, 1, x + t * ldx, ldx, 4, out + t * ldo, ldo, more);
		t += 4;
	}
	x += t * ldx;
	out += t * ldo;
	switch (tokens - t) {
	case 3: tile(w, 1, x, ldx, 3, out, ldo, more); break;
	case 2: tile(w, 1, x, ldx, 2, out, ldo, more); break;
	case 1: tile(w, 1, x, ldx, 1, out, ldo, more); break;
	}
}

/* Widens a panel into f32 columns. */
INLINE struct columns widen(struct columns w, float *panel)
{
	for (uint32_t c = 0; c < w.n; c++)
		UNROLL
		for (int h = 0; h < 2; h++)
			_mm256_store_ps(panel + (size_t)c * WEIGHTS_STRIP + h * 8, column(w.strip, w.type, c, h));
	w.strip = (const uint8_t *)panel;
	w.type = WEIGHTS_F32;
	return w;
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx,
		    uint32_t tokens, float *out, size_t ldo, bool more, float *panel)
{
	struct columns w = {.stride = weights_strip_bytes(type, m->cols), .type = type};
	uint32_t step = tokens >= PANEL_FROM ? PANEL : m->cols, end = strip + n_strips, taken;
	for (uint32_t c = 0; c < m->cols; c += step) {
		w.n = m->cols - c < step ? m->cols - c : step;
		for (uint32_t s = strip; s < end; s += taken) {
			bool few = tokens == 1 && end - s >= FEW;
			taken = few ? FEW : 1;
			uint32_t rows = m->rows - (s + taken - 1) * WEIGHTS_STRIP;
			w.rows = rows < WEIGHTS_STRIP ? rows : WEIGHTS_STRIP;
			w.strip = m->data + s * w.stride + weights_strip_bytes(type, c);
			float *o = out + (size_t)s * WEIGHTS_STRIP;
			if (few)
				tile(w, FEW, x + c, ldx, 1, o, ldo, more || c > 0);
			else if (tokens >= PANEL_FROM && type != WEIGHTS_F32)
				tokens_of(widen(w, panel), x + c, ldx, tokens, o, ldo, more || c > 0);
			else
				tokens_of(w, x + c, ldx, tokens, o, ldo, more || c > 0);
		}
	}
}

void matmul_dense_avx2(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx, uint32_t n,
		       float *out, size_t ldo, bool more, void *scratch)
{
	switch (m->type) {
	case WEIGHTS_F32: product(m, WEIGHTS_F32, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	case WEIGHTS_F16: product(m, WEIGHTS_F16, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	case WEIGHTS_BF16: product(m, WEIGHTS_BF16, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	}
}
