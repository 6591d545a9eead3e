/* SPDX-License-Identifier: Apache-2.0 */
#include "model/block.h"

#include <math.h>
#include <string.h>

#include "base/check.h"

void block_add_qkv(struct forward *f, struct block_product *p, const struct model_layer *l)
{
	block_add_part(p, &l->q, l->q_bias, &f->attn_in, f->wide + f->at_q, f->wide_ld);
	block_add_part(p, &l->k, l->k_bias, &f->attn_in, f->wide + f->at_k, f->wide_ld);
	block_add_part(p, &l->v, l->v_bias, &f->attn_in, f->wide + f->at_v, f->wide_ld);
}

void block_fail(struct forward *f, uint32_t span)
{
	__atomic_store_n(&f->spans[span].failed, true, __ATOMIC_RELAXED);
}

bool block_next_group(struct block_worker *w, uint32_t n_rows, uint32_t *ret_first, uint32_t *ret_count)
{
	uint64_t first = (uint64_t)team_take(w->team) * KERNELS_GROUP;
	if (first >= n_rows)
		return false;
	*ret_first = (uint32_t)first;
	*ret_count = n_rows - (uint32_t)first < KERNELS_GROUP ? n_rows - (uint32_t)first : KERNELS_GROUP;
	return true;
}

static bool all_finite(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(x[i]))
			return false;
	return true;
}

/*
 * Codes of columns [column, column + cols) of one group's rows [first, first + count). A group's codes stand block by block, so
 * those of some columns are codes of a narrower input.
 */
static void quantise(struct block_worker *w, const struct block_input *in, uint32_t first, uint32_t count, uint32_t column,
		     uint32_t cols)
{
	const struct kernels *k = w->f->k;
	uint32_t size = kernels_group(in->n);
	size_t before = ((size_t)first / size * (in->cols / WEIGHTS_BLOCK) + column / WEIGHTS_BLOCK) * size;
	struct kernels_activations a = {.q = in->codes.q + before * WEIGHTS_BLOCK, .d = in->codes.d + before,
		.sum = in->codes.sum + before * 2, .dsum = in->codes.dsum + before, .cols = cols, .n = size};
	float *x = in->x + first * in->ld + column;
	if (k->quantise(x, in->ld, 0, count, &a))
		return;
	for (uint32_t t = 0; t < count; t++) {
		float *row = x + t * in->ld;
		if (all_finite(row, cols))
			continue;
		block_fail(w->f, in->owner[first + t]);
		memset(row, 0, cols * sizeof *row);
	}
	/* The neighbours in the group belong to others: what they get must not depend on the row that failed. */
	CHECK(k->quantise(x, in->ld, 0, count, &a));
}

void block_quantise(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count)
{
	quantise(w, in, first, count, 0, in->cols);
}

void block_quantise_columns(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count)
{
	for (uint32_t t = 0; t < in->n; t += KERNELS_GROUP)
		quantise(w, in, t, in->n - t < KERNELS_GROUP ? in->n - t : KERNELS_GROUP, first, count);
}

void block_norm_row(const struct forward *f, const float *weight, const float *bias, uint32_t row, float *out)
{
	const struct weights_hparams *hp = &f->model->hp;
	const float *x = f->x + (size_t)row * hp->n_embd;
	if (bias)
		f->k->layer_norm(x, weight, bias, hp->norm_eps, hp->n_embd, out);
	else
		f->k->rms_norm(x, weight, hp->norm_eps, hp->n_embd, out);
}

void block_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, uint32_t first,
		uint32_t count)
{
	for (uint32_t t = first; t < first + count; t++)
		block_norm_row(w->f, weight, bias, t, in->x + t * in->ld);
}

/* What piece `cut` of `cuts` has of n heads or blocks: [first, end). */
struct share {
	uint32_t first, end;
};

static struct share share_of(uint32_t n, uint32_t cut, uint32_t cuts)
{
	return (struct share){(uint32_t)((uint64_t)n * cut / cuts), (uint32_t)((uint64_t)n * (cut + 1) / cuts)};
}

