/* SPDX-License-Identifier: Apache-2.0 */
#include "model/block.h"

#include <math.h>
#include <string.h>

#include "base/check.h"
#include "model/dense.h"

static uint32_t strips_of(const struct kernels_matrix *w)
{
	return (w->rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP;
}

void block_add_part(struct block_product *p, const struct kernels_matrix *w, const float *bias, struct block_input *in,
		    float *out, size_t ldo)
{
	CHECK(p->n_parts < BLOCK_PARTS && w->cols == in->cols);
	p->part[p->n_parts++] =
		(struct block_part){.w = w, .bias = bias, .in = in, .out = out, .ldo = ldo, .strips = strips_of(w)};
	in->coded |= block_quantised(w);
}

void block_add_qkv(struct forward *f, struct block_product *p, const struct model_layer *l)
{
	block_add_part(p, &l->q, l->q_bias, &f->attn_in, f->wide + f->at_q, f->wide_ld);
	block_add_part(p, &l->k, l->k_bias, &f->attn_in, f->wide + f->at_k, f->wide_ld);
	block_add_part(p, &l->v, l->v_bias, &f->attn_in, f->wide + f->at_v, f->wide_ld);
}

/* Large enough that taking a piece costs nothing beside it, small enough that no member waits long for the last. */
static uint64_t piece_bytes(const struct block_product *p, uint32_t threads)
{
	uint64_t total = 0;
	for (uint32_t i = 0; i < p->n_parts; i++)
		total += weights_bytes(p->part[i].w->type, p->part[i].w->rows, p->part[i].w->cols);
	uint64_t share = total / (16 * (uint64_t)threads);
	return share > BLOCK_PIECE ? share : BLOCK_PIECE;
}

static uint32_t chunk_of(uint64_t bytes, uint64_t strip, uint32_t strips)
{
	uint64_t chunk = (bytes + strip - 1) / strip;
	return chunk < strips ? (uint32_t)chunk : strips;
}

void block_plan_side(struct block_product *p, uint32_t threads)
{
	uint64_t bytes = piece_bytes(p, threads);
	for (uint32_t i = 0; i < p->n_parts; i++) {
		struct block_part *part = &p->part[i];
		part->chunk = chunk_of(bytes, weights_strip_bytes(part->w->type, part->w->cols), part->strips);
		p->pieces += (part->strips + part->chunk - 1) / part->chunk;
		part->end = p->pieces;
	}
}

void block_plan_sum(struct block_product *p, uint32_t threads)
{
	uint64_t strip = 0;
	for (uint32_t i = 0; i < p->n_parts; i++) {
		CHECK(p->part[i].strips == p->part[0].strips && p->part[i].out == p->part[0].out);
		strip += weights_strip_bytes(p->part[i].w->type, p->part[i].w->cols);
	}
	struct block_part *first = &p->part[0];
	first->chunk = chunk_of(piece_bytes(p, threads), strip, first->strips);
	p->pieces = (first->strips + first->chunk - 1) / first->chunk;
}

bool block_reads_codes(const struct block_product *p, const struct block_input *in)
{
	for (uint32_t i = 0; i < p->n_parts; i++)
		if (p->part[i].in == in && block_quantised(p->part[i].w))
			return true;
	return false;
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

void block_quantise(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count)
{
	const struct kernels *k = w->f->k;
	if (k->quantise(in->x, in->ld, first, count, &in->codes))
		return;
	for (uint32_t t = first; t < first + count; t++) {
		float *row = in->x + t * in->ld;
		if (all_finite(row, in->cols))
			continue;
		block_fail(w->f, in->owner[t]);
		memset(row, 0, in->cols * sizeof *row);
	}
	/* The neighbours in the group belong to others: what they get must not depend on the row that failed. */
	CHECK(k->quantise(in->x, in->ld, first, count, &in->codes));
}

void block_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, uint32_t first,
		uint32_t count)
{
	const struct forward *f = w->f;
	uint32_t n = f->model->hp.n_embd;
	float eps = f->model->hp.norm_eps;
	for (uint32_t t = first; t < first + count; t++) {
		if (bias)
			f->k->layer_norm(f->x + (size_t)t * n, weight, bias, eps, n, in->x + t * in->ld);
		else
			f->k->rms_norm(f->x + (size_t)t * n, weight, eps, n, in->x + t * in->ld);
	}
}

static void place_token(struct forward *f, uint32_t layer, uint32_t t)
{
	const struct weights_hparams *hp = &f->model->hp;
	uint32_t position = f->row_position[t], kv = f->o.kv;
	size_t head = hp->head_dim, group = f->group * head;
	float *row = f->wide + t * f->wide_ld, *q = row + f->at_q, *k = row + f->at_k, *v = row + f->at_v;
	if (f->model->rope) {
		const float *table = f->model->rope + (size_t)position * head;
		f->k->rope(q, table, hp->n_head, hp->head_dim);
		f->k->rope(k, table, hp->n_kv_head, hp->head_dim);
	}
	uint8_t *page = f->spans[f->row_span[t]].pages[position / PAGE_TOKENS];
	for (uint32_t g = 0; g < hp->n_kv_head; g++) {
		uint8_t *keys = page + pages_offset(hp, kv, layer, g), *values = keys + pages_half(hp, kv);
		f->k->store_kv(k + g * head, v + g * head, kv, hp->head_dim, position % PAGE_TOKENS, keys, values);
		f->k->scale(q + g * group, f->q_scale, group, f->queries + ((size_t)g * f->o.max_tokens + t) * group);
	}
}

void block_place(struct block_worker *w, uint32_t layer, uint32_t first, uint32_t count)
{
	for (uint32_t t = first; t < first + count; t++)
		place_token(w->f, layer, t);
}

void block_multiply(struct block_worker *w, const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips,
		    const struct block_input *in, float *out, size_t ldo, bool more)
{
	const struct kernels *k = w->f->k;
	if (block_quantised(m))
		k->matmul(m, strip, n_strips, &in->codes, out, ldo, more, w->scratch);
	else if (w->f->o.dense == FORWARD_OPENBLAS)
		dense_multiply(m, strip, n_strips, in->x, in->ld, in->n, out, ldo, more, w->panel);
	else
		k->matmul_dense(m, strip, n_strips, in->x, in->ld, in->n, out, ldo, more, w->scratch);
}

/* Columns [*ret_first, + the returned number) of the output that strips [strip, strip + n) are. */
static size_t columns(const struct kernels_matrix *m, uint32_t strip, uint32_t n, size_t *ret_first)
{
	size_t first = (size_t)strip * WEIGHTS_STRIP, end = first + (size_t)n * WEIGHTS_STRIP;
	*ret_first = first;
	return (end < m->rows ? end : m->rows) - first;
}

static void add_bias(struct block_worker *w, const struct block_part *part, uint32_t strip, uint32_t n)
{
	if (part->bias == NULL)
		return;
	size_t first, count = columns(part->w, strip, n, &first);
	for (uint32_t t = 0; t < part->in->n; t++)
		w->f->k->add(part->out + t * part->ldo + first, part->bias + first, count);
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

void block_run_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, bool codes)
{
	uint32_t first, count;
	while (block_next_group(w, w->f->n_rows, &first, &count)) {
		block_norm(w, weight, bias, in, first, count);
		if (codes)
			block_quantise(w, in, first, count);
	}
	team_barrier(w->team);
}

void block_run_side(struct block_worker *w, const struct block_product *p)
{
	for (uint32_t piece; (piece = team_take(w->team)) < p->pieces;) {
		uint32_t i = 0, before = 0;
		while (piece >= p->part[i].end)
			before = p->part[i++].end;
		const struct block_part *part = &p->part[i];
		uint32_t strip = (piece - before) * part->chunk, n = least(part->chunk, part->strips - strip);
		block_multiply(w, part->w, strip, n, part->in, part->out, part->ldo, false);
		add_bias(w, part, strip, n);
	}
	team_barrier(w->team);
}

void block_run_sum(struct block_worker *w, const struct block_product *p)
{
	const struct forward *f = w->f;
	const struct block_part *head = &p->part[0];
	for (uint32_t piece; (piece = team_take(w->team)) < p->pieces;) {
		uint32_t strip = piece * head->chunk, n = least(head->chunk, head->strips - strip);
		for (uint32_t i = 0; i < p->n_parts; i++)
			block_multiply(w, p->part[i].w, strip, n, p->part[i].in, head->out, head->ldo, i > 0);
		for (uint32_t i = 0; i < p->n_parts; i++)
			add_bias(w, &p->part[i], strip, n);
		size_t first, count = columns(head->w, strip, n, &first);
		for (uint32_t t = 0; t < f->n_rows; t++)
			f->k->add(f->x + (size_t)t * f->model->hp.n_embd + first, head->out + t * head->ldo + first, count);
	}
	team_barrier(w->team);
}

void block_run_codes(struct block_worker *w, struct block_input *in)
{
	uint32_t first, count;
	while (block_next_group(w, in->n, &first, &count))
		block_quantise(w, in, first, count);
	team_barrier(w->team);
}

void block_run_attend(struct block_worker *w, uint32_t layer)
{
	struct forward *f = w->f;
	const struct block_layer *b = &f->layers[layer];
	uint32_t first, count;
	block_run_side(w, &b->in);
	while (block_next_group(w, f->n_rows, &first, &count))
		block_place(w, layer, first, count);
	team_barrier(w->team);
	block_run_attention(w, layer);
	if (block_reads_codes(&b->out, &f->o_in))
		block_run_codes(w, &f->o_in);
	block_run_sum(w, &b->out);
}
