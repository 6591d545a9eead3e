/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised matrix products by AMX. One TDPBSSD multiplies 16 tokens x 32 columns by 32 columns x 16 rows, signed bytes, into
 * 16 x 16 integers: a block of one strip, after which the block's scales are due. So integers leave their tile after each block
 * and the float sums of 16 tokens x 16 rows stay in vector registers: what limits this kernel is not the tiles but the
 * conversion, product and FMA that each 16 integers then take.
 *
 * A strip's layout is that of the second operand as it stands: 64 bytes are 4 columns of 16 rows. Its codes are unpacked to
 * signed bytes, offset subtracted, once a panel of columns and chunk of tokens. The first operand wants a token's 32 columns
 * together; activations stand in groups of 4 tokens and are put in order once a panel, for all strips of the call.
 *
 * Fewer tokens than a tile has go to AVX-512 VNNI. Its integers are the same, and so is each block's FMA. Of more than that,
 * the last tile is filled up with zeros.
 */
#if !(defined(__AMX_INT8__) || defined(__AMXINT8__)) || !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "compile with -mamx-tile -mamx-int8 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c"
#endif

#include <assert.h>
#include <immintrin.h>

#include "kernels/matmul.h"

enum {
	TILE = 16,   /* tokens of a tile */
	CHUNK = 128, /* tokens that a panel is unpacked for */
	PANEL = 32,  /* blocks: a strip's, 20 KB unpacked, stay in the first-level cache while the chunk's tokens pass by */
};

#define INLINE static inline __attribute__((always_inline))
/* Loops over a tile's registers: unrolled whole, or the arrays would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

/* A block of a strip, and the same block of 16 tokens, as tiles and their scales. */
struct weights {
	int8_t codes[8][64]; /* [column group][16 rows][4 columns], signed */
	float scale[16], minimum[16];
};
struct tokens {
	int8_t codes[TILE][WEIGHTS_BLOCK];
	float scale[TILE], sum[TILE]; /* sum: scale times the sum of the codes */
};
struct room {
	struct weights weights[PANEL];
	struct tokens tokens[CHUNK / TILE][PANEL];
};
static_assert(sizeof(struct room) <= MATMUL_AMX_SCRATCH, "MATMUL_AMX_SCRATCH");

/* What LDTILECFG reads. Two sets of three tiles, so that one product starts before the last one is stored. */
static const struct {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
} shapes = {
	.palette = 1,
	.row_bytes = {64, 64, WEIGHTS_BLOCK, WEIGHTS_BLOCK, 64, 64}, /* 0, 1: integers; 2, 3: tokens; 4, 5: weights */
	.rows = {TILE, TILE, TILE, TILE, 8, 8},
};
static_assert(sizeof shapes == 64, "LDTILECFG's operand");

/* out = tokens x rows of one block. Tiles are named in the instructions, so which set is a branch. */
INLINE void multiply(uint32_t set, const struct tokens *t, const struct weights *w, int32_t out[TILE][16])
{
	if (set == 0) {
		_tile_zero(0);
		_tile_loadd(2, t->codes, sizeof t->codes[0]);
		_tile_loadd(4, w->codes, sizeof w->codes[0]);
		_tile_dpbssd(0, 2, 4);
		_tile_stored(0, out, sizeof out[0]);
	} else {
		_tile_zero(1);
		_tile_loadd(3, t->codes, sizeof t->codes[0]);
		_tile_loadd(5, w->codes, sizeof w->codes[0]);
		_tile_dpbssd(1, 3, 5);
		_tile_stored(1, out, sizeof out[0]);
	}
}

