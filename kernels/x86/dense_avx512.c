/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dense matrix products by AVX-512: a register holds one column of a strip's 16 rows, and each token adds it times its own
 * activation, broadcast from memory, by one FMA. The order of the columns is the order of the sum, so lanes are rows and the
 * tokens of a tile are what hides the latency. From PANEL_FROM tokens on a panel of columns is widened once into scratch.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__F16C__)
#error "compile with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c"
#endif

#include <immintrin.h>

#include "kernels/matmul.h"

enum { TILE = 12, PANEL = 256, PANEL_FROM = 24 };

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

/* Column c of a strip, 16 rows widened. */
INLINE __m512 column(const uint8_t *strip, uint32_t type, size_t c)
{
	if (type == WEIGHTS_F32)
		return _mm512_loadu_ps((const float *)(const void *)strip + c * WEIGHTS_STRIP);
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(strip + c * 2 * WEIGHTS_STRIP));
	if (type == WEIGHTS_F16)
		return _mm512_cvtph_ps(h);
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

INLINE void tile(const uint8_t *strip, uint32_t type, const float *x, size_t ldx, const uint32_t tokens, uint32_t n, float *out,
		 size_t ldo, __mmask16 mask, bool more)
{
	__m512 f[TILE];
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		f[i] = more ? _mm512_maskz_loadu_ps(mask, out + i * ldo) : _mm512_setzero_ps();
	for (uint32_t c = 0; c < n; c++) {
		__m512 w = column(strip, type, c);
		UNROLL
		for (uint32_t i = 0; i < tokens; i++)
			f[i] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[i * ldx + c]), f[i]);
	}
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		_mm512_mask_storeu_ps(out + i * ldo, mask, f[i]);
}

INLINE void tokens_of(const uint8_t *strip, uint32_t type, const float *x, size_t ldx, uint32_t tokens, uint32_t n, float *out,
		      size_t ldo, __mmask16 mask, bool more)
{
	uint32_t t = 0;
	for (; t + TILE <= tokens; t += TILE)
		tile(strip, type, x + t * ldx, ldx, TILE, n, out + t * ldo, ldo, mask, more);
	for (; t + 4 <= tokens; t += 4)
		tile(strip, type, x + t * ldx, ldx, 4, n, out + t * ldo, ldo, mask, more);
	for (; t < tokens; t++)
		tile(strip, type, x + t * ldx, ldx, 1, n, out + t * ldo, ldo, mask, more);
}

INLINE void widen(const uint8_t *strip, uint32_t type, uint32_t n, float *panel)
{
	for (uint32_t c = 0; c < n; c++)
		_mm512_store_ps(panel + (size_t)c * WEIGHTS_STRIP, column(strip, type, c));
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
			uint32_t rows = m->rows - s * WEIGHTS_STRIP;
			__mmask16 mask = rows < WEIGHTS_STRIP ? (__mmask16)((1u << rows) - 1) : 0xffff;
			float *o = out + (size_t)s * WEIGHTS_STRIP;
			if (wide) {
				widen(w, type, n, panel);
				tokens_of((const uint8_t *)panel, WEIGHTS_F32, x + c, ldx, tokens, n, o, ldo, mask, more || c > 0);
			} else {
				tokens_of(w, type, x + c, ldx, tokens, n, o, ldo, mask, more || c > 0);
			}
		}
	}
}

void matmul_dense_avx512(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx, uint32_t n,
			 float *out, size_t ldo, bool more, void *scratch)
{
	switch (m->type) {
	case WEIGHTS_F32: product(m, WEIGHTS_F32, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	case WEIGHTS_F16: product(m, WEIGHTS_F16, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	case WEIGHTS_BF16: product(m, WEIGHTS_BF16, strip, n_strips, x, ldx, n, out, ldo, more, scratch); break;
	}
}
