/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over a batch. The rows of one span and one key/value head (its query heads x tokens) are cut into tiles of at
 * most 128; a tile sees some spans of 512 absolute positions, each of which gives a partial result, and the partials are
 * merged in ascending order. Prefill has many tiles, and a member computes a whole one; decoding a few sessions has few,
 * so there the tile's parts go to different members and whoever finishes the last part merges; and where that still leaves
 * some members with nothing, tiles are made of fewer heads. All ways compute the same partials and merge them in the same
 * order: the same bits.
 */
#include "model/block.h"

#include <string.h>

#include "base/check.h"

static uint32_t parts_of(uint32_t seen)
{
	return (seen + KERNELS_SPAN - 1) / KERNELS_SPAN;
}

/* By how much the tiles must shrink for each member to get some pieces: 1 as a rule. */
static uint32_t cut_of(const struct forward *f)
{
	uint32_t pieces = 0, enough = BLOCK_SPREAD * f->o.threads;
	for (uint32_t s = 0; s < f->n_spans && pieces < enough; s++) {
		uint32_t rows = f->spans[s].n * f->group, tiles = (rows + BLOCK_TILE - 1) / BLOCK_TILE;
		pieces += tiles * f->model->hp.n_kv_head * parts_of(f->spans[s].first + f->spans[s].n);
	}
	return pieces == 0 ? 1 : (enough + pieces - 1) / pieces;
}

void block_plan_attention(struct forward *f)
{
	uint32_t cut = cut_of(f);
	f->n_tiles = f->tile_pieces = 0;
	for (uint32_t s = 0, token = 0; s < f->n_spans; token += f->spans[s++].n) {
		const struct forward_span *span = &f->spans[s];
		uint32_t total = span->n * f->group, n = (total + BLOCK_TILE - 1) / BLOCK_TILE * cut;
		uint32_t each = n ? (total + n - 1) / n : 0;
		each = each < BLOCK_LEAST && total > 0 ? (total < BLOCK_LEAST ? total : BLOCK_LEAST) : each;
		for (uint32_t row = 0; row < total; row += each) {
			CHECK(f->n_tiles < f->max_tiles);
			uint32_t rows = total - row < each ? total - row : each;
			uint32_t parts = parts_of(span->first + (row + rows - 1) / f->group + 1);
			f->tiles[f->n_tiles++] = (struct block_tile){
				.span = s, .token = token, .row = row, .rows = rows, .parts = parts, .piece = f->tile_pieces};
			f->tile_pieces += parts * f->model->hp.n_kv_head;
		}
	}
	uint32_t n_kv_head = f->model->hp.n_kv_head, whole = f->n_tiles * n_kv_head;
	f->spread = whole < f->max_stores;
	if (!f->spread) {
		f->tile_pieces = whole;
		return;
	}
	for (uint32_t i = 0; i < whole; i++)
		atomic_store_explicit(&f->left[i], f->tiles[i / n_kv_head].parts, memory_order_relaxed);
}

static struct kernels_partial partial_at(const struct forward *f, uint32_t store, uint32_t part)
{
	size_t head = f->model->hp.head_dim;
	float *base = f->partials + ((size_t)store * f->max_parts + part) * BLOCK_TILE * (head + 2);
	return (struct kernels_partial){.m = base, .l = base + BLOCK_TILE, .o = base + 2 * BLOCK_TILE};
}

