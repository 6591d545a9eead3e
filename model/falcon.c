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
	block_add_part(&b->out, &l->o, l->o_bias, &f->o_in, f->sum, f->sum_ld);
	block_add_part(&b->out, &l->down, l->down_bias, &f->down_in, f->sum, f->sum_ld);
	block_plan_sum(&b->out, f->o.threads);
	block_activate(&b->in, &f->down_in, &b->out);
}

static void layer(struct block_worker *w, uint32_t i)
{
	struct forward *f = w->f;
	const struct model_layer *l = &f->model->layers[i];
	const struct block_layer *b = &f->layers[i];
	block_run_norm(w, l->norm, l->norm_bias, &f->attn_in, block_reads_codes(&b->in, &f->attn_in));
	if (f->model->hp.n_norm == 2)
		block_run_norm(w, l->mlp_norm, l->mlp_norm_bias, &f->mlp_in, block_reads_codes(&b->in, &f->mlp_in));
	block_run_product(w, &b->in);
	block_run_place(w, i);
	block_run_attention(w, i, block_reads_codes(&b->out, &f->o_in));
	block_run_product(w, &b->out);
}

const struct block_family falcon_family = {plan, layer};