static void rotate(const struct forward *f, uint32_t position, float *x, struct share h)
{
	uint32_t head = f->model->hp.head_dim;
	if (f->model->rope && h.end > h.first)
		f->k->rope(x + h.first * head, f->model->rope + (size_t)position * head, h.end - h.first, head);
}

static void place_token(struct forward *f, uint32_t layer, uint32_t t, struct share queries, struct share keys)
{
	const struct weights_hparams *hp = &f->model->hp;
	uint32_t position = f->row_position[t], kv = f->o.kv;
	size_t head = hp->head_dim;
	float *row = f->wide + t * f->wide_ld, *q = row + f->at_q, *k = row + f->at_k, *v = row + f->at_v;
	rotate(f, position, q, queries);
	rotate(f, position, k, keys);
	uint8_t *page = f->spans[f->row_span[t]].pages[position / PAGE_TOKENS];
	for (uint32_t g = keys.first; g < keys.end; g++) {
		uint8_t *to = page + pages_offset(hp, kv, layer, g);
		f->k->store_kv(k + g * head, v + g * head, kv, hp->head_dim, position % PAGE_TOKENS, to, to + pages_half(hp, kv));
	}
	for (uint32_t h = queries.first; h < queries.end; h++) {
		size_t at = ((size_t)(h / f->group) * f->o.max_tokens + t) * f->group + h % f->group;
		f->k->scale(q + h * head, f->q_scale, head, f->queries + at * head);
	}
}

/* Pieces are rows; where there are few, some heads of a row. */
void block_run_place(struct block_worker *w, uint32_t layer)
{
	struct forward *f = w->f;
	const struct weights_hparams *hp = &f->model->hp;
	uint32_t cuts = f->n_rows < 2 * w->team->n ? w->team->n : 1;
	for (uint32_t piece; (piece = team_take(w->team)) < f->n_rows * cuts;) {
		uint32_t cut = piece % cuts;
		place_token(f, layer, piece / cuts, share_of(hp->n_head, cut, cuts), share_of(hp->n_kv_head, cut, cuts));
	}
	block_barrier(w);
}

void block_run_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, bool codes)
{
	uint32_t first, count;
	if (in->own != NULL && block_one_group(in)) {
		block_norm(w, weight, bias, block_input_of(w, in), 0, in->n);
		if (codes)
			block_quantise(w, block_input_of(w, in), 0, in->n);
		return;
	}
	while (block_next_group(w, w->f->n_rows, &first, &count)) {
		block_norm(w, weight, bias, in, first, count);
		if (codes)
			block_quantise(w, in, first, count);
	}
	block_barrier(w);
}

/* Pieces are groups of rows or, of a single group, columns. */
void block_run_codes(struct block_worker *w, struct block_input *in)
{
	uint32_t first, count, cuts = w->team->n;
	if (block_one_group(in)) {
		for (uint32_t piece; (piece = team_take(w->team)) < cuts;) {
			struct share share = share_of(in->cols / WEIGHTS_BLOCK, piece, cuts);
			block_quantise_columns(w, in, share.first * WEIGHTS_BLOCK, (share.end - share.first) * WEIGHTS_BLOCK);
		}
	} else {
		while (block_next_group(w, in->n, &first, &count))
			block_quantise(w, in, first, count);
	}
	block_barrier(w);
}

void block_run_attend(struct block_worker *w, uint32_t layer)
{
	struct forward *f = w->f;
	const struct block_layer *b = &f->layers[layer];
	block_run_product(w, &b->in);
	block_run_place(w, layer);
	block_run_attention(w, layer, block_reads_codes(&b->out, &f->o_in));
	block_run_product(w, &b->out);
}

void block_run_mlp(struct block_worker *w, uint32_t layer)
{
	const struct block_layer *b = &w->f->layers[layer];
	block_run_product(w, &b->mlp_in);
	block_run_product(w, &b->mlp_out);
}
