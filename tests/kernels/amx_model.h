/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AMX in plain C, for CPUs that have none: what Intel's manual (Software Developer's Manual, volume 2, LDTILECFG, TILELOADD,
 * TILESTORED, TILEZERO, TILERELEASE, TDPBSSD) says of the tiles' state, the results, and what faults. A fault ends the program.
 * Included before a file that uses the intrinsics, it takes their place.
 */
#ifndef FALCON_TESTS_KERNELS_AMX_MODEL_H
#define FALCON_TESTS_KERNELS_AMX_MODEL_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_ROW_BYTES = 64 };

static struct {
	uint32_t palette;            /* 0: no tile may be used */
	uint32_t rows[AMX_TILES];    /* 0: this tile may not be used */
	uint32_t columns[AMX_TILES]; /* bytes of a row */
	int8_t data[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES];
} amx;

/* The 64 bytes: palette, start row, 14 zeros, bytes a row (16 x 16 bits), rows (16 x 8 bits); the last 8 tiles do not exist. */
static inline void amx_loadconfig(const void *operand)
{
	const uint8_t *bytes = operand;
	memset(&amx, 0, sizeof amx);
	CHECK(bytes[0] <= 1);
	for (int i = 2; i < 16; i++)
		CHECK(bytes[i] == 0);
	for (int i = 0; i < 16; i++) {
		uint32_t columns = bytes[16 + 2 * i] | (uint32_t)bytes[17 + 2 * i] << 8, rows = bytes[48 + i];
		CHECK(columns <= AMX_ROW_BYTES && rows <= AMX_ROWS && (columns == 0) == (rows == 0));
		CHECK(i < AMX_TILES || rows == 0);
		if (i < AMX_TILES) {
			amx.columns[i] = columns;
			amx.rows[i] = rows;
		}
	}
	CHECK(bytes[1] == 0); /* a load or store that was interrupted goes on from this row: nothing of ours */
	amx.palette = bytes[0];
}

static inline void amx_release(void)
{
	memset(&amx, 0, sizeof amx);
}

static inline void amx_check(uint32_t tile)
{
	CHECK(amx.palette == 1 && tile < AMX_TILES && amx.rows[tile] > 0);
}

static inline void amx_zero(uint32_t tile)
{
	amx_check(tile);
	memset(amx.data[tile], 0, sizeof amx.data[tile]);
}

/* What the tile's shape leaves out becomes zero. */
static inline void amx_loadd(uint32_t tile, const void *base, long stride)
{
	amx_zero(tile);
	for (uint32_t r = 0; r < amx.rows[tile]; r++)
		memcpy(amx.data[tile][r], (const char *)base + (long)r * stride, amx.columns[tile]);
}

static inline void amx_stored(uint32_t tile, void *base, long stride)
{
	amx_check(tile);
	for (uint32_t r = 0; r < amx.rows[tile]; r++)
		memcpy((char *)base + (long)r * stride, amx.data[tile][r], amx.columns[tile]);
}

/* sum[m][n] += a[m][4k + i] * b[k][4n + i], signed bytes into 32 bits. */
static inline void amx_dpbssd(uint32_t sum, uint32_t a, uint32_t b)
{
	amx_check(sum);
	amx_check(a);
	amx_check(b);
	CHECK(sum != a && sum != b && a != b);
	CHECK(amx.columns[sum] % 4 == 0 && amx.columns[a] % 4 == 0 && amx.columns[b] % 4 == 0);
	CHECK(amx.rows[sum] == amx.rows[a] && amx.columns[a] / 4 == amx.rows[b] && amx.columns[sum] == amx.columns[b]);
	for (uint32_t m = 0; m < amx.rows[sum]; m++)
		for (uint32_t n = 0; n < amx.columns[sum] / 4; n++) {
			int32_t s;
			memcpy(&s, &amx.data[sum][m][4 * n], sizeof s);
			for (uint32_t k = 0; k < amx.columns[a] / 4; k++)
				for (uint32_t i = 0; i < 4; i++)
					s += (int32_t)amx.data[a][m][4 * k + i] * amx.data[b][k][4 * n + i];
			memcpy(&amx.data[sum][m][4 * n], &s, sizeof s);
		}
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#define _tile_loadconfig amx_loadconfig
#define _tile_release amx_release
#define _tile_loadd(tile, base, stride) amx_loadd(tile, base, (long)(stride))
#define _tile_stored(tile, base, stride) amx_stored(tile, base, (long)(stride))
#define _tile_zero amx_zero
#define _tile_dpbssd amx_dpbssd

#endif
