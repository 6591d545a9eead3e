/* SPDX-License-Identifier: Apache-2.0 */
/* The vector topic's functions, one set a suffix (c, avx2, avx512): what the tables of select.c point to and tests compare. */
#ifndef FALCON_KERNELS_VECTOR_H
#define FALCON_KERNELS_VECTOR_H

#include "kernels/kernels.h"

#define VECTOR_DECLARE(suffix)                                                                                                 \
	void layer_norm_##suffix(const float *x, const float *w, const float *b, float eps, size_t n, float *out);             \
	void rms_norm_##suffix(const float *x, const float *w, float eps, size_t n, float *out);                               \
	void gelu_##suffix(float *x, size_t n);                                                                                \
	void swiglu_##suffix(const float *gate, const float *up, size_t n, float *out);                                        \
	void add_##suffix(float *x, const float *y, size_t n);                                                                 \
	void rope_##suffix(float *x, const float *table, uint32_t n_heads, uint32_t head_dim);                                 \
	void scale_##suffix(const float *x, float factor, size_t n, float *out);                                               \
	void store_kv_##suffix(const float *key, const float *value, uint32_t kv, uint32_t head_dim, uint32_t at, void *keys,  \
			       void *values);                                                                                  \
	void merge_##suffix(const struct kernels_partial *parts, uint32_t n_parts, uint32_t rows, uint32_t head_dim,           \
			    float *out, size_t ldo);                                                                           \
	float max_##suffix(const float *x, size_t n);                                                                          \
	float sum_exp_##suffix(const float *x, float max, size_t n);

VECTOR_DECLARE(c)
VECTOR_DECLARE(avx2)
VECTOR_DECLARE(avx512)

#endif
