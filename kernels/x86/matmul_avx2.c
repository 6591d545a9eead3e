/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised activations and matrix products by AVX2.
 *
 * vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits. For 4- and 5-bit weights all eight column groups of
 * a block are summed in 16 bits, modulo 2^16, starting at minus offset times the activations' sum over the same columns: the
 * true sum of a lane, 16 products of at most 16 x 127, fits, so the wrapped one is exact. Q5_1's codes go up to 31 and have no
 * offset: they are summed as if it were 16, which is put back in 32 bits. Q8_0 would not fit: its bytes are two planes of
 * nibbles, the higher one with an offset of 8, and 16 times the one's sum plus the other's is the block's.
 *
 * From four tokens on a panel of a strip is unpacked once to bytes in scratch, and tiles of 16 rows x 4 tokens run over it: each
 * activation that is broadcast meets both halves of the strip, because loads, two a cycle, are what runs out first. Eight registers
 * hold integer sums; the float sums wait in memory. Fewer tokens are bound by memory: there codes are unpacked on the way.
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
	PANEL_CODES = 24 << 10,  /* unpacked weights of a panel: they stay in the first-level cache */
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

static bool quantise_alone(const float *x, struct kernels_activations *a)
{
	bool finite = true;
	for (uint32_t b = 0; b < a->cols / WEIGHTS_BLOCK; b++) {
		__m256i codes;
		finite &= codes_of(x + b * WEIGHTS_BLOCK, &codes, &a->d[b]);
		int32_t sums = sums_of(codes);
		a->dsum[b] = a->d[b] * (float)((int16_t)sums + (sums >> 16));
		_mm256_storeu_si256((__m256i *)(void *)(a->q + b * WEIGHTS_BLOCK), codes);
		memcpy(a->sum + b * 2, &sums, sizeof sums);
	}
	return finite;
}

bool quantise_avx2(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a)
{
	uint32_t blocks = a->cols / WEIGHTS_BLOCK, end = first + count;
	bool finite = true;
	if (kernels_group(a->n) == 1)
		return quantise_alone(x + first * ldx, a);
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
			__m128i total = _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(const void *)sums), _mm_set1_epi16(1));
			_mm_storeu_ps(a->dsum + at * KERNELS_GROUP, _mm_mul_ps(_mm_loadu_ps(d), _mm_cvtepi32_ps(total)));
		}
	}
	return finite;
}

/* Weights ---------------------------------------------------------------------------------------------------------- */

/* A plane is what 16-bit sums can hold: Q8_0 has two, of high and of low nibbles. */
INLINE uint32_t planes_of(uint32_t type)
{
	return type == WEIGHTS_Q8_0 ? 2 : 1;
}

/* What is subtracted from the codes of plane 0. */
INLINE int offset_of(uint32_t type)
{
	return type == WEIGHTS_Q8_0 ? 8 : type == WEIGHTS_Q5_1 ? 16 : matmul_block(type).offset;
}

INLINE __m256i row_mask(uint32_t rows)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Column group g of 8 rows (half 0 or 1) of a block's plane, as unsigned codes. */
INLINE __m256i group_of(const uint8_t *block, uint32_t type, uint32_t plane, int half, int g)
{
	const struct matmul_block b = matmul_block(type);
	const __m256i nibble = _mm256_set1_epi8(15);
	if (type == WEIGHTS_Q8_0) {
		__m256i w = bytes_at(block + b.codes + g * 64 + half * 32);
		if (plane == 1)
			return _mm256_and_si256(w, nibble);
		return _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(w, 4), nibble), _mm256_set1_epi8(8));
	}
	__m256i x = bytes_at(block + b.codes + g % 4 * 64 + half * 32);
	x = _mm256_and_si256(g < 4 ? x : _mm256_srli_epi16(x, 4), nibble);
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

/*
 * Asks for the lines of a block in ascending order, as a product that waits for memory does first: high bits stand behind the
 * codes that they belong to, and prefetchers fall behind a stream that jumps. From memory, one token and thread, Q5_0 and Q5_1 run
 * at 23 GB/s instead of 12.
 */
INLINE void touch(const uint8_t *block, uint32_t bytes)
{
	UNROLL
	for (uint32_t i = 0; i < bytes; i += 64)
		(void)*(const volatile uint8_t *)(block + i);
}

/* A block of a panel: 16 scales and 16 minima in f32, then planes x 8 groups x 64 bytes of codes. */
INLINE uint32_t panel_codes_at(uint32_t plane, int half, int g)
{
	return 128 + (plane * 8 + (uint32_t)g) * 64 + (uint32_t)half * 32;
}

INLINE uint32_t panel_block_bytes(uint32_t type)
{
	return panel_codes_at(planes_of(type), 0, 0);
}

/* Where a tile reads its weights: blocks of the image, or those of a panel. */
struct source {
	const uint8_t *block;
	uint32_t type;
	bool packed;
};

INLINE __m256i codes_at(struct source w, uint32_t plane, int half, int g)
{
	if (w.packed)
		return group_of(w.block, w.type, plane, half, g);
	return bytes_at(w.block + panel_codes_at(plane, half, g));
}

