/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector topic as plain loops, compiled once an instruction set: the file that includes this one names the functions by
 * VECTOR(op). Without -ffast-math a compiler may choose instructions but not results, so the three objects give the same
 * bytes, and the loops read like docs/ARITHMETIC.md. Sums run in 16 fixed lanes (lane j takes elements j, j + 16, ...), which
 * is one AVX-512 register, two of AVX2, or an array.
 *
 * ivdep: outputs may be inputs in place, never shifted against them, so no iteration reads what another wrote.
 */
#ifndef VECTOR
#error "define VECTOR(op) before including kernels/vector_loops.h"
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "base/f16.h"
#include "kernels/attention.h"
#include "kernels/elementary.h"
#include "kernels/kernels.h"
#include "shm/pages.h"

#ifdef __clang__ /* has no ivdep, and checks for overlap as it runs */
#pragma clang diagnostic ignored "-Wunknown-pragmas"
#endif

enum { LANES = 16 };

/* Folds lanes by halves: j and j + 8, then j + 4, j + 2, j + 1. */
static inline float fold(const float lane[LANES])
{
	float u[8];
	for (int j = 0; j < 8; j++)
		u[j] = lane[j] + lane[j + 8];
	return ((u[0] + u[4]) + (u[2] + u[6])) + ((u[1] + u[5]) + (u[3] + u[7]));
}

static inline float sum(const float *x, size_t n)
{
	float lane[LANES] = {0};
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += x[i + j];
	for (int j = 0; i < n; i++, j++)
		lane[j] += x[i];
	return fold(lane);
}

/* Sum of (x - centre)^2: a difference, a product and an addition, each rounded. */
static inline float sum_of_squares(const float *x, float centre, size_t n)
{
	float lane[LANES] = {0};
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += (x[i + j] - centre) * (x[i + j] - centre);
	for (int j = 0; i < n; i++, j++)
		lane[j] += (x[i] - centre) * (x[i] - centre);
	return fold(lane);
}

void VECTOR(layer_norm)(const float *x, const float *w, const float *b, float eps, size_t n, float *out)
{
	float mean = sum(x, n) / (float)n;
	float inverse = 1.0f / sqrtf(sum_of_squares(x, mean, n) / (float)n + eps);
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		out[i] = (x[i] - mean) * inverse * w[i] + b[i];
}

void VECTOR(rms_norm)(const float *x, const float *w, float eps, size_t n, float *out)
{
	float inverse = 1.0f / sqrtf(sum_of_squares(x, 0.0f, n) / (float)n + eps);
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] * inverse * w[i];
}

void VECTOR(gelu)(float *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		float half = 0.5f * x[i];
		x[i] = fmaf(half, elementary_erf(x[i] * 0x1.6a09e6p-1f), half);
	}
}

void VECTOR(swiglu)(const float *gate, const float *up, size_t n, float *out)
{
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		out[i] = gate[i] / (1.0f + elementary_exp(-gate[i])) * up[i];
}

void VECTOR(add)(float *x, const float *y, size_t n)
{
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		x[i] += y[i];
}

void VECTOR(rope)(float *x, const float *table, uint32_t n_heads, uint32_t head_dim)
{
	size_t half = head_dim / 2;
	const float *cosine = table, *sine = table + half;
	for (uint32_t h = 0; h < n_heads; h++) {
		float *low = x + (size_t)h * head_dim, *high = low + half;
#pragma GCC ivdep
		for (size_t i = 0; i < half; i++) {
			float a = low[i], b = high[i];
			low[i] = a * cosine[i] - b * sine[i];
			high[i] = b * cosine[i] + a * sine[i];
		}
	}
}

void VECTOR(scale)(const float *x, float factor, size_t n, float *out)
{
#pragma GCC ivdep
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] * factor;
}

static inline uint16_t narrow(float x)
{
#ifdef __F16C__
	return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
	return f16_from_f32(x);
#endif
}

/* One token's codes, `step` elements apart, and its scale. */
static inline void store_codes(const float *x, uint32_t n, int8_t *codes, size_t step, float *ret_scale)
{
	float factor;
	*ret_scale = attention_code_scale(x, n, &factor);
	for (uint32_t i = 0; i < n; i++)
		codes[i * step] = (int8_t)attention_code(x[i], factor);
}

void VECTOR(store_kv)(const float *key, const float *value, uint32_t kv, uint32_t head_dim, uint32_t at, void *keys,
		      void *values)
{
	size_t elements = (size_t)head_dim * PAGE_TOKENS;
	if (kv == PAGES_Q8) {
		int8_t *k = keys, *v = values;
		store_codes(key, head_dim, k + at, PAGE_TOKENS, (float *)(void *)(k + elements) + at);
		store_codes(value, head_dim, v + (size_t)at * head_dim, 1, (float *)(void *)(v + elements) + at);
	} else if (kv == PAGES_F16) {
		uint16_t *k = keys, *v = values;
		for (uint32_t d = 0; d < head_dim; d++) {
			k[(size_t)d * PAGE_TOKENS + at] = narrow(key[d]);
			v[(size_t)at * head_dim + d] = narrow(value[d]);
		}
	} else {
		float *k = keys, *v = values;
		for (uint32_t d = 0; d < head_dim; d++) {
			k[(size_t)d * PAGE_TOKENS + at] = key[d];
			v[(size_t)at * head_dim + d] = value[d];
		}
	}
}

/* Adding +0 turns a largest -0 into +0, which an order of comparison would otherwise choose between. */
float VECTOR(max)(const float *x, size_t n)
{
	float lane[LANES];
	for (int j = 0; j < LANES; j++)
		lane[j] = -INFINITY;
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
	for (int j = 0; i < n; i++, j++)
		lane[j] = x[i] > lane[j] ? x[i] : lane[j];
	for (int j = 1; j < LANES; j++)
		lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
	return lane[0] + 0.0f;
}

float VECTOR(sum_exp)(const float *x, float max, size_t n)
{
	float lane[LANES] = {0};
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		for (int j = 0; j < LANES; j++)
			lane[j] += elementary_exp(x[i + j] - max);
	for (int j = 0; i < n; i++, j++)
		lane[j] += elementary_exp(x[i] - max);
	return fold(lane);
}

/* The first part that saw something is taken as it is; parts that saw nothing (l = 0) change nothing. */
void VECTOR(merge)(const struct kernels_partial *parts, uint32_t n_parts, uint32_t rows, uint32_t head_dim, float *out,
		   size_t ldo)
{
	for (uint32_t r = 0; r < rows; r++) {
		float m = -INFINITY, l = 0.0f, *o = out + r * ldo;
		memset(o, 0, head_dim * sizeof *o);
		for (uint32_t p = 0; p < n_parts; p++) {
			const float *part = parts[p].o + (size_t)r * head_dim;
			if (parts[p].l[r] == 0.0f)
				continue;
			if (l == 0.0f) {
				m = parts[p].m[r];
				l = parts[p].l[r];
				memcpy(o, part, head_dim * sizeof *o);
				continue;
			}
			float largest = parts[p].m[r] > m ? parts[p].m[r] : m;
			float c = elementary_exp2(m - largest), e = elementary_exp2(parts[p].m[r] - largest);
			m = largest;
			l = fmaf(l, c, e * parts[p].l[r]);
#pragma GCC ivdep
			for (uint32_t d = 0; d < head_dim; d++)
				o[d] = fmaf(e, part[d], o[d] * c);
		}
		for (uint32_t d = 0; l != 0.0f && d < head_dim; d++)
			o[d] /= l;
	}
}
