/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/tables.h"

#include <math.h>

#include "base/f16.h"

void tables_rope(float theta, uint32_t head_dim, uint32_t n, float *out)
{
	uint32_t half = head_dim / 2;
	for (uint32_t i = 0; i < half; i++) {
		float exponent = (float)(2 * i) / (float)head_dim;
		float frequency = 1.0f / (float)pow((double)theta, (double)exponent);
		for (uint32_t p = 0; p < n; p++) {
			float angle = (float)p * frequency;
			out[(uint64_t)p * head_dim + i] = (float)cos((double)angle);
			out[(uint64_t)p * head_dim + half + i] = (float)sin((double)angle);
		}
	}
}

void tables_slopes(uint32_t n, float *out)
{
	uint32_t m = 1;
	while (m * 2 <= n)
		m *= 2;
	/* The base is rounded to single precision before it is raised to a power, as in the reference. */
	double base = (double)(float)exp2(-8.0 / m), between = (double)(float)exp2(-4.0 / m);
	for (uint32_t i = 0; i < n; i++) {
		double slope = i < m ? pow(base, i + 1) : pow(between, 2 * (i - m) + 1);
		out[i] = f32_from_bf16(bf16_from_f32((float)slope));
	}
}
