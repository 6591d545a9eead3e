/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From rows as model files store them to the strips of shm/weights.h.
 */
#ifndef FALCON_PACK_LAYOUT_H
#define FALCON_PACK_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Which source row an output row comes from. Files fuse queries, keys and values, and interleave them, in several ways; all of
 * them are: heads of head_rows rows, per_group of them in a group, a group every group_rows rows, the first at row `first`.
 * `pairs`: rotary partners stand side by side in the source (rows 2i, 2i + 1) and half a head apart in the image (i, i + half).
 */
struct row_map {
	uint32_t head_rows; /* at least 1; even if pairs */
	uint32_t per_group; /* at least 1 */
	uint32_t group_rows;
	uint32_t first;
	bool pairs;
};

/* Rows first, first + 1, ... */
static inline struct row_map row_map_plain(uint32_t first)
{
	return (struct row_map){.head_rows = UINT32_MAX, .per_group = 1, .first = first};
}

static inline uint64_t row_map_at(const struct row_map *m, uint32_t row)
{
	uint32_t head = row / m->head_rows, i = row % m->head_rows;
	if (m->pairs)
		i = i % (m->head_rows / 2) * 2 + i / (m->head_rows / 2);
	return m->first + (uint64_t)(head / m->per_group) * m->group_rows + (uint64_t)(head % m->per_group) * m->head_rows + i;
}

/*
 * Writes strips [strip, strip + n) of a matrix of `rows` output rows and `cols` columns to out, where strip 0 begins. Rows
 * beyond the last are written as zeros. source: row 0, a row every source_row_bytes(type, cols) bytes.
 */
void layout_strips(uint32_t type, const uint8_t *source, const struct row_map *map, uint32_t rows, uint32_t cols,
		   uint32_t strip, uint32_t n, uint8_t *out);

/* Widens n elements of a dense type, element i being row_map_at(map, i) of the source. */
void layout_vector(uint32_t type, const uint8_t *source, const struct row_map *map, uint32_t n, float *out);

#endif