/* Eight scales (what 0) or minima (1). */
INLINE __m256 scales_at(struct source w, int what, int half)
{
	if (w.packed)
		return halves(w.block + (what ? matmul_block(w.type).minima : 0) + half * 16);
	return _mm256_loadu_ps((const float *)(const void *)w.block + what * 16 + half * 8);
}

/* Unpacks n blocks of a strip into a panel. */
INLINE void unpack(const uint8_t *strip, uint32_t type, uint32_t n, uint8_t *panel)
{
	struct source w = {strip, type, true};
	for (uint32_t k = 0; k < n; k++, w.block += matmul_block(type).bytes, panel += panel_block_bytes(type)) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			UNROLL
			for (int g = 0; g < 8; g++)
				UNROLL
				for (uint32_t plane = 0; plane < planes_of(type); plane++)
					_mm256_storeu_si256((__m256i *)(void *)(panel + panel_codes_at(plane, h, g)),
							    codes_at(w, plane, h, g));
			_mm256_storeu_ps((float *)(void *)panel + h * 8, scales_at(w, 0, h));
			if (matmul_block(type).minima)
				_mm256_storeu_ps((float *)(void *)panel + 16 + h * 8, scales_at(w, 1, h));
		}
	}
}

/* Activations of a group of 4 tokens, or of a single token, from some block on. */
struct group {
	const int8_t *q;
	const float *d;
	const int16_t *sum;
	const float *dsum;
	uint32_t size; /* kernels_group() */
};

/* What is one number a token and block: made for a group in four lanes, then broadcast from memory. */
struct starts {
	int32_t lanes[KERNELS_GROUP]; /* two 16-bit sums: minus offset times the sums of codes */
	int32_t back[KERNELS_GROUP];  /* Q5_1: 16 times the sum of codes */
};

INLINE void starts_of_group(uint32_t type, struct group a, struct starts *ret)
{
	__m128i s = a.size == 1 ? _mm_cvtsi32_si128(int_at(a.sum)) : _mm_loadu_si128((const __m128i *)(const void *)a.sum);
	_mm_store_si128((__m128i *)(void *)ret->lanes, _mm_mullo_epi16(s, _mm_set1_epi16((short)-offset_of(type))));
	if (type == WEIGHTS_Q5_1)
		_mm_store_si128((__m128i *)(void *)ret->back, _mm_madd_epi16(s, _mm_set1_epi16(16)));
	__asm__("" : "+m"(*ret)); /* through memory: broadcasting a load is free, a lane of a register is not */
}

/* s[token][half] + the products of one column group of both halves. */
INLINE void add_group(__m256i s[KERNELS_GROUP][2], const uint32_t tokens, __m256i w, __m256i v, const int8_t *q)
{
	UNROLL
	for (uint32_t i = 0; i < tokens; i++) {
		__m256i x = _mm256_set1_epi32(int_at(q + i * 4));
		s[i][0] = _mm256_add_epi16(s[i][0], _mm256_maddubs_epi16(w, x));
		s[i][1] = _mm256_add_epi16(s[i][1], _mm256_maddubs_epi16(v, x));
		/* Token by token: else the compiler hoists loads until it runs out of registers. */
		__asm__ volatile("" : "+x"(s[i][0]), "+x"(s[i][1]));
	}
}

/* z[token][half] = the integers of one plane of a block, 16 rows and some tokens, times what the plane is worth. */
INLINE void dot_plane(struct source w, uint32_t plane, const uint32_t tokens, struct group a, const struct starts *start,
		      __m256i z[KERNELS_GROUP][2])
{
	const __m256i factor = _mm256_set1_epi16(plane + 1 < planes_of(w.type) ? 16 : 1);
	__m256i s[KERNELS_GROUP][2];
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		s[i][0] = s[i][1] = plane == 0 && offset_of(w.type) ? _mm256_set1_epi32(start->lanes[i]) : _mm256_setzero_si256();
	UNROLL
	for (int g = 0; g < 8; g++)
		add_group(s, tokens, codes_at(w, plane, 0, g), codes_at(w, plane, 1, g), a.q + g * 4 * (int)a.size);
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			z[i][h] = _mm256_madd_epi16(s[i][h], factor);
}

/* z[token][half] = the integers of a block. */
INLINE void dot(struct source w, const uint32_t tokens, struct group a, const struct starts *start, __m256i z[KERNELS_GROUP][2])
{
	__m256i high[KERNELS_GROUP][2];
	if (planes_of(w.type) == 1) {
		dot_plane(w, 0, tokens, a, start, z);
		return;
	}
	dot_plane(w, 0, tokens, a, start, high);
	__asm__("" : "+m"(high)); /* waits in memory */
	dot_plane(w, 1, tokens, a, start, z);
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			z[i][h] = _mm256_add_epi32(z[i][h], high[i][h]);
}

