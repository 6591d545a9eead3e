/* SPDX-License-Identifier: Apache-2.0 */
/* Attention for AVX-512: tiles of 8 rows x 32 columns, 16 of 32 registers hold sums. */
#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512vl -mavx512dq -mavx512bw"
#endif

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/pages.h"

#define ATTENTION(op) op##_avx512
#define TILE_ROWS 8
#define STAGE(kv, rows) ((kv) != PAGES_F32 && (rows) > 24) /* widening shares a port with the FMAs */

static inline __attribute__((always_inline)) __m512 load(const void *b, size_t i, uint32_t kv)
{
	if (kv == PAGES_F16)
		return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)b + i)));
	if (kv == PAGES_Q8)
		return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)((const int8_t *)b + i))));
	return _mm512_loadu_ps((const float *)b + i);
}

static inline __attribute__((always_inline)) void product(const int rows, const uint32_t kv, const bool from_zero,
							  const float *a, size_t lda, const void *b, size_t ldb, uint32_t steps,
							  const float *start, float *c, size_t ldc)
{
	__m512 sum[TILE_ROWS][2];
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (int v = 0; v < 2; v++)
			sum[r][v] = from_zero ? _mm512_setzero_ps()
					      : _mm512_mul_ps(_mm512_loadu_ps(c + r * ldc + 16 * v), _mm512_set1_ps(start[r]));
	for (uint32_t i = 0; i < steps; i++) {
		__m512 low = load(b, i * ldb, kv), high = load(b, i * ldb + 16, kv);
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) {
			__m512 x = _mm512_set1_ps(a[r * lda + i]);
			sum[r][0] = _mm512_fmadd_ps(x, low, sum[r][0]);
			sum[r][1] = _mm512_fmadd_ps(x, high, sum[r][1]);
		}
	}
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (int v = 0; v < 2; v++)
			_mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
}

static inline __attribute__((always_inline)) void widen(const void *in, uint32_t kv, size_t n, float *out)
{
	for (size_t i = 0; i < n; i += 16)
		_mm512_storeu_ps(out + i, load(in, i, kv));
}

#include "kernels/x86/attention_pages.h"
