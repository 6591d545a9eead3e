/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "tests/kernels/roofline.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tests/kernels/compare.h"

#ifdef FALCON_X86
#include <immintrin.h>

enum { CHAINS = 10, ROUNDS = 20000 }; /* chains of dependent instructions that hide each other's latency */
#define OPAQUE(x) __asm__ volatile("" : "+v"(x)) /* so that the compiler computes it again */

/* One step of a chain: what follows `sum`. Ten chains by name, because an array might live in memory. */
#define STEP(chain, step) OPAQUE(x); sum = chain; chain = step; OPAQUE(chain);
#define LOOP(name, sets, type, start, step)                                                                            \
	__attribute__((target(sets))) static void name(void)                                                           \
	{                                                                                                              \
		type x = start, y = start, sum = y, a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;  \
		OPAQUE(y);                                                                                             \
		for (int n = 0; n < ROUNDS; n++) {                                                                     \
			STEP(a, step) STEP(b, step) STEP(c, step) STEP(d, step) STEP(e, step)                          \
			STEP(f, step) STEP(g, step) STEP(h, step) STEP(i, step) STEP(j, step)                          \
		}                                                                                                      \
	}
#define AVX512 "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
LOOP(fma_256, "avx2,fma", __m256, _mm256_set1_ps(1.0f), _mm256_fmadd_ps(x, y, sum))
LOOP(divide_256, "avx2,fma", __m256, _mm256_set1_ps(1.0f), _mm256_div_ps(sum, x))
LOOP(codes_256, "avx2,fma", __m256i, _mm256_setzero_si256(), _mm256_add_epi16(sum, _mm256_maddubs_epi16(y, x)))
LOOP(fma_512, AVX512, __m512, _mm512_set1_ps(1.0f), _mm512_fmadd_ps(x, y, sum))
LOOP(divide_512, AVX512, __m512, _mm512_set1_ps(1.0f), _mm512_div_ps(sum, x))
LOOP(codes_512, AVX512, __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sum, y, x))
/* AMX: what the vector units do with the integers of 32 columns of 16 rows and one token. Tiles take less. */
LOOP(scale_512, AVX512, __m512, _mm512_set1_ps(1.0f),
     _mm512_fmadd_ps(_mm512_mul_ps(x, y), _mm512_cvtepi32_ps(_mm512_castps_si512(x)), sum))

static const struct {
	const char *isa;
	enum roofline_mix mix;
	void (*loop)(void);
	double operations; /* of one step of one chain */
} loops[] = {
	{"avx2", ROOFLINE_FMA, fma_256, 16},          {"avx2", ROOFLINE_DIVIDE, divide_256, 8},
	{"avx2", ROOFLINE_CODES, codes_256, 64},      {"avx2", ROOFLINE_BYTES, codes_256, 32},
	{"avx512", ROOFLINE_FMA, fma_512, 32},        {"avx512", ROOFLINE_DIVIDE, divide_512, 16},
	{"avx512", ROOFLINE_CODES, codes_512, 128},   {"avx512", ROOFLINE_BYTES, codes_512, 128},
	{"amx", ROOFLINE_FMA, fma_512, 32},           {"amx", ROOFLINE_DIVIDE, divide_512, 16},
	{"amx", ROOFLINE_CODES, scale_512, 1024},     {"amx", ROOFLINE_BYTES, scale_512, 1024},
};

static double best_of(void (*loop)(void))
{
	double best = INFINITY;
	for (int i = 0; i < 40; i++) {
		double start = bench_seconds();
		loop();
		double took = bench_seconds() - start;
		best = took < best ? took : best;
	}
	return best;
}

void roofline_use(struct roofline *r, const char *isa)
{
	memset(r->peak, 0, sizeof r->peak);
	for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++)
		if (strcmp(loops[i].isa, isa) == 0)
			r->peak[loops[i].mix] = loops[i].operations * CHAINS * ROUNDS / best_of(loops[i].loop);
}

__attribute__((target("avx2"))) static void read_all(const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 256)
		_Pragma("GCC unroll 8")
		for (size_t j = 0; j < 256; j += 32) {
			__m256i v = _mm256_load_si256((const __m256i *)(const void *)(p + i + j));
			__asm__ volatile("" : : "x"(v));
		}
}
#else
void roofline_use(struct roofline *r, const char *isa)
{
	(void)isa;
	memset(r->peak, 0, sizeof r->peak);
}

static void read_all(const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v;
		memcpy(&v, p + i, sizeof v);
		__asm__ volatile("" : : "r"(v));
	}
}
#endif

double roofline_reads(size_t bytes)
{
	bytes = (bytes + 255) / 256 * 256;
	uint8_t *p = xaligned(1 << 21, bytes);
	memset(p, 1, bytes);
	double best = INFINITY;
	int passes = (int)(4 * (size_t)ROOFLINE_MEMORY / bytes);
	for (int i = 0; i < (passes > 2000 ? 2000 : passes < 5 ? 5 : passes); i++) {
		double start = bench_seconds();
		read_all(p, bytes);
		double took = bench_seconds() - start;
		best = took < best ? took : best;
	}
	free(p);
	return (double)bytes / best;
}

void roofline_open(struct roofline *r)
{
	*r = (struct roofline){.hertz = bench_hertz(), .memory = roofline_reads(ROOFLINE_MEMORY)};
	printf("%.2f GHz; one thread reads %.1f GB/s from memory\n", r->hertz * 1e-9, r->memory * 1e-9);
}

void roofline_print(const struct roofline *r, const struct roofline_work *w, double bandwidth)
{
	double arithmetic = 0, memory = w->bytes / bandwidth, operations = 0;
	for (int i = 0; i < ROOFLINE_MIXES; i++) { /* units of their own, which may work at the same time */
		double least = w->operations[i] > 0 && r->peak[i] > 0 ? w->operations[i] / r->peak[i] : 0;
		operations += w->operations[i];
		arithmetic = least > arithmetic ? least : arithmetic;
	}
	printf(" %6.1f op/cycle %6.1f GB/s %4.0f %% of %s", operations / w->seconds / r->hertz, w->bytes / w->seconds * 1e-9,
	       100 * (memory > arithmetic ? memory : arithmetic) / w->seconds, memory > arithmetic ? "memory" : "arithmetic");
}
