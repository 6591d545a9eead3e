/* SPDX-License-Identifier: Apache-2.0 */
/* The vector topic in plain C, and the two scalar functions that the sampler calls on any machine. */
#include "kernels/vector.h"
#include "kernels/kernels.h"

#define VECTOR(op) op##_c
#include "kernels/vector_loops.h"

float kernels_exp(float x)
{
	return elementary_exp(x);
}

float kernels_log(float x)
{
	return elementary_log(x);
}