/* n blocks of a strip's 16 rows for some tokens of a group: sums continue in out (rows of ldo), of which `rows` are there. */
INLINE void tile(struct source w, uint32_t n, struct group a, const uint32_t tokens, float *out, size_t ldo, uint32_t rows,
		 bool more)
{
	const __m256i mask[2] = {row_mask(rows), row_mask(rows > 8 ? rows - 8 : 0)};
	const bool minima = matmul_block(w.type).minima;
	_Alignas(32) float f[KERNELS_GROUP][2][8];
	_Alignas(32) struct starts start;
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			_mm256_store_ps(f[i][h], more ? _mm256_maskload_ps(out + i * ldo + h * 8, mask[h]) : _mm256_setzero_ps());
	for (uint32_t k = 0; k < n; k++, a.q += 32 * a.size, a.d += a.size, a.sum += 2 * a.size, a.dsum += a.size) {
		__m256i z[KERNELS_GROUP][2];
		if (w.packed)
			touch(w.block, matmul_block(w.type).bytes);
		starts_of_group(w.type, a, &start);
		dot(w, tokens, a, &start, z);
		if (tokens == KERNELS_GROUP)
			__asm__("" : "+m"(f)); /* registers are for the integers */
		UNROLL
		for (int h = 0; h < 2; h++) {
			__m256 dw = scales_at(w, 0, h), mw = minima ? scales_at(w, 1, h) : dw;
			UNROLL
			for (uint32_t i = 0; i < tokens; i++) {
				__m256 d = _mm256_mul_ps(dw, _mm256_broadcast_ss(a.d + i));
				if (w.type == WEIGHTS_Q5_1)
					z[i][h] = _mm256_add_epi32(z[i][h], _mm256_set1_epi32(start.back[i]));
				__m256 sum = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(z[i][h]), _mm256_load_ps(f[i][h]));
				if (minima)
					sum = _mm256_fmadd_ps(mw, _mm256_broadcast_ss(a.dsum + i), sum);
				_mm256_store_ps(f[i][h], sum);
			}
		}
		w.block += w.packed ? matmul_block(w.type).bytes : panel_block_bytes(w.type);
	}
	UNROLL
	for (uint32_t i = 0; i < tokens; i++)
		UNROLL
		for (int h = 0; h < 2; h++)
			_mm256_maskstore_ps(out + i * ldo + h * 8, mask[h], _mm256_load_ps(f[i][h]));
}

/* The same for tokens from t on, at most a group of them. */
INLINE void group_tile(struct source w, uint32_t first, uint32_t n, const struct kernels_activations *a, uint32_t t, float *out,
		       size_t ldo, uint32_t rows, bool more)
{
	size_t at = (size_t)(t / KERNELS_GROUP) * (a->cols / WEIGHTS_BLOCK) + first;
	struct group x = {a->q + at * 128, a->d + at * 4, a->sum + at * 8, a->dsum + at * 4, KERNELS_GROUP};
	struct group alone = {a->q + (size_t)first * 32, a->d + first, a->sum + (size_t)first * 2, a->dsum + first, 1};
	out += t * ldo;
	if (kernels_group(a->n) == 1) {
		tile(w, n, alone, 1, out, ldo, rows, more);
		return;
	}
	switch (a->n - t) {
	case 1: tile(w, n, x, 1, out, ldo, rows, more); break;
	case 2: tile(w, n, x, 2, out, ldo, rows, more); break;
	case 3: tile(w, n, x, 3, out, ldo, rows, more); break;
	default: tile(w, n, x, 4, out, ldo, rows, more);
	}
}

/* Blocks [first, first + n) of one strip for all tokens. */
INLINE void strip_panel(const uint8_t *strip, uint32_t type, uint32_t first, uint32_t n, const struct kernels_activations *a,
			float *out, size_t ldo, uint32_t rows, bool more, uint8_t *panel)
{
	if (a->n < KERNELS_GROUP) {
		group_tile((struct source){strip, type, true}, first, n, a, 0, out, ldo, rows, more);
		return;
	}
	unpack(strip, type, n, panel);
	for (uint32_t t = 0; t < a->n; t += KERNELS_GROUP)
		group_tile((struct source){panel, type, false}, first, n, a, t, out, ldo, rows, more);
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips,
		    const struct kernels_activations *a, float *out, size_t ldo, bool more, uint8_t *panel)
{
	uint64_t stride = weights_strip_bytes(type, m->cols);
	uint32_t blocks = m->cols / WEIGHTS_BLOCK, fit = PANEL_BYTES / (WEIGHTS_BLOCK * a->n);
	uint32_t most = PANEL_CODES / panel_block_bytes(type), step = fit < 8 ? 8 : fit > most ? most : fit;
	if (a->n < KERNELS_GROUP)
		step = blocks;
	for (uint32_t first = 0; first < blocks; first += step) {
		uint32_t n = blocks - first < step ? blocks - first : step;
		for (uint32_t s = strip; s < strip + n_strips; s++) {
			const uint8_t *w = m->data + s * stride + (size_t)first * matmul_block(type).bytes;
			uint32_t left = m->rows - s * WEIGHTS_STRIP, rows = left < WEIGHTS_STRIP ? left : WEIGHTS_STRIP;
			strip_panel(w, type, first, n, a, out + (size_t)s * WEIGHTS_STRIP, ldo, rows, more || first > 0, panel);
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
