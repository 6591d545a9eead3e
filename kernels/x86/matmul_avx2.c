/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised activations and matrix products by AVX2.
 *
 * vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits. For 4- and 5-bit weights all eight column groups of a
 * block are summed in 16 bits, modulo 2^16, starting at minus offset times the activations' sum over the same columns: the true sum
 * of a lane, 16 products of at most 16 x 127, fits, so the wrapped one is exact. Q5_1's codes go up to 31 and have no offset: they
 * are summed as if it were 16, which is put back in 32 bits. Q8_0 would not fit: it multiplies |w| by the activation with w's sign
 * and widens each group to 32 bits.
 *
 * From four tokens on a panel of a strip is unpacked once to bytes in scratch, and tiles of 8 rows x 4 tokens run over it.
 * Fewer tokens are bound by memory: there the nibbles are unpacked on the way.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile with -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>
#include <string.h>

#include "base/f16.h"
#include "kernels/matmul.h"

enum {
	PANEL_BYTES = 256 << 10, /* activations of a panel: half of a small second-level cache */
	PANEL_BLOCKS = 48,       /* unpacked weights of a panel: 30 KiB */
};

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

INLINE int32_t int_at(const void *p)
{
	int32_t i;
	memcpy(&i, p, sizeof i);
	return i;
}

INLINE __m256i bytes_at(const void *p)
{
	return _mm256_loadu_si256(p);
}

/* Activations ------------------------------------------------------------------------------------------------------ */

/* 32 floats to 32 codes in column order (8 lanes of 4 codes); the scale goes to ret_d. False if a value is not finite. */
INLINE bool codes_of(const float *x, __m256i *ret_codes, float *ret_d)
{
	const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
	__m256 v[4];
	__m256i largest = _mm256_setzero_si256();
	UNROLL
	for (int i = 0; i < 4; i++) {
		v[i] = _mm256_loadu_ps(x + 8 * i);
		largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
	}
	__m128i h = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
	h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
	h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
	uint32_t bits = (uint32_t)_mm_cvtsi128_si32(h);
	*ret_codes = _mm256_setzero_si256();
	*ret_d = 0.0f;
	if (bits >= 0x7f800000u)
		return false;
	float a = f32_from_bits(bits);
	if (a < 0x1p-100f)
		return true;
	*ret_d = a / 127.0f;
	__m256 inverse = _mm256_set1_ps(127.0f / a);
	__m256i q[4];
	UNROLL
	for (int i = 0; i < 4; i++) /* |x * (127 / a)| < 127.5, so the conversion's rounding stays within the clamp */
		q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
	__m256i low = _mm256_packs_epi32(q[0], q[1]), high = _mm256_packs_epi32(q[2], q[3]);
	*ret_codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
	return true;
}

/* Sums of columns 0, 1 mod 4 and 2, 3 mod 4, as two int16. */
INLINE int32_t sums_of(__m256i codes)
{
	__m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
	__m128i h = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
	h = _mm_add_epi16(h, _mm_shuffle_epi32(h, 0x4e));
	h = _mm_add_epi16(h, _mm_shuffle_epi32(h, 0xb1));
	return _mm_cvtsi128_si32(h);
}

/* Four tokens' codes of a block, token by token, to [8 column groups][4 tokens][4 columns]. */
INLINE void interleave(const __m256i c[KERNELS_GROUP], int8_t *q)
{
	__m256i a = _mm256_unpacklo_epi32(c[0], c[1]), b = _mm256_unpackhi_epi32(c[0], c[1]);
	__m256i d = _mm256_unpacklo_epi32(c[2], c[3]), e = _mm256_unpackhi_epi32(c[2], c[3]);
	__m256i g[4] = {_mm256_unpacklo_epi64(a, d), _mm256_unpackhi_epi64(a, d), _mm256_unpacklo_epi64(b, e),
			_mm256_unpackhi_epi64(b, e)};
	UNROLL
	for (int i = 0; i < 4; i++) {
		_mm_storeu_si128((__m128i *)(void *)(q + i * 16), _mm256_castsi256_si128(g[i]));
		_mm_storeu_si128((__m128i *)(void *)(q + (i + 4) * 16), _mm256_extracti128_si256(g[i], 1));
	}
}

