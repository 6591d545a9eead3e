/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic of falcond, one function pointer an operation, one table an instruction set. docs/ARITHMETIC.md says what
 * each computes, to the bit; kernels/c/ is that text as plain C; every other version gives the same bytes
 * (tests/kernels compares them by memcmp). Nothing here allocates, locks, or reads anything but its arguments.
 *
 * A row's result never depends on which other rows or strips are computed in the same call: that is what makes a
 * session's bytes independent of the batch.
 */
#ifndef FALCON_KERNELS_KERNELS_H
#define FALCON_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/pages.h"
#include "shm/weights.h"

enum {
	KERNELS_GROUP = 4,   /* tokens whose activations stand together; a single token stands alone */
	KERNELS_SPAN = 512,  /* positions of one attention span; spans are merged in ascending order */
	KERNELS_ARITHMETIC = PAGES_ARITHMETIC, /* version of docs/ARITHMETIC.md: raised with any change that moves one bit */
};

/* A matrix in strips (shm/weights.h): rows x cols. */
struct kernels_matrix {
	const uint8_t *data;
	uint32_t type; /* enum weights_type */
	uint32_t rows, cols;
};

/*
 * Activations of n tokens as a quantised matrix reads them: blocks of 32 columns, int8 codes q, scale d, x ~ d * q.
 * Tokens stand in groups of g = kernels_group(n), four, so that a register tile reads one cache line:
 *	q   int8  [ceil(n/g)][cols/32][8 column groups][g tokens][4 columns]
 *	d   float [ceil(n/g)][cols/32][g tokens]
 *	sum int16 [ceil(n/g)][cols/32][g tokens][2]: sum of q over columns 0,1 mod 4, and over columns 2,3 mod 4
 *	dsum float [ceil(n/g)][cols/32][g tokens]: d times the sum of q, what a block's minimum is multiplied with
 * Codes of tokens beyond n in the last group are zero. A single token is a group of its own: among three lanes of zeros its codes
 * would fill the first-level cache, past which the weights stream.
 */
struct kernels_activations {
	int8_t *q;
	float *d;
	int16_t *sum;
	float *dsum;
	uint32_t cols; /* multiple of 32 */
	uint32_t n;
};

static inline uint32_t kernels_group(uint32_t n)
{
	return n == 1 ? 1 : KERNELS_GROUP;
}

/* Bytes that kernels_place() cuts the four arrays of n tokens from; the memory must be 64-byte aligned. */
size_t kernels_activation_bytes(uint32_t n, uint32_t cols);
void kernels_place(struct kernels_activations *a, void *memory, uint32_t n, uint32_t cols);

/* One key/value head's part of a session's cache for one layer: pages in ascending order. */
struct kernels_cache {
	const void *const *keys;   /* [n_pages] -> [head_dim][32 tokens] */
	const void *const *values; /* [n_pages] -> [32 tokens][head_dim]; PAGES_Q8: each then 32 f32 scales */
	uint32_t kv;               /* enum pages_kv */
	uint32_t head_dim;
};

/* Partial result of attention over one span: o is not yet divided by l. */
struct kernels_partial {
	float *m, *l; /* [rows] */
	float *o;     /* [rows][head_dim] */
};

struct kernels {
	const char *name; /* "portable", "avx2", "avx512", "amx" */

	/*
	 * Quantises tokens [first, first + count) of x (rows of ldx floats) into a. first is a multiple of 4; the caller covers
	 * [0, n) in pieces, each by one thread. Returns false if a value is not finite.
	 */
	bool (*quantise)(const float *x, size_t ldx, uint32_t first, uint32_t count, struct kernels_activations *a);

	/*
	 * out[t][r] (rows of ldo floats; r counts within the matrix) = sum over columns of w[r][c] * x[t][c], for strips
	 * [strip, strip + n_strips) and all a->n tokens. `more` continues the sums that stand in out (the next part of a fused
	 * matrix) instead of starting at +0. Rows beyond m->rows are not written. scratch: kernels_scratch_bytes(), 64-byte aligned.
	 */
	void (*matmul)(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
		       float *out, size_t ldo, bool more, void *scratch);

