/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dense matrix products by AVX-512: a register holds one column of a strip's 16 rows, and each token adds it times its own
 * activation, broadcast from memory, by one FMA. The order of the columns is the order of the sum, so lanes are rows, and the
 * tokens of a tile, or several strips where tokens are few, are what hides the latency. From PANEL_FROM tokens on a panel of
 * columns of two strips is widened once into scratch: two, so that the activations come from the second-level cache half as often.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__F16C__)
#error "compile with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c"
#endif

#include <immintrin.h>

#include "kernels/matmul.h"

enum { TILE = 12, PAIR = 2, FEW = 4, PANEL = 128, PANEL_FROM = 24 };

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

/* n columns of neighbouring strips that stand stride bytes apart; rows beyond the mask of the last are not written. */
struct columns {
	const uint8_t *strip;
	uint64_t stride;
	uint32_t type, n;
	__mmask16 last;
};

/* Sums of strips x tokens: one register each, out in rows of ldo. */
INLINE void tile(struct columns w, const uint32_t strips, const float *x, size_t ldx, const uint32_t tokens, float *out, size_t ldo,
		 bool more)
{
	__m512 f[FEW][TILE];
	UNROLL
	for (uint32_t s = 0; s < strips; s++)
		UNROLL
		for (uint32_t i = 0; i < tokens; i++)
			f[s][i] = more ? _mm512_maskz_loadu_ps(s + 1 < strips ? 0xffff : w.last, out + i * ldo + s * WEIGHTS_STRIP)
				       : _mm512_setzero_ps();
	for (uint32_t c = 0; c < w.n; c++) {
		__m512 y[FEW];
		UNROLL
		for (uint32_t s = 0; s < strips; s++)
			y[s] = column(w.strip + s * w.stride, w.type, c);
		UNROLL
		for (uint32_t i = 0; i < tokens; i++) {
			__m512 a = _mm512_set1_ps(x[i * ldx + c]);
			UNROLL
			for (uint32_t s = 0; s < strips; s++)
				f[s][i] = _mm512_fmadd_ps(y[s], a, f[s][i]);
		}
	}
	UNROLL
	for (uint32_t s = 0; s < strips; s++)
		UNROLL
		for (uint32_t i = 0; i < tokens; i++)
			_mm512_mask_storeu_ps(out + i * ldo + s * WEIGHTS_STRIP, s + 1 < strips ? 0xffff : w.last, f[s][i]);
}

/* One strip or PAIR, any number of tokens; FEW strips for one to three, which would not hide an FMA's latency alone. */
INLINE void tokens_of(struct columns w, const uint32_t strips, const float *x, size_t ldx, uint32_t tokens, float *out, size_t ldo,
		      bool more)
{
	uint32_t t = 0;
	for (; strips <= PAIR && t + TILE <= tokens; t += TILE)
		tile(w, strips, x + t * ldx, ldx, TILE, out + t * ldo, ldo, more);
	for (; strips <= PAIR && t + 4 <= tokens; t += 4)
		tile(w, strips, x + t * ldx, ldx, 4, out + t * ldo, ldo, more);
	x += t * ldx;
	out += t * ldo;
	switch (tokens - t) {
	case 3: tile(w, strips, x, ldx, 3, out, ldo, more); break;
	case 2: tile(w, strips, x, ldx, 2, out, ldo, more); break;
	case 1: tile(w, strips, x, ldx, 1, out, ldo, more); break;
	}
}

/* Widens a panel of some strips into f32 columns. */
INLINE struct columns widen(struct columns w, uint32_t strips, float *panel)
{
	for (uint32_t s = 0; s < strips; s++)
		for (uint32_t c = 0; c < w.n; c++)
			_mm512_store_ps(panel + (size_t)(s * PANEL + c) * WEIGHTS_STRIP, column(w.strip + s * w.stride, w.type, c));
	w.strip = (const uint8_t *)panel;
	w.stride = (uint64_t)PANEL * WEIGHTS_STRIP * sizeof *panel;
	w.type = WEIGHTS_F32;
	return w;
}

/* One widened strip or PAIR: not inline, or each type would have a copy of its own. */
static void tokens_of_panel(struct columns w, uint32_t strips, const float *x, size_t ldx, uint32_t tokens, float *out, size_t ldo,
			    bool more)
{
	w.type = WEIGHTS_F32; /* the compiler is told what widen() has made */
	if (strips == PAIR)
		tokens_of(w, PAIR, x, ldx, tokens, out, ldo, more);
	else
		tokens_of(w, 1, x, ldx, tokens, out, ldo, more);
}

INLINE void product(const struct kernels_matrix *m, uint32_t type, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx,
		    uint32_t tokens, float *out, size_t ldo, bool more, float *panel)
{
	struct columns w = {.stride = weights_strip_bytes(type, m->cols), .type = type};
	uint32_t step = tokens >= PANEL_FROM ? PANEL : m->cols, end = strip + n_strips, taken;
	for (uint32_t c = 0; c < m->cols; c += step) {
		w.n = m->cols - c < step ? m->cols - c : step;
		for (uint32_t s = strip; s < end; s += taken) {
			bool few = tokens < 4 && end - s >= FEW, pair = tokens >= PANEL_FROM && end - s >= PAIR;
			taken = few ? FEW : pair ? PAIR : 1;
			uint32_t rows = m->rows - (s + taken - 1) * WEIGHTS_STRIP;
			w.last = rows < WEIGHTS_STRIP ? (__mmask16)((1u << rows) - 1) : 0xffff;
			w.strip = m->data + s * w.stride + weights_strip_bytes(type, c);
			float *o = out + (size_t)s * WEIGHTS_STRIP;
			if (few)
				tokens_of(w, FEW, x + c, ldx, tokens, o, ldo, more || c > 0);
			else if (tokens >= PANEL_FROM)
				tokens_of_panel(widen(w, taken, panel), taken, x + c, ldx, tokens, o, ldo, more || c > 0);
			else
				tokens_of(w, 1, x + c, ldx, tokens, o, ldo, more || c > 0);
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
