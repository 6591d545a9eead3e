/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of kernels/ share: repeatable random numbers (FALCON_SEED=N repeats a run; a failure prints N), floats of many
 * magnitudes, comparison by bits, and the clock of the benchmarks that stand in the same programs (PROGRAM --bench).
 */
#ifndef FALCON_TESTS_KERNELS_COMPARE_H
#define FALCON_TESTS_KERNELS_COMPARE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h> /* needs what stands above */

#include "base/f16.h"

static uint64_t compare_seed, compare_state;

static inline void compare_start(void)
{
	const char *given = getenv("FALCON_SEED");
	compare_seed = given ? strtoull(given, NULL, 0) : 20260101;
	compare_state = compare_seed;
}

/* splitmix64 */
static inline uint64_t random_bits(void)
{
	uint64_t z = compare_state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline uint32_t random_below(uint32_t n)
{
	return (uint32_t)((random_bits() >> 32) * n >> 32);
}

/* Uniform in [-range, range). */
static inline float random_float(float range)
{
	return (float)((double)(int64_t)random_bits() * 0x1p-63) * range;
}

/* Any finite float: zeros, subnormals and the largest among them. */
static inline float random_extreme(void)
{
	static const uint32_t corners[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff,
					   0x00800000, 0x7f7fffff, 0xff7fffff, 0x3f800000};
	if (random_below(8) == 0)
		return f32_from_bits(corners[random_below(sizeof corners / sizeof *corners)]);
	uint32_t bits = (uint32_t)random_bits();
	return f32_from_bits((bits >> 23 & 0xff) == 0xff ? bits ^ 0x40000000 : bits);
}

/* The same bits, or both a NaN, whose bits no text fixes. Tells the first difference. */
static inline void compare_floats(const char *what, const char *version, const float *expected, const float *actual, size_t n)
{
	if (memcmp(expected, actual, n * sizeof *expected) == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		if (f32_bits(expected[i]) == f32_bits(actual[i]) || (isnan(expected[i]) && isnan(actual[i])))
			continue;
		fail_msg("%s, %s: element %zu of %zu is %a, plain C has %a (FALCON_SEED=%llu)", what, version, i, n,
			 (double)actual[i], (double)expected[i], (unsigned long long)compare_seed);
	}
}

/* |value - exact| in units of the last place of exact, at least of the smallest normal. */
static inline double compare_ulps(float value, double exact)
{
	int exponent;
	frexp(fmax(fabs(exact), 0x1p-126), &exponent);
	return fabs((double)value - exact) / ldexp(1.0, exponent - 24);
}

/*
 * Wall-clock time: where a hypervisor takes the processor away, what it counts as a thread's own time has been seen to run
 * slow. So benchmarks take the best of many short runs, some of which nobody disturbs.
 */
static inline double bench_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Cycles a second, by chains of dependent additions, one a cycle: the best of many short ones. */
static inline double bench_hertz(void)
{
	uint64_t n = 160000, x = 1;
	double best = 1e9;
	for (int run = 0; run < 400; run++) {
		double start = bench_seconds();
		for (uint64_t i = 0; i < n; i += 16) {
			_Pragma("GCC unroll 16")
			for (int j = 0; j < 16; j++) { /* many an iteration: jumps may cost more than one cycle each */
				x += i;
				__asm__ volatile("" : "+r"(x)); /* opaque to the compiler */
			}
		}
		double took = bench_seconds() - start;
		best = took < best ? took : best;
	}
	return (double)n / best;
}

#endif
