/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised matrix products by AVX-512 VNNI. One register holds 4 columns of the 16 rows of a strip, so vpdpbusd adds four
 * products to each row's integer sum, the activations' 4 codes broadcast from memory. A tile is 16 rows x up to 8 tokens: the
 * weights of a block are unpacked once for all of them, in registers.
 *
 * Columns are cut into panels so that the activations of a call stay in the second-level cache while its strips pass by. The
 * float sums wait in `out` between panels, which changes no bit of them.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__) || !defined(__F16C__)
#error "compile with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mf16c"
#endif

#include <immintrin.h>
#include <string.h>

#include "kernels/matmul.h"

enum {
	TILE = 8,               /* tokens of a register tile: two groups */
	PANEL_BYTES = 384 << 10, /* activations of a panel: with the weights that pass by, well inside a cache of 1 MiB */
};

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

/* The eight column groups of a block as unsigned codes; Q8_0 with bit 7 flipped, which adds 128. */
INLINE void unpack(const uint8_t *block, uint32_t type, __m512i v[8])
{
	const struct matmul_block b = matmul_block(type);
	const __m512i nibble = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
	if (type == WEIGHTS_Q8_0) {
		UNROLL
		for (int g = 0; g < 8; g++)
			v[g] = _mm512_xor_si512(_mm512_loadu_si512(block + b.codes + g * 64), _mm512_set1_epi8(-128));
		return;
	}
	UNROLL
	for (int g = 0; g < 4; g++) {
		__m512i x = _mm512_loadu_si512(block + b.codes + g * 64);
		v[g] = _mm512_and_si512(x, nibble);
		v[g + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble);
	}
	if (!b.high)
		return;
	__m512i h = _mm512_loadu_si512(block + b.high);
	UNROLL
	for (int g = 0; g < 8; g++) {
		__m512i bit = g < 4 ? _mm512_slli_epi16(h, (unsigned)(4 - g)) : _mm512_srli_epi16(h, (unsigned)(g - 4));
		v[g] = _mm512_ternarylogic_epi32(v[g], bit, fifth, 0xf8); /* v | bit & fifth */
	}
}

INLINE __m512 halves(const uint8_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE int32_t int_at(const void *p)
{
	int32_t i;
	memcpy(&i, p, sizeof i);
	return i;
}

/* Activations of one token at a block: the pieces of struct kernels_activations that the tile's token t needs. */
struct token {
	const int8_t *q;    /* + 128 a block, + 16 a column group */
	const float *d;     /* + 4 a block */
	const int16_t *sum; /* + 8 a block */
};

INLINE struct token token_at(const struct kernels_activations *a, uint32_t t, uint32_t block)
{
	size_t at = (size_t)(t / KERNELS_GROUP) * (a->cols / WEIGHTS_BLOCK) + block;
	uint32_t lane = t % KERNELS_GROUP;
	return (struct token){a->q + at * 128 + lane * 4, a->d + at * 4 + lane, a->sum + at * 8 + lane * 2};
}

/* Blocks [first, first + n) of one strip for tokens [t, t + tokens): sums continue in out (rows of ldo), 16 lanes under mask. */
INLINE void tile(const uint8_t *strip, uint32_t type, const struct kernels_activations *a, uint32_t t, const uint32_t tokens,
		 uint32_t first, uint32_t n, float *out, size_t ldo, __mmask16 mask, bool more)
{
	const struct matmul_block b = matmul_block(type);
	const __m512i offset = _mm512_set1_epi16((short)(type == WEIGHTS_Q8_0 ? -128 : -b.offset));
	const uint8_t *block = strip + (size_t)first * b.bytes;
	__m512 f[TILE];
	struct token x[2] = {token_at(a, t, first), token_at(a, t + (tokens > 4 ? 4 : 0), first)};
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		f[i] = more ? _mm512_maskz_loadu_ps(mask, out + i * ldo) : _mm512_setzero_ps();
	for (uint32_t k = 0; k < n; k++, block += b.bytes) {
		__m512i v[8];
		unpack(block, type, v);
		__m512 dw = halves(block), mw = b.minima ? halves(block + b.minima) : _mm512_setzero_ps();
		UNROLL
		for (uint32_t i = 0; i < tokens; i++) {
			const struct token *o = &x[i / 4];
			const int8_t *q = o->q + (size_t)k * 128 + i % 4 * 4;
			__m512i sum = _mm512_set1_epi32(int_at(o->sum + (size_t)k * 8 + i % 4 * 2));
			__m512i z = _mm512_madd_epi16(sum, offset), y = _mm512_setzero_si512();
			if (tokens == 1) { /* two chains: nothing else hides the latency */
				UNROLL
				for (int g = 0; g < 8; g += 2) {
					z = _mm512_dpbusd_epi32(z, v[g], _mm512_set1_epi32(int_at(q + g * 16)));
					y = _mm512_dpbusd_epi32(y, v[g + 1], _mm512_set1_epi32(int_at(q + g * 16 + 16)));
				}
				z = _mm512_add_epi32(z, y);
			} else {
				UNROLL
				for (int g = 0; g < 8; g++)
					z = _mm512_dpbusd_epi32(z, v[g], _mm512_set1_epi32(int_at(q + g * 16)));
			}
			__m512 da = _mm512_set1_ps(o->d[(size_t)k * 4 + i % 4]);
			f[i] = _mm512_fmadd_ps(_mm512_mul_ps(dw, da), _mm512_cvtepi32_ps(z), f[i]);
			if (b.minima) {
				__m512 s = _mm512_cvtepi32_ps(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)));
				f[i] = _mm512_fmadd_ps(mw, _mm512_mul_ps(da, s), f[i]);
			}
		}
	}
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		_mm512_mask_storeu_ps(out + i * ldo, mask, f[i]);
}

