/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Falcon's parallel block: attention and MLP read the same residual stream and are added to it together,
 *
 *	x += Wo attention(norm(x)) + Wdown gelu(Wup norm'(x))
 *
 * where norm' is norm (7B, Falcon2-11B) or a norm of its own (40B, 180B). So a layer streams its weights in two products.
 */
#include "model/block.h"

static struct block_input *mlp_input(struct forward *f)
{
	return f->model->hp.n_norm == 2 ? &f->mlp_in : &f->attn_in;
}

static void plan(struct forward *f, uint32_t layer)
{
	const struct model_layer *l = &f->model->layers[layer];
	struct block_layer *b = &f->layers[layer];
	block_add_qkv(f, &b->in, l);
	block_add_part(&b->in, &l->up, l->up_bias, mlp_input(f), f->wide + f->at_up, f->wide_ld);
	block_plan_side(&b->in, f->o.threads);
	block_add_part(&b->out, &l->o, l->o_bias, &f->o_in, f->sum, f->model->hp.n_embd);
	block_add_part(&b->out, &l->down, l->down_bias, &f->down_in, f->sum, f->model->hp.n_embd);
	block_plan_sum(&b->out, f->o.threads);
}

static void norms(struct block_worker *w, const struct model_layer *l, const struct block_product *p)
{
	struct forward *f = w->f;
	bool two = f->model->hp.n_norm == 2;
	uint32_t first, count;
	while (block_next_group(w, f->n_rows, &first, &count)) {
		block_norm(w, l->norm, l->norm_bias, &f->attn_in, first, count);
		if (two)
			block_norm(w, l->mlp_norm, l->mlp_norm_bias, &f->mlp_in, first, count);
		if (block_reads_codes(p, &f->attn_in))
			block_quantise(w, &f->attn_in, first, count);
		if (two && block_reads_codes(p, &f->mlp_in))
			block_quantise(w, &f->mlp_in, first, count);
	}
	team_barrier(w->team);
}

static void place_and_activate(struct block_worker *w, uint32_t layer)
{
	struct forward *f = w->f;
	bool codes = block_reads_codes(&f->layers[layer].out, &f->down_in);
	uint32_t first, count;
	while (block_next_group(w, f->n_rows, &first, &count)) {
		block_place(w, layer, first, count);
		for (uint32_t t = first; t < first + count; t++)
			f->k->gelu(f->down_in.x + t * f->down_in.ld, f->down_in.cols);
		if (codes)
			block_quantise(w, &f->down_in, first, count);
	}
	team_barrier(w->team);
}

static void layer(struct block_worker *w, uint32_t i)
{
	struct forward *f = w->f;
	struct block_layer *b = &f->layers[i];
	norms(w, &f->model->layers[i], &b->in);
	block_run_side(w, &b->in);
	place_and_activate(w, i);
	block_run_attention(w, i);
	if (block_reads_codes(&b->out, &f->o_in))
		block_run_codes(w, &f->o_in);
	block_run_sum(w, &b->out);
}

const struct block_family falcon_family = {plan, layer};
