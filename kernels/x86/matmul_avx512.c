/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised matrix products by AVX-512 VNNI. One register holds 4 columns of the 16 rows of a strip, so vpdpbusd adds four
 * products to each row's integer sum, the activations' 4 codes broadcast from memory. A tile is 16 rows x up to 16 tokens: the
 * weights of a block are unpacked once for all of them, in registers.
 *
 * Columns are cut into panels so that the activations of a call stay in the second-level cache while its strips pass by. The
 * float sums wait in `out` between panels, which changes no bit of them.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__) || !defined(__F16C__)
#error "compile with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mf16c"
#endif

#include <immintrin.h>

#include "kernels/matmul.h"

enum {
	TILE = 16,               /* tokens of a register tile: four groups */
	PANEL_BYTES = 384 << 10, /* activations of a panel: with the weights that pass by, well inside a cache of 1 MiB */
};

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

/*
 * A load that stays where it stands in the program: the lines of a block are asked for in ascending order and once each, or the
 * prefetchers fall behind. From memory, one token and thread, Q5_0 runs at 25 GB/s instead of 21, Q5_1 at 27 instead of 22.
 * Prefetch instructions made it slower at every distance.
 */
INLINE __m512i line(const uint8_t *p)
{
	__m512i x = _mm512_loadu_si512(p);
	__asm__ volatile("" : "+v"(x));
	return x;
}

/*
 * The eight column groups of a block as unsigned codes; Q8_0 with bit 7 flipped, which adds 128. With `high`, high nibbles stay
 * where they are, 16 times as large.
 */
INLINE void unpack(const uint8_t *block, uint32_t type, bool high, __m512i v[8])
{
	const struct matmul_block b = matmul_block(type);
	const __m512i nibble = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
	const int lines = type == WEIGHTS_Q8_0 ? 8 : 4;
	UNROLL
	for (int g = 0; g < lines; g++)
		v[g] = line(block + b.codes + g * 64);
	if (type == WEIGHTS_Q8_0) {
		UNROLL
		for (int g = 0; g < 8; g++)
			v[g] = _mm512_xor_si512(v[g], _mm512_set1_epi8(-128));
		return;
	}
	__m512i h = b.high ? line(block + b.high) : nibble;
	UNROLL
	for (int g = 0; g < 4; g++) {
		v[g + 4] = high ? _mm512_andnot_si512(nibble, v[g]) : _mm512_and_si512(_mm512_srli_epi16(v[g], 4), nibble);
		v[g] = _mm512_and_si512(v[g], nibble);
	}
	if (!b.high)
		return;
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

/* What the sums of a group's tokens start from, minus offset times the sum of codes: made in four lanes, then broadcast from memory. */
INLINE void starts_of_group(const int offset, const uint32_t size, const int16_t *sum, int32_t *start)
{
	__m128i s = size == 1 ? _mm_loadu_si32(sum) : _mm_loadu_si128((const __m128i *)(const void *)sum);
	_mm_store_si128((__m128i *)(void *)start, _mm_madd_epi16(s, _mm_set1_epi16((short)-offset)));
}

/*
 * z + the products of 16 rows and one token in some column groups, `stride` bytes from one to the next. By hand, because the compiler loads the broadcast into a
 * register of its own: that costs a tenth of the rate.
 */
INLINE __m512i dot(__m512i z, const __m512i v[], uint32_t groups, const int8_t *q, const uint32_t stride)
{
	UNROLL
	for (uint32_t g = 0; g < groups; g++)
		__asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(z) : "v"(v[g]), "m"(*(const int8_t(*)[4])(q + g * stride)));
	return z;
}

/*
 * Blocks [first, first + n) of one strip for tokens [t, t + tokens), t a multiple of 4, in groups of `size`: sums continue in out
 * (rows of ldo), 16 lanes under mask.
 */
