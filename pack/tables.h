/* SPDX-License-Identifier: Apache-2.0 */
/* Constants of the positions, computed while packing so that no two machines compute them differently. */
#ifndef FALCON_PACK_TABLES_H
#define FALCON_PACK_TABLES_H

#include <stdint.h>

/*
 * n rows of head_dim floats: row p holds cos(p * f[i]) for i < head_dim/2, then sin(p * f[i]), with f[i] = theta^(-2i/head_dim)
 * (Su et al., arXiv:2104.09864). As in the reference, f and the product are single precision; cosine and sine are computed
 * in double and rounded.
 */
void tables_rope(float theta, uint32_t head_dim, uint32_t n, float *out);

/*
 * ALiBi slopes of n heads (Press et al., arXiv:2108.12409): 2^(-8i/m) for i = 1 .. m with m the greatest power of two that is
 * not above n; further heads take every other slope of 2m heads. Rounded to bfloat16, as Falcon's reference rounds them.
 */
void tables_slopes(uint32_t n, float *out);

#endif
