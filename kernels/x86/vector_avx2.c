/* SPDX-License-Identifier: Apache-2.0 */
/* The vector topic for AVX2, FMA and F16C. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mfma -mf16c"
#endif

#include "kernels/vector.h"

#define VECTOR(op) op##_avx2
#include "kernels/vector_loops.h"