static void attend_part(struct block_worker *w, const struct block_tile *tile, uint32_t layer, uint32_t g, uint32_t part,
			uint32_t store)
{
	const struct forward *f = w->f;
	const struct weights_hparams *hp = &f->model->hp;
	const struct forward_span *span = &f->spans[tile->span];
	uint32_t first = part * KERNELS_SPAN, seen = span->first + (tile->row + tile->rows - 1) / f->group + 1;
	uint64_t keys = pages_offset(hp, f->o.kv, layer, g), values = keys + pages_half(hp, f->o.kv);
	for (uint32_t p = first / PAGE_TOKENS; p < (first + KERNELS_SPAN) / PAGE_TOKENS && p * PAGE_TOKENS < seen; p++) {
		w->keys[p] = (const uint8_t *)span->pages[p] + keys;
		w->values[p] = (const uint8_t *)span->pages[p] + values;
	}
	struct kernels_cache cache = {.keys = w->keys, .values = w->values, .kv = f->o.kv, .head_dim = hp->head_dim};
	uint32_t length[BLOCK_TILE];
	float slope[BLOCK_TILE];
	for (uint32_t r = 0; r < tile->rows; r++) {
		length[r] = span->first + (tile->row + r) / f->group + 1;
		if (f->model->slopes)
			slope[r] = f->model->slopes[g * f->group + (tile->row + r) % f->group];
	}
	size_t at = ((size_t)g * f->o.max_tokens + tile->token) * f->group + tile->row;
	f->k->attend(&cache, first, f->queries + at * hp->head_dim, length, f->model->slopes ? slope : NULL, tile->rows,
		     partial_at(f, store, part), w->scratch);
}

/* The codes of a tile are made along with it where its heads are whole blocks of the only row. */
static bool codes_by_tile(const struct forward *f)
{
	return f->n_rows == 1 && f->model->hp.head_dim % WEIGHTS_BLOCK == 0;
}

static void merge_tile(struct block_worker *w, const struct block_tile *tile, uint32_t g, uint32_t store, bool codes)
{
	struct forward *f = w->f;
	const struct weights_hparams *hp = &f->model->hp;
	size_t head = hp->head_dim;
	for (uint32_t i = 0; i < tile->parts; i++)
		w->parts[i] = partial_at(f, store, i);
	f->k->merge(w->parts, tile->parts, tile->rows, hp->head_dim, w->merged, head);
	for (uint32_t r = 0; r < tile->rows; r++) {
		uint32_t row = tile->row + r;
		float *out = f->o_in.x + (tile->token + row / f->group) * f->o_in.ld + (g * f->group + row % f->group) * head;
		memcpy(out, w->merged + r * head, head * sizeof *out);
	}
	if (codes)
		block_quantise_columns(w, &f->o_in, (g * f->group + tile->row) * hp->head_dim, tile->rows * hp->head_dim);
}

static void run_whole(struct block_worker *w, uint32_t layer, uint32_t piece, bool codes)
{
	uint32_t n_kv_head = w->f->model->hp.n_kv_head, g = piece % n_kv_head;
	const struct block_tile *tile = &w->f->tiles[piece / n_kv_head];
	for (uint32_t part = 0; part < tile->parts; part++)
		attend_part(w, tile, layer, g, part, w->member);
	merge_tile(w, tile, g, w->member, codes);
}

static void run_part(struct block_worker *w, uint32_t layer, uint32_t piece, bool codes)
{
	struct forward *f = w->f;
	uint32_t i = 0;
	while (i + 1 < f->n_tiles && piece >= f->tiles[i + 1].piece)
		i++;
	const struct block_tile *tile = &f->tiles[i];
	uint32_t g = (piece - tile->piece) / tile->parts, part = (piece - tile->piece) % tile->parts;
	uint32_t store = i * f->model->hp.n_kv_head + g;
	attend_part(w, tile, layer, g, part, store);
	if (atomic_fetch_sub_explicit(&f->left[store], 1, memory_order_acq_rel) != 1)
		return;
	merge_tile(w, tile, g, store, codes);
	atomic_store_explicit(&f->left[store], tile->parts, memory_order_relaxed); /* for the next layer */
}

void block_run_attention(struct block_worker *w, uint32_t layer, bool codes)
{
	struct forward *f = w->f;
	bool by_tile = codes && codes_by_tile(f);
	for (uint32_t piece; (piece = team_take(w->team)) < f->tile_pieces;) {
		if (f->spread)
			run_part(w, layer, piece, by_tile);
		else
			run_whole(w, layer, piece, by_tile);
	}
	block_barrier(w);
	if (codes && !by_tile)
		block_run_codes(w, &f->o_in);
}