/* f[token] += a block's integers times its scales, 16 rows a register. */
INLINE void add_block(const int32_t integers[TILE][16], const struct tokens *t, const struct weights *w, bool minima,
		      __m512 f[TILE])
{
	__m512 scale = _mm512_load_ps(w->scale), minimum = _mm512_load_ps(w->minimum);
	UNROLL
	for (int i = 0; i < TILE; i++) {
		__m512 d = _mm512_mul_ps(scale, _mm512_set1_ps(t->scale[i]));
		f[i] = _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_load_si512(integers[i])), f[i]);
		if (minima)
			f[i] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(t->sum[i]), f[i]);
	}
}

/* n blocks for one tile, of which some tokens are there: sums continue in out (rows of ldo), 16 lanes under mask. */
INLINE void tile(const struct tokens *t, const struct weights *w, uint32_t n, bool minima, uint32_t tokens, float *out,
		 size_t ldo, __mmask16 mask, bool more)
{
	_Alignas(64) int32_t integers[2][TILE][16];
	__m512 f[TILE];
	UNROLL
	for (uint32_t i = 0; i < TILE; i++)
		f[i] = more && i < tokens ? _mm512_maskz_loadu_ps(mask, out + i * ldo) : _mm512_setzero_ps();
	multiply(0, t, w, integers[0]);
	for (uint32_t k = 0; k < n; k++) {
		if (k + 1 < n)
			multiply((k + 1) % 2, t + k + 1, w + k + 1, integers[(k + 1) % 2]);
		add_block(integers[k % 2], t + k, w + k, minima, f);
	}
	UNROLL
	for (uint32_t i = 0; i < TILE; i++)
		if (i < tokens)
			_mm512_mask_storeu_ps(out + i * ldo, mask, f[i]);
}

INLINE __m512 halves(const uint8_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

INLINE void unpack_block(const uint8_t *block, uint32_t type, struct weights *w)
{
	const struct matmul_block b = matmul_block(type);
	const __m512i nibble = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16), offset = _mm512_set1_epi8((char)b.offset);
	__m512i high = b.high ? _mm512_loadu_si512(block + b.high) : nibble;
	_mm512_store_ps(w->scale, halves(block));
	_mm512_store_ps(w->minimum, b.minima ? halves(block + b.minima) : _mm512_setzero_ps());
	UNROLL
	for (unsigned g = 0; g < 4; g++) {
		__m512i x = _mm512_loadu_si512(block + b.codes + g * 64), y;
		if (type == WEIGHTS_Q8_0) {
			y = _mm512_loadu_si512(block + b.codes + (g + 4) * 64);
		} else {
			y = _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble);
			x = _mm512_and_si512(x, nibble);
		}
		if (b.high) { /* 0xf8: codes | bits & fifth */
			x = _mm512_ternarylogic_epi32(x, _mm512_slli_epi16(high, 4 - g), fifth, 0xf8);
			y = _mm512_ternarylogic_epi32(y, _mm512_srli_epi16(high, g), fifth, 0xf8);
		}
		_mm512_store_si512(w->codes[g], _mm512_sub_epi8(x, offset));
		_mm512_store_si512(w->codes[g + 4], _mm512_sub_epi8(y, offset));
	}
}

static void unpack(const uint8_t *block, uint32_t type, uint32_t n, struct weights *w)
{
	for (uint32_t k = 0; k < n; k++, block += matmul_block(type).bytes)
		switch (type) {
		case WEIGHTS_Q4_0: unpack_block(block, WEIGHTS_Q4_0, &w[k]); break;
		case WEIGHTS_Q4_1: unpack_block(block, WEIGHTS_Q4_1, &w[k]); break;
		case WEIGHTS_Q5_0: unpack_block(block, WEIGHTS_Q5_0, &w[k]); break;
		case WEIGHTS_Q5_1: unpack_block(block, WEIGHTS_Q5_1, &w[k]); break;
		case WEIGHTS_Q8_0: unpack_block(block, WEIGHTS_Q8_0, &w[k]); break;
		}
}