/* All tokens of one strip and panel. Tokens of a partial group go one by one or in a tile that fits them. */
INLINE void strip_panel(const uint8_t *strip, uint32_t type, const struct kernels_activations *a, uint32_t first, uint32_t n,
			float *out, size_t ldo, __mmask16 mask, bool more)
{
	uint32_t t = 0;
	for (; t + 8 <= a->n; t += 8)
		tile(strip, type, a, t, 8, first, n, out + t * ldo, ldo, mask, more);
	if (t + 4 <= a->n) {
		tile(strip, type, a, t, 4, first, n, out + t * ldo, ldo, mask, more);
		t += 4;
	}
	float *o = out + t * ldo;
	switch (a->n - t) {
	case 3: tile(strip, type, a, t, 3, first, n, o, ldo, mask, more); break;
	case 2: tile(strip, type, a, t, 2, first, n, o, ldo, mask, more); break;
	case 1: tile(strip, type, a, t, 1, first, n, o, ldo, mask, more); break;
	}
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips,
		    const struct kernels_activations *a, float *out, size_t ldo, bool more)
{
	uint32_t blocks = m->cols / WEIGHTS_BLOCK, fit = PANEL_BYTES / (WEIGHTS_BLOCK * (a->n > 8 ? a->n : 8));
	uint32_t panel = fit > 8 ? fit : 8;
	uint64_t stride = weights_strip_bytes(type, m->cols);
	for (uint32_t first = 0; first < blocks; first += panel) {
		uint32_t n = blocks - first < panel ? blocks - first : panel;
		for (uint32_t s = strip; s < strip + n_strips; s++) {
			uint32_t rows = m->rows - s * WEIGHTS_STRIP;
			__mmask16 mask = rows < WEIGHTS_STRIP ? (__mmask16)((1u << rows) - 1) : 0xffff;
			strip_panel(m->data + s * stride, type, a, first, n, out + (size_t)s * WEIGHTS_STRIP, ldo, mask,
				    more || first > 0);
		}
	}
}

void matmul_avx512(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a, float *out,
		   size_t ldo, bool more, void *scratch)
{
	(void)scratch;
	switch (m->type) {
	case WEIGHTS_Q4_0: product(m, WEIGHTS_Q4_0, strip, n_strips, a, out, ldo, more); break;
	case WEIGHTS_Q4_1: product(m, WEIGHTS_Q4_1, strip, n_strips, a, out, ldo, more); break;
	case WEIGHTS_Q5_0: product(m, WEIGHTS_Q5_0, strip, n_strips, a, out, ldo, more); break;
	case WEIGHTS_Q5_1: product(m, WEIGHTS_Q5_1, strip, n_strips, a, out, ldo, more); break;
	case WEIGHTS_Q8_0: product(m, WEIGHTS_Q8_0, strip, n_strips, a, out, ldo, more); break;
	}
}
