/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elementary functions of one float, as docs/ARITHMETIC.md defines them: inline, without branches (a select is none), so that a
 * loop over them becomes vector code in every file that includes this one, with the same bits as the scalar call. The
 * polynomials are minimax fits of our own over the reduced range, Horner's scheme with one FMA a step.
 *
 * Rounding to the nearest integer adds and subtracts 1.5 * 2^23: exact for |x| < 2^22, the same on every machine, and the low
 * bits of the sum are the integer itself, ready to be shifted into an exponent.
 */
#ifndef FALCON_KERNELS_ELEMENTARY_H
#define FALCON_KERNELS_ELEMENTARY_H

#include <math.h>
#include <stdint.h>

#include "base/f16.h"

#define ELEMENTARY_ROUND 0x1.8p23f

/* 2^x for x <= 0: exactly 1 at 0 (of either sign), exactly +0 below -80, a NaN for a NaN. Within 1 ulp. */
static inline float elementary_exp2(float x)
{
	float t = x + ELEMENTARY_ROUND, f = x - (t - ELEMENTARY_ROUND);
	float p = 0x1.41fbbcp-13f;
	p = fmaf(p, f, 0x1.5f3e56p-10f);
	p = fmaf(p, f, 0x1.3b2d4cp-7f);
	p = fmaf(p, f, 0x1.c6aee8p-5f);
	p = fmaf(p, f, 0x1.ebfbdcp-3f);
	p = fmaf(p, f, 0x1.62e430p-1f);
	p = fmaf(p, f, 1.0f);
	float y = f32_from_bits(f32_bits(p) + (f32_bits(t) << 23));
	return x < -80.0f ? 0.0f : y;
}

/* e^x for any x: +0 below about -103.98, infinity above about 88.72, subnormals between. Within 1 ulp where normal. */
static inline float elementary_exp(float x)
{
	x = x < -105.0f ? -105.0f : x;
	x = x > 89.0f ? 89.0f : x;
	float t = fmaf(x, 0x1.715476p0f, ELEMENTARY_ROUND), n = t - ELEMENTARY_ROUND;
	float f = fmaf(n, -0x1.62e4p-1f, x); /* ln 2 in two parts, the first of 15 bits: n times it is exact */
	f = fmaf(n, -0x1.7f7d1cp-20f, f);
	float p = 0x1.6a23ccp-10f;
	p = fmaf(p, f, 0x1.123a20p-7f);
	p = fmaf(p, f, 0x1.5558f4p-5f);
	p = fmaf(p, f, 0x1.555492p-3f);
	p = fmaf(p, f, 0x1.fffffcp-2f);
	p = fmaf(p, f, 1.0f);
	p = fmaf(p, f, 1.0f);
	/* 2^n in two factors: the first product is exact, the second rounds once, also to a subnormal. */
	int32_t i = (int32_t)(f32_bits(t) - f32_bits(ELEMENTARY_ROUND)), half = i >> 1;
	float a = f32_from_bits((uint32_t)(half + 127) << 23), b = f32_from_bits((uint32_t)(i - half + 127) << 23);
	return p * a * b;
}

/* Natural logarithm: -infinity at zero, NaN below. Within 1 ulp. */
static inline float elementary_log(float x)
{
	uint32_t subnormal = x < 0x1p-126f;
	float scaled = subnormal ? x * 0x1p24f : x;
	uint32_t bits = f32_bits(scaled) - 0x3f3504f3u; /* sqrt(1/2): what is left is in [sqrt(1/2), sqrt 2) */
	float n = (float)((int32_t)bits >> 23) - (subnormal ? 24.0f : 0.0f);
	float r = f32_from_bits((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f, square = r * r;
	float p = 0x1.1462d0p-4f;
	p = fmaf(p, r, -0x1.de4fc2p-4f);
	p = fmaf(p, r, 0x1.e6f638p-4f);
	p = fmaf(p, r, -0x1.fc1f6ap-4f);
	p = fmaf(p, r, 0x1.2336e0p-3f);
	p = fmaf(p, r, -0x1.555c5ap-3f);
	p = fmaf(p, r, 0x1.99a4bcp-3f);
	p = fmaf(p, r, -0x1.000006p-2f);
	p = fmaf(p, r, 0x1.555548p-2f);
	p = fmaf(p, square * r, n * 0x1.7f7d1cp-20f);
	p = fmaf(-0.5f, square, p);
	float y = fmaf(n, 0x1.62e4p-1f, p + r);
	y = x == 0.0f ? -INFINITY : y;
	y = x < 0.0f ? NAN : y;
	return x < INFINITY ? y : x; /* infinity and NaN stay as they are */
}

/* erf(x): x P(x^2) / Q(x^2), of degree 5 with positive coefficients, below 3.92; +-1 from there. Absolute error below 3e-7. */
static inline float elementary_erf(float x)
{
	float s = x * x;
	float p = 2.037478e-06f, q = 3.80643214e-05f;
	p = fmaf(p, s, 2.86831026e-04f);
	q = fmaf(q, s, 1.18220563e-03f);
	p = fmaf(p, s, 3.84516525e-03f);
	q = fmaf(q, s, 1.51269678e-02f);
	p = fmaf(p, s, 5.29910102e-02f);
	q = fmaf(q, s, 1.14867188e-01f);
	p = fmaf(p, s, 1.92239255e-01f);
	q = fmaf(q, s, 5.03699660e-01f);
	p = fmaf(p, s, 1.12837911f);
	q = fmaf(q, s, 1.0f);
	float y = x * p / q;
	y = x >= 3.92f ? 1.0f : y;
	return x <= -3.92f ? -1.0f : y;
}

#endif
