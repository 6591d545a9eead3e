/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which table this machine runs. Compiled for the oldest processor, so that asking is safe everywhere. An instruction set
 * counts only if the operating system saves its registers too (XCR0).
 */
#include "config.h"

#include <string.h>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/vector.h"

#define TABLE(codes, matrix, vector)                                                                                   \
	.quantise = quantise_##codes, .row = row_c, .matmul = matmul_##matrix, .matmul_dense = matmul_dense_##vector, \
	.layer_norm = layer_norm_##vector, .rms_norm = rms_norm_##vector, .gelu = gelu_##vector, .swiglu = swiglu_##vector, \
	.add = add_##vector, .rope = rope_##vector, .scale = scale_##vector, .store_kv = store_kv_##vector,            \
	.max = max_##vector, .sum_exp = sum_exp_##vector, .attend = attend_##vector, .merge = merge_##vector

/* In ascending order. */
static const struct kernels tables[] = {
	{.name = "portable", TABLE(c, c, c)},
#ifdef FALCON_X86
	{.name = "avx2", TABLE(avx2, avx2, avx2)},
	{.name = "avx512", TABLE(avx2, avx512, avx512)},
	{.name = "amx", TABLE(avx2, amx, avx512)},
#endif
};
enum { TABLES = sizeof tables / sizeof tables[0] };

#ifdef FALCON_X86
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	XTILEDATA = 18, /* the tiles' bit of XCR0 and number among the states that a process must ask for */
	AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, /* in EDX of leaf 7: compilers do not agree on names */
};

static uint64_t xcr0(void)
{
	uint32_t low, high;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}

/* Linux gives a process the tiles, which are 8 KB more to save, when it asks. Threads inherit them. */
static bool may_use_tiles(void)
{
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

static bool cpu_runs(const char *name)
{
	uint32_t a, b, c, d, b7 = 0, c7 = 0, d7 = 0;
	if (strcmp(name, "portable") == 0)
		return true;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	bool fma = c & bit_FMA, f16c = c & bit_F16C;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		b7 = b;
		c7 = c;
		d7 = d;
	}
	uint64_t saved = xcr0();
	bool avx2 = (saved & 0x6) == 0x6 && (b7 & bit_AVX2) && fma && f16c;
	if (strcmp(name, "avx2") == 0)
		return avx2;
	uint32_t needed = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
	bool avx512 = avx2 && (saved & 0xe6) == 0xe6 && (b7 & needed) == needed && (c7 & bit_AVX512VNNI);
	if (strcmp(name, "avx512") == 0)
		return avx512;
	needed = AMX_TILE | AMX_INT8;
	return avx512 && (saved >> (XTILEDATA - 1) & 3) == 3 && (d7 & needed) == needed && may_use_tiles();
}
#else
static bool cpu_runs(const char *name)
{
	return strcmp(name, "portable") == 0;
}
#endif

const struct kernels *kernels_at(unsigned i)
{
	return i < TABLES && cpu_runs(tables[i].name) ? &tables[i] : NULL;
}

const struct kernels *kernels_select(const char *limit)
{
	if (limit != NULL && limit[0] == '\0')
		limit = NULL;
	bool known = limit == NULL || strcmp(limit, "avx2") == 0 || strcmp(limit, "avx512") == 0 || strcmp(limit, "amx") == 0 ||
		     strcmp(limit, "portable") == 0;
	if (!known)
		return NULL;
	const struct kernels *best = NULL;
	for (unsigned i = 0; kernels_at(i) != NULL; i++) {
		best = kernels_at(i);
		if (limit != NULL && strcmp(best->name, limit) == 0)
			break;
	}
	return best;
}

void kernels_thread_init(void)
{
#ifdef FALCON_X86
	__builtin_ia32_ldmxcsr(0x1f80); /* all exceptions masked, round to nearest, no flush to zero, no denormals as zeros */
#endif
}

static size_t round_up(size_t value)
{
	return (value + 63) / 64 * 64;
}

/* Blocks of one token each, those that fill up the last group with them. */
static size_t blocks(uint32_t n, uint32_t cols)
{
	uint32_t group = kernels_group(n);
	return (size_t)((n + group - 1) / group) * group * (cols / WEIGHTS_BLOCK);
}

static size_t bytes_q(uint32_t n, uint32_t cols) { return round_up(blocks(n, cols) * WEIGHTS_BLOCK); }
static size_t bytes_d(uint32_t n, uint32_t cols) { return round_up(blocks(n, cols) * sizeof(float)); }
static size_t bytes_sum(uint32_t n, uint32_t cols) { return round_up(blocks(n, cols) * 2 * sizeof(int16_t)); }

size_t kernels_activation_bytes(uint32_t n, uint32_t cols)
{
	return bytes_q(n, cols) + 2 * bytes_d(n, cols) + bytes_sum(n, cols);
}

void kernels_place(struct kernels_activations *a, void *memory, uint32_t n, uint32_t cols)
{
	uint8_t *at = memory;
	a->q = (int8_t *)at;
	a->d = (float *)(void *)(at + bytes_q(n, cols));
	a->dsum = (float *)(void *)(at + bytes_q(n, cols) + bytes_d(n, cols));
	a->sum = (int16_t *)(void *)(at + bytes_q(n, cols) + 2 * bytes_d(n, cols));
	a->cols = cols;
	a->n = n;
}

size_t kernels_scratch_bytes(uint32_t cols, uint32_t head_dim, uint32_t rows)
{
	size_t matrix = (size_t)cols * WEIGHTS_STRIP * 2 * sizeof(int16_t) + 4096;
	size_t attention = attention_scratch_bytes(head_dim, rows), most = matrix > attention ? matrix : attention;
	return round_up(most > MATMUL_AMX_SCRATCH ? most : MATMUL_AMX_SCRATCH);
}
