/* SPDX-License-Identifier: Apache-2.0 */
/* Attention for AVX2, FMA and F16C: tiles of 3 rows x 32 columns, 12 of 16 registers hold sums. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/pages.h"

#define ATTENTION(op) op##_avx2
#define TILE_ROWS 3
#define STAGE(kv, rows) ((kv) == PAGES_Q8 && (rows) > 12) /* f16 never: widening it runs beside the FMAs */

static inline __attribute__((always_inline)) __m256 load(const void *b, size_t i, uint32_t kv)
{
	if (kv == PAGES_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)b + i)));
	if (kv == PAGES_Q8)
		return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)((const int8_t *)b + i))));
	return _mm256_loadu_ps((const float *)b + i);
}

static inline __attribute__((always_inline)) void product(const int rows, const uint32_t kv, const bool from_zero,
							  const float *a, size_t lda, const void *b, size_t ldb, uint32_t steps,
							  const float *start, float *c, size_t ldc)
{
	__m256 sum[TILE_ROWS][4];
#pragma GCC unroll 3
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int v = 0; v < 4; v++)
			sum[r][v] = from_zero ? _mm256_setzero_ps()
					      : _mm256_mul_ps(_mm256_loadu_ps(c + r * ldc + 8 * v), _mm256_set1_ps(start[r]));
	for (uint32_t i = 0; i < steps; i++) {
		__m256 x[TILE_ROWS];
#pragma GCC unroll 3
		for (int r = 0; r < rows; r++)
			x[r] = _mm256_set1_ps(a[r * lda + i]);
#pragma GCC unroll 4
		for (int v = 0; v < 4; v++) {
			__m256 y = load(b, i * ldb + 8 * v, kv);
#pragma GCC unroll 3
			for (int r = 0; r < rows; r++)
				sum[r][v] = _mm256_fmadd_ps(x[r], y, sum[r][v]);
		}
	}
#pragma GCC unroll 3
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int v = 0; v < 4; v++)
			_mm256_storeu_ps(c + r * ldc + 8 * v, sum[r][v]);
}

static inline __attribute__((always_inline)) void widen(const void *in, uint32_t kv, size_t n, float *out)
{
	for (size_t i = 0; i < n; i += 8)
		_mm256_storeu_ps(out + i, load(in, i, kv));
}

#include "kernels/x86/attention_pages.h"