/* A block of four tokens, as tokens i to i + 3 of a tile. */
INLINE void order_group(const int8_t *q, const float *d, const float *dsum, uint32_t i, struct tokens *out)
{
	/* The codes are 32 integers [8 column groups][4 tokens]: those of tokens 0 and 1, of tokens 2 and 3. */
	const __m512i low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
	const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
	__m512i x = _mm512_loadu_si512(q), y = _mm512_loadu_si512(q + 64);
	_mm512_store_si512(out->codes[i], _mm512_permutex2var_epi32(x, low, y));
	_mm512_store_si512(out->codes[i + 2], _mm512_permutex2var_epi32(x, high, y));
	_mm_store_ps(out->scale + i, _mm_loadu_ps(d));
	_mm_store_ps(out->sum + i, _mm_loadu_ps(dsum));
}

/* Blocks [first, first + n) of the tile of tokens from t on; groups that are not there are zeros. */
static void order(const struct kernels_activations *a, uint32_t t, uint32_t first, uint32_t n, struct tokens *out)
{
	static const int8_t no_codes[KERNELS_GROUP * WEIGHTS_BLOCK];
	static const float no_scales[KERNELS_GROUP];
	size_t blocks = a->cols / WEIGHTS_BLOCK;
	for (uint32_t k = 0; k < n; k++, out++)
		for (uint32_t i = 0; i < TILE; i += KERNELS_GROUP) {
			size_t at = ((t + i) / KERNELS_GROUP * blocks + first + k) * KERNELS_GROUP;
			if (t + i < a->n)
				order_group(a->q + at * WEIGHTS_BLOCK, a->d + at, a->dsum + at, i, out);
			else
				order_group(no_codes, no_scales, no_scales, i, out);
		}
}

/* Blocks [first, first + n) for tokens [t, t + tokens), at most CHUNK, of all strips of the call. */
INLINE void panel(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
		  uint32_t t, uint32_t tokens, uint32_t first, uint32_t n, float *out, size_t ldo, bool more, struct room *room)
{
	const bool minima = matmul_block(m->type).minima;
	for (uint32_t i = 0; i < tokens; i += TILE)
		order(a, t + i, first, n, room->tokens[i / TILE]);
	for (uint32_t s = strip; s < strip + n_strips; s++) {
		const uint8_t *data = m->data + s * weights_strip_bytes(m->type, m->cols);
		uint32_t rows = m->rows - s * WEIGHTS_STRIP;
		__mmask16 mask = rows < WEIGHTS_STRIP ? (__mmask16)((1u << rows) - 1) : 0xffff;
		unpack(data + (size_t)first * matmul_block(m->type).bytes, m->type, n, room->weights);
		__asm__ volatile("" ::: "memory"); /* the compiler does not know what TILELOADD reads */
		for (uint32_t i = 0; i < tokens; i += TILE) {
			const struct tokens *x = room->tokens[i / TILE];
			float *o = out + (t + i) * ldo + (size_t)s * WEIGHTS_STRIP;
			if (minima)
				tile(x, room->weights, n, true, tokens - i, o, ldo, mask, more || first > 0);
			else
				tile(x, room->weights, n, false, tokens - i, o, ldo, mask, more || first > 0);
		}
	}
}

void matmul_amx(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
		float *out, size_t ldo, bool more, void *scratch)
{
	uint32_t blocks = m->cols / WEIGHTS_BLOCK;
	if (a->n < TILE) {
		matmul_avx512(m, strip, n_strips, a, out, ldo, more, scratch);
		return;
	}
	_tile_loadconfig(&shapes);
	for (uint32_t t = 0; t < a->n; t += CHUNK) {
		uint32_t tokens = a->n - t < CHUNK ? a->n - t : CHUNK;
		for (uint32_t first = 0; first < blocks; first += PANEL) {
			uint32_t n = blocks - first < PANEL ? blocks - first : PANEL;
			panel(m, strip, n_strips, a, t, tokens, first, n, out, ldo, more, scratch);
		}
	}
	_tile_release();
}
