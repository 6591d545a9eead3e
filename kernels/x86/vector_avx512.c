/* SPDX-License-Identifier: Apache-2.0 */
/* The vector topic for AVX-512: 16 lanes are one register. */
#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512vl -mavx512dq -mavx512bw"
#endif

#include "kernels/vector.h"

#define VECTOR(op) op##_avx512
#include "kernels/vector_loops.h"
