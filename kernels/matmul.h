/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix topic's functions, one set a suffix (c, avx2, avx512, amx), and how the blocks of shm/weights.h are laid out.
 * Activations are quantised by AVX2 in the AVX-512 table too: it is no share of a step worth a file; a row is read once a
 * token, by plain C.
 */
#ifndef FALCON_KERNELS_MATMUL_H
#define FALCON_KERNELS_MATMUL_H

#include "kernels/kernels.h"

#define MATMUL_DECLARE(suffix)                                                                                         \
	void matmul_##suffix(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips,                        \
			     const struct kernels_activations *a, float *out, size_t ldo, bool more, void *scratch);   \
	void matmul_dense_##suffix(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x,  \
				   size_t ldx, uint32_t n, float *out, size_t ldo, bool more, void *scratch);

bool quantise_c(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a);
bool quantise_avx2(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a);
void row_c(const struct kernels_matrix *m, uint32_t r, float *out);
MATMUL_DECLARE(c)
MATMUL_DECLARE(avx2)
MATMUL_DECLARE(avx512)

/* 16 tokens and more by AMX, fewer (and dense matrices) by AVX-512. */
void matmul_amx(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
		float *out, size_t ldo, bool more, void *scratch);
enum { MATMUL_AMX_SCRATCH = 180 << 10 }; /* bytes that it needs, whatever the matrix */

/* Where things stand in one block of 32 columns x 16 rows; offsets in bytes, 0 for what the type has not. */
struct matmul_block {
	uint32_t bytes;   /* of the whole block */
	uint32_t codes;   /* nibbles, or bytes for Q8_0 */
	uint32_t minima;  /* 16 f16, Q4_1 and Q5_1 */
	uint32_t high;    /* 64 bytes of fifth bits, Q5_0 and Q5_1 */
	int32_t offset;   /* subtracted from a code */
};

static inline struct matmul_block matmul_block(uint32_t type)
{
	switch (type) {
	case WEIGHTS_Q4_0: return (struct matmul_block){.bytes = 288, .codes = 32, .offset = 8};
	case WEIGHTS_Q4_1: return (struct matmul_block){.bytes = 320, .codes = 64, .minima = 32};
	case WEIGHTS_Q5_0: return (struct matmul_block){.bytes = 352, .codes = 32, .high = 288, .offset = 16};
	case WEIGHTS_Q5_1: return (struct matmul_block){.bytes = 384, .codes = 64, .minima = 32, .high = 320};
	default: return (struct matmul_block){.bytes = 544, .codes = 32}; /* WEIGHTS_Q8_0 */
	}
}

#endif