bool quantise_avx2(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a)
{
	uint32_t blocks = a->cols / WEIGHTS_BLOCK, end = first + count;
	bool finite = true;
	for (uint32_t t = first; t < end; t += KERNELS_GROUP) {
		uint32_t tokens = end - t < KERNELS_GROUP ? end - t : KERNELS_GROUP;
		for (uint32_t b = 0; b < blocks; b++) {
			size_t at = (size_t)(t / KERNELS_GROUP) * blocks + b;
			__m256i codes[KERNELS_GROUP] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
							_mm256_setzero_si256()};
			float d[KERNELS_GROUP] = {0};
			int32_t sums[KERNELS_GROUP] = {0};
			for (uint32_t i = 0; i < tokens; i++) {
				finite &= codes_of(x + (t + i) * ldx + b * WEIGHTS_BLOCK, &codes[i], &d[i]);
				sums[i] = sums_of(codes[i]);
			}
			interleave(codes, a->q + at * 128);
			memcpy(a->d + at * KERNELS_GROUP, d, sizeof d);
			memcpy(a->sum + at * KERNELS_GROUP * 2, sums, sizeof sums);
		}
	}
	return finite;
}

/* Weights ---------------------------------------------------------------------------------------------------------- */

/* Column group g of 8 rows (half 0 or 1) of a block: unsigned codes; Q8_0's signed bytes as they are. */
INLINE __m256i group_of(const uint8_t *block, uint32_t type, int half, int g)
{
	const struct matmul_block b = matmul_block(type);
	if (type == WEIGHTS_Q8_0)
		return bytes_at(block + b.codes + g * 64 + half * 32);
	__m256i x = bytes_at(block + b.codes + g % 4 * 64 + half * 32);
	x = _mm256_and_si256(g < 4 ? x : _mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
	if (!b.high)
		return x;
	__m256i h = bytes_at(block + b.high + half * 32);
	h = g < 4 ? _mm256_slli_epi16(h, 4 - g) : _mm256_srli_epi16(h, g - 4);
	return _mm256_or_si256(x, _mm256_and_si256(h, _mm256_set1_epi8(16)));
}

INLINE __m256 halves(const uint8_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* The integer sum of 8 rows and one token starts here: 16-bit lanes, or 32-bit ones for Q8_0. */
INLINE __m256i start_of(uint32_t type, const int16_t *sum)
{
	int32_t offset = type == WEIGHTS_Q5_1 ? 16 : matmul_block(type).offset;
	return offset ? _mm256_mullo_epi16(_mm256_set1_epi32(int_at(sum)), _mm256_set1_epi16((short)-offset)) : _mm256_setzero_si256();
}

/* s + w * q for one column group. */
INLINE __m256i accumulate(uint32_t type, __m256i s, __m256i w, const int8_t *q)
{
	__m256i x = _mm256_set1_epi32(int_at(q));
	if (type != WEIGHTS_Q8_0)
		return _mm256_add_epi16(s, _mm256_maddubs_epi16(w, x));
	__m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
	return _mm256_add_epi32(s, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}

/* f + the block: integer sum s, weight scales dw, minima mw, the token's scale and sums. */
INLINE __m256 finish(uint32_t type, __m256 f, __m256i s, __m256 dw, __m256 mw, const float *d, const int16_t *sum)
{
	const __m256i one = _mm256_set1_epi16(1);
	__m256i i = type == WEIGHTS_Q8_0 ? s : _mm256_madd_epi16(s, one);
	__m256i total = _mm256_madd_epi16(_mm256_set1_epi32(int_at(sum)), one);
	if (type == WEIGHTS_Q5_1)
		i = _mm256_add_epi32(i, _mm256_slli_epi32(total, 4));
	__m256 da = _mm256_broadcast_ss(d);
	f = _mm256_fmadd_ps(_mm256_mul_ps(dw, da), _mm256_cvtepi32_ps(i), f);
	if (!matmul_block(type).minima)
		return f;
	return _mm256_fmadd_ps(mw, _mm256_mul_ps(da, _mm256_cvtepi32_ps(total)), f);
}

INLINE __m256i row_mask(uint32_t rows)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* One to three tokens: both halves of a strip, nibbles unpacked on the way. */
INLINE void few(const uint8_t *block, uint32_t type, const struct kernels_activations *a, const uint32_t tokens, float *out, size_t ldo,
		uint32_t rows, bool more)
{
	const struct matmul_block b = matmul_block(type);
	const __m256i mask[2] = {row_mask(rows), row_mask(rows > 8 ? rows - 8 : 0)};
	__m256 f[3][2];
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			f[i][h] = more ? _mm256_maskload_ps(out + i * ldo + h * 8, mask[h]) : _mm256_setzero_ps();
	for (uint32_t k = 0; k < a->cols / WEIGHTS_BLOCK; k++, block += b.bytes) {
		const int8_t *q = a->q + (size_t)k * 128;
		const float *d = a->d + (size_t)k * 4;
		const int16_t *sum = a->sum + (size_t)k * 8;
		UNROLL
		for (int h = 0; h < 2; h++) {
			__m256i s[3];
			UNROLL
			for (uint32_t i = 0; i < tokens; i++)
				s[i] = start_of(type, sum + i * 2);
			UNROLL
			for (int g = 0; g < 8; g++) {
				__m256i w = group_of(block, type, h, g);
				UNROLL
				for (uint32_t i = 0; i < tokens; i++)
					s[i] = accumulate(type, s[i], w, q + g * 16 + i * 4);
			}
			__m256 dw = halves(block + h * 16), mw = b.minima ? halves(block + b.minima + h * 16) : dw;
			UNROLL
			for (uint32_t i = 0; i < tokens; i++)
				f[i][h] = finish(type, f[i][h], s[i], dw, mw, d + i, sum + i * 2);
		}
	}
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			_mm256_maskstore_ps(out + i * ldo + h * 8, mask[h], f[i][h]);
}

/* One block of a panel: codes as bytes, scales and minima in f32. */
struct panel_block {
	uint8_t codes[2][8][32]; /* [half][column group][8 rows x 4 columns] */
	float d[16], m[16];
};

INLINE void unpack(const uint8_t *strip, uint32_t type, uint32_t n, struct panel_block *panel)
{
	const struct matmul_block b = matmul_block(type);
	for (uint32_t k = 0; k < n; k++, strip += b.bytes) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			UNROLL
			for (int g = 0; g < 8; g++)
				_mm256_store_si256((__m256i *)(void *)panel[k].codes[h][g], group_of(strip, type, h, g));
			_mm256_store_ps(panel[k].d + h * 8, halves(strip + h * 16));
			if (b.minima)
				_mm256_store_ps(panel[k].m + h * 8, halves(strip + b.minima + h * 16));
		}
	}
}

/* 8 rows x the 4 tokens of a group over n blocks; only `tokens` of them are stored. */
INLINE void tile(const struct panel_block *panel, uint32_t type, int half, const int8_t *q, const float *d, const int16_t *sum,
		 uint32_t n, uint32_t tokens, float *out, size_t ldo, __m256i mask, bool more)
{
	__m256 f[4];
	UNROLL
	for (uint32_t i = 0; i < 4; i++)
		f[i] = more && i < tokens ? _mm256_maskload_ps(out + i * ldo, mask) : _mm256_setzero_ps();
	for (uint32_t k = 0; k < n; k++, q += 128, d += 4, sum += 8) {
		__m256i s[4];
		UNROLL
		for (int i = 0; i < 4; i++)
			s[i] = start_of(type, sum + i * 2);
		UNROLL
		for (int g = 0; g < 8; g++) {
			__m256i w = _mm256_load_si256((const __m256i *)(const void *)panel[k].codes[half][g]);
			UNROLL
			for (int i = 0; i < 4; i++)
				s[i] = accumulate(type, s[i], w, q + g * 16 + i * 4);
			/* Group by group: else the compiler hoists loads until it runs out of registers. */
			__asm__ volatile("" : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]));
		}
		__m256 dw = _mm256_load_ps(panel[k].d + half * 8), mw = _mm256_load_ps(panel[k].m + half * 8);
		UNROLL
		for (int i = 0; i < 4; i++)
			f[i] = finish(type, f[i], s[i], dw, mw, d + i, sum + i * 2);
	}
	UNROLL
	for (uint32_t i = 0; i < 4; i++)
		if (i < tokens)
			_mm256_maskstore_ps(out + i * ldo, mask, f[i]);
}