INLINE void tile(const uint8_t *strip, uint32_t type, const struct kernels_activations *a, const uint32_t size, uint32_t t,
		 const uint32_t tokens, uint32_t first, uint32_t n, float *out, size_t ldo, __mmask16 mask, bool more)
{
	const struct matmul_block b = matmul_block(type);
	const int offset = type == WEIGHTS_Q8_0 ? 128 : b.offset;
	const bool few = tokens < KERNELS_GROUP, high = few && !b.high && type != WEIGHTS_Q8_0;
	const uint8_t *block = strip + (size_t)first * b.bytes;
	size_t blocks = a->cols / WEIGHTS_BLOCK, at = t / KERNELS_GROUP * blocks + first;
	_Alignas(64) int32_t start[TILE];
	__m512 f[TILE];
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		f[i] = more ? _mm512_maskz_loadu_ps(mask, out + i * ldo) : _mm512_setzero_ps();
	for (uint32_t k = 0; k < n; k++, at++, block += b.bytes) {
		UNROLL
		for (uint32_t i = 0; offset && i < tokens; i += KERNELS_GROUP)
			starts_of_group(offset, size, a->sum + (at + i / KERNELS_GROUP * blocks) * size * 2, start + i);
		__asm__("" : "+m"(start)); /* through memory: broadcasting a load is free, a lane of a register is not */
		__m512 dw = halves(block), mw = b.minima ? halves(block + b.minima) : _mm512_setzero_ps();
		__asm__ volatile("" : "+v"(dw), "+v"(mw)); /* as line() */
		__m512i v[8];
		unpack(block, type, high, v);
		UNROLL
		for (uint32_t i = 0; i < tokens; i++) {
			size_t group = at + i / KERNELS_GROUP * blocks, lane = i % KERNELS_GROUP;
			__m512i z = offset ? _mm512_set1_epi32(start[i]) : _mm512_setzero_si512();
			const int8_t *q = a->q + group * size * 32 + lane * 4;
			if (few) { /* two chains: nothing else hides their latency */
				__m512i y = dot(_mm512_setzero_si512(), v + 4, 4, q + size * 16, size * 4);
				z = _mm512_add_epi32(dot(z, v, 4, q, size * 4), high ? _mm512_srai_epi32(y, 4) : y);
			} else {
				z = dot(z, v, 8, q, size * 4);
			}
			__m512 d = _mm512_mul_ps(dw, _mm512_set1_ps(a->d[group * size + lane]));
			f[i] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(z), f[i]);
			if (b.minima)
				f[i] = _mm512_fmadd_ps(mw, _mm512_set1_ps(a->dsum[group * size + lane]), f[i]);
			__asm__ volatile("" : "+v"(f[i])); /* token by token, or registers run out */
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
	enum { SIZE = KERNELS_GROUP };
	uint32_t t = 0;
	if (kernels_group(a->n) == 1) {
		tile(strip, type, a, 1, 0, 1, first, n, out, ldo, mask, more);
		return;
	}
	for (; t + 16 <= a->n; t += 16)
		tile(strip, type, a, SIZE, t, 16, first, n, out + t * ldo, ldo, mask, more);
	if (t + 8 <= a->n) {
		tile(strip, type, a, SIZE, t, 8, first, n, out + t * ldo, ldo, mask, more);
		t += 8;
	}
	if (t + 4 <= a->n) {
		tile(strip, type, a, SIZE, t, 4, first, n, out + t * ldo, ldo, mask, more);
		t += 4;
	}
	float *o = out + t * ldo;
	switch (a->n - t) {
	case 3: tile(strip, type, a, SIZE, t, 3, first, n, o, ldo, mask, more); break;
	case 2: tile(strip, type, a, SIZE, t, 2, first, n, o, ldo, mask, more); break;
	case 1: tile(strip, type, a, SIZE, t, 1, first, n, o, ldo, mask, more); break;
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

void matmul_avx512(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
		   float *out, size_t ldo, bool more, void *scratch)
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
