/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IEEE binary16 and bfloat16 to and from binary32, in integers alone, so that every machine and every compiler gives the
 * same bits. Narrowing rounds to nearest even; a NaN stays a (quiet) NaN.
 */
#ifndef FALCON_BASE_F16_H
#define FALCON_BASE_F16_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits)
{
	float f;
	memcpy(&f, &bits, sizeof f);
	return f;
}

static inline uint32_t f32_bits(float f)
{
	uint32_t bits;
	memcpy(&bits, &f, sizeof bits);
	return bits;
}

static inline float f32_from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, mantissa = h & 0x3ffu;
	if (exponent == 31)
		return f32_from_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
	if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24, exact in binary32 */
		float f = (float)mantissa * 0x1p-24f;
		return f32_from_bits(sign | f32_bits(f));
	}
	return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t f16_from_f32(float f)
{
	uint32_t bits = f32_bits(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
	if (magnitude > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
	if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the subnormal in the low bits, rounded */
		uint32_t rounded = f32_bits(f32_from_bits(magnitude) + 0.5f) - 0x3f000000u;
		return (uint16_t)(sign | rounded);
	}
	uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
	return (uint16_t)(sign | rounded >> 13);
}

static inline float f32_from_bf16(uint16_t h)
{
	return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float f)
{
	uint32_t bits = f32_bits(f);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40u);
	return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
