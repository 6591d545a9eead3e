/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dense matrix products by AVX2: as dense_avx512.c, with a strip's 16 rows in two registers and tiles of 6 tokens.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile with -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>

#include "kernels/matmul.h"

enum { TILE = 6, PANEL = 256, PANEL_FROM = 12 };

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

INLINE void tile(const uint8_t *strip, uint32_t type, const float *x, size_t ldx, const uint32_t tokens, uint32_t n, float *out,
		 size_t ldo, uint32_t rows, bool more)
{
	const __m256i low = row_mask(rows), high = row_mask(rows > 8 ? rows - 8 : 0);
	__m256 f[TILE], g[TILE];
	UNROLL
	for (uint32_t i = 0; i < tokens; i++) {
		f[i] = more ? _mm256_maskload_ps(out + i * ldo, low) : _mm256_setzero_ps();
		g[i] = more ? _mm256_maskload_ps(out + i * ldo + 8, high) : _mm256_setzero_ps();
	}
	for (uint32_t c = 0; c < n; c++) {
		__m256 a = column(strip, type, c, 0), b = column(strip, type, c, 1);
		UNROLL
		for (uint32_t i = 0; i < tokens; i++) {
			__m256 y = _mm256_broadcast_ss(x + i * ldx + c);
			f[i] = _mm256_fmadd_ps(a, y, f[i]);
			g[i] = _mm256_fmadd_ps(b, y, g[i]);
		}
	}
	UNROLL
	for (uint32_t i = 0; i < tokens; i++) {
		_mm256_maskstore_ps(out + i * ldo, low, f[i]);
		_mm256_maskstore_ps(out + i * ldo + 8, high, g[i]);
	}
}

INLINE void tokens_of(const uint8_t *strip, uint32_t type, const float *x, size_t ldx, uint32_t tokens, uint32_t n, float *out,
		      size_t ldo, uint32_t rows, bool more)
{
	uint32_t t = 0;
	for (; t + TILE <= tokens; t += TILE)
		tile(strip, type, x + t * ldx, ldx, TILE, n, out + t * ldo, ldo, rows, more);
	for (; t + 2 <= tokens; t += 2)
		tile(strip, type, x + t * ldx, ldx, 2, n, out + t * ldo, ldo, rows, more);
	for (; t < tokens; t++)
		tile(strip, type, x + t * ldx, ldx, 1, n, out + t * ldo, ldo, rows, more);
}

INLINE void widen(const uint8_t *strip, uint32_t type, uint32_t n, float *panel)
{
	for (uint32_t c = 0; c < n; c++)
		UNROLL
		for (int h = 0; h < 2; h++)
			_mm256_store_ps(panel + (size_t)c * WEIGHTS_STRIP + h * 8, column(strip, type, c, h));
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx,
		    uint32_t tokens, float *out, size_t ldo, bool more, float *panel)
{
	uint64_t stride = weights_strip_bytes(type, m->cols);
	bool wide = tokens >= PANEL_FROM && type != WEIGHTS_F32;
	uint32_t step = tokens >= PANEL_FROM ? PANEL : m->cols;
	for (uint32_t c = 0; c < m->cols; c += step) {
		uint32_t n = m->cols - c < step ? m->cols - c : step;
		for (uint32_t s = strip; s < strip + n_strips; s++) {
			const uint8_t *w = m->data + s * stride + weights_strip_bytes(type, c);
			uint32_t left = m->rows - s * WEIGHTS_STRIP, rows = left < WEIGHTS_STRIP ? left : WEIGHTS_STRIP;
			float *o = out + (size_t)s * WEIGHTS_STRIP;
			if (wide) {
				widen(w, type, n, panel);
				tokens_of((const uint8_t *)panel, WEIGHTS_F32, x + c, ldx, tokens, n, o, ldo, rows, more || c > 0);
			} else {
				tokens_of(w, type, x + c, ldx, tokens, n, o, ldo, rows, more || c > 0);
			}
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
