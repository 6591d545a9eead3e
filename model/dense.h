/* SPDX-License-Identifier: Apache-2.0 */
/* `dense: openblas`: dense matrices through the machine's BLAS instead of the exact kernels. */
#ifndef FALCON_MODEL_DENSE_H
#define FALCON_MODEL_DENSE_H

#include "kernels/kernels.h"

/* Holds the BLAS library to one thread a call, where it can be told: the team splits the work. */
void dense_init(void);

/* Bytes of the panel that dense_multiply() widens weights into. */
size_t dense_panel_bytes(void);

/* As kernels.h's matmul_dense, within the rounding of the BLAS at hand. */
void dense_multiply(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const float *x, size_t ldx, uint32_t n,
		    float *out, size_t ldo, bool more, float *panel);

#endif