INLINE void many(const uint8_t *strip, uint32_t type, const struct kernels_activations *a, uint32_t first, uint32_t n, float *out,
		 size_t ldo, uint32_t rows, bool more, struct panel_block *panel)
{
	unpack(strip, type, n, panel);
	for (int h = 0; h < 2 && rows > (uint32_t)h * 8; h++) {
		__m256i mask = row_mask(rows - (uint32_t)h * 8);
		for (uint32_t t = 0; t < a->n; t += KERNELS_GROUP) {
			size_t at = (size_t)(t / KERNELS_GROUP) * (a->cols / WEIGHTS_BLOCK) + first;
			uint32_t tokens = a->n - t < KERNELS_GROUP ? a->n - t : KERNELS_GROUP;
			tile(panel, type, h, a->q + at * 128, a->d + at * 4, a->sum + at * 8, n, tokens, out + t * ldo + h * 8, ldo, mask,
			     more);
		}
	}
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips,
		    const struct kernels_activations *a, float *out, size_t ldo, bool more, void *scratch)
{
	const struct matmul_block b = matmul_block(type);
	uint64_t stride = weights_strip_bytes(type, m->cols);
	uint32_t blocks = m->cols / WEIGHTS_BLOCK, fit = PANEL_BYTES / (WEIGHTS_BLOCK * a->n);
	uint32_t panel = a->n < KERNELS_GROUP ? blocks : fit < 8 ? 8 : fit > PANEL_BLOCKS ? PANEL_BLOCKS : fit;
	for (uint32_t first = 0; first < blocks; first += panel) {
		uint32_t n = blocks - first < panel ? blocks - first : panel;
		for (uint32_t s = strip; s < strip + n_strips; s++) {
			const uint8_t *w = m->data + s * stride + (size_t)first * b.bytes;
			float *o = out + (size_t)s * WEIGHTS_STRIP;
			uint32_t left = m->rows - s * WEIGHTS_STRIP, rows = left < WEIGHTS_STRIP ? left : WEIGHTS_STRIP;
			switch (a->n) {
			case 1: few(w, type, a, 1, o, ldo, rows, more); break;
			case 2: few(w, type, a, 2, o, ldo, rows, more); break;
			case 3: few(w, type, a, 3, o, ldo, rows, more); break;
			default: many(w, type, a, first, n, o, ldo, rows, more || first > 0, scratch);
			}
		}
	}
}

void matmul_avx2(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a, float *out,
		 size_t ldo, bool more, void *scratch)
{
	if (a->n == 0)
		return;
	switch (m->type) {
	case WEIGHTS_Q4_0: product(m, WEIGHTS_Q4_0, strip, n_strips, a, out, ldo, more, scratch); break;
	case WEIGHTS_Q4_1: product(m, WEIGHTS_Q4_1, strip, n_strips, a, out, ldo, more, scratch); break;
	case WEIGHTS_Q5_0: product(m, WEIGHTS_Q5_0, strip, n_strips, a, out, ldo, more, scratch); break;
	case WEIGHTS_Q5_1: product(m, WEIGHTS_Q5_1, strip, n_strips, a, out, ldo, more, scratch); break;
	case WEIGHTS_Q8_0: product(m, WEIGHTS_Q8_0, strip, n_strips, a, out, ldo, more, scratch); break;
	}
}