	/* The same for F32, F16 and BF16 matrices; x is n rows of ldx floats. */
	void (*matmul_dense)(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx,
			     uint32_t n, float *out, size_t ldo, bool more, void *scratch);

	/* Row r of a matrix of any type, widened to cols floats. */
	void (*row)(const struct kernels_matrix *m, uint32_t r, float *out);

	/* out = (x - mean) / sqrt(variance + eps) * w + b over n columns. x may be out. */
	void (*layer_norm)(const float *x, const float *w, const float *b, float eps, size_t n, float *out);

	/* out = x / sqrt(mean of squares + eps) * w. */
	void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *out);

	/* x = x/2 * (1 + erf(x / sqrt 2)) */
	void (*gelu)(float *x, size_t n);

	/* out = gate / (1 + exp(-gate)) * up. out may be gate. */
	void (*swiglu)(const float *gate, const float *up, size_t n, float *out);

	/* x += y */
	void (*add)(float *x, const float *y, size_t n);

	/* Rotates pairs (i, i + head_dim/2) of each head; table: head_dim/2 cosines, then as many sines (WEIGHTS_ROPE's row). */
	void (*rope)(float *x, const float *table, uint32_t n_heads, uint32_t head_dim);

	/* out = x * factor: queries are scaled by log2(e) / sqrt(head_dim) before attention. x may be out. */
	void (*scale)(const float *x, float factor, size_t n, float *out);

	/* Stores one token's key and value of one key/value head at index `at` (0..31) of a page's halves. */
	void (*store_kv)(const float *key, const float *value, uint32_t kv, uint32_t head_dim, uint32_t at, void *keys, void *values);

	/*
	 * One span, positions [first, first + 512), for `rows` rows (query heads of one key/value head x tokens). q: rows of
	 * head_dim floats, scaled. length[r]: row r sees positions below it. slope[r] (or NULL): ALiBi, see docs/ARITHMETIC.md.
	 * A row that sees nothing of the span gets m = -inf, l = 0, o = 0.
	 */
	void (*attend)(const struct kernels_cache *cache, uint32_t first, const float *q, const uint32_t *length, const float *slope,
		       uint32_t rows, struct kernels_partial out, void *scratch);

	/* Merges span partials in ascending order (parts[0] is the lowest) and divides: out[r] is head_dim floats at r * ldo. */
	void (*merge)(const struct kernels_partial *parts, uint32_t n_parts, uint32_t rows, uint32_t head_dim, float *out, size_t ldo);

	/* Largest of n floats (n > 0), and sum of exp(x[i] - max) in 16 fixed lanes: ln sum exp = max + log(sum). */
	float (*max)(const float *x, size_t n);
	float (*sum_exp)(const float *x, float max, size_t n);
};

/* exp and natural logarithm of one float, ours, the same bits everywhere. */
float kernels_exp(float x);
float kernels_log(float x);

/* Upper bound of the scratch bytes that any kernel of any table needs for matrices of up to `cols` columns and `rows` of attention. */
size_t kernels_scratch_bytes(uint32_t cols, uint32_t head_dim, uint32_t rows);

/*
 * The best table that this CPU and operating system run, at most `limit` ("portable", "avx2", "avx512", "amx"; NULL or
 * "": no limit). NULL for an unknown name. Called before a system call filter is closed: AMX is asked of the operating system.
 */
const struct kernels *kernels_select(const char *limit);

/* Table i in ascending order, or NULL beyond the last that this CPU runs: what tests go through. 0 is the plain-C twin. */
const struct kernels *kernels_at(unsigned i);

/* Sets MXCSR (round to nearest, no flush to zero); every thread that computes calls it first. */
void kernels_thread_init(void);

#endif
