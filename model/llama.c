/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Llama block of Falcon3 and SmolLM2: sequential, RMS norms, rotary, and a gated MLP,
 *
 *	x += Wo attention(norm(x))
 *	x += Wdown (silu(Wgate norm'(x)) * Wup norm'(x))
 */
#include "model/block.h"

static void plan(struct forward *f, uint32_t layer)
{
	const struct model_layer *l = &f->model->layers[layer];
	struct block_layer *b = &f->layers[layer];
	block_add_qkv(f, &b->in, l);
	block_plan_side(&b->in, f->o.threads);
	block_add_part(&b->out, &l->o, l->o_bias, &f->o_in, f->sum, f->sum_ld);
	block_plan_sum(&b->out, f->o.threads);
	block_add_part(&b->mlp_in, &l->gate, NULL, &f->mlp_in, f->wide + f->at_gate, f->wide_ld);
	block_add_part(&b->mlp_in, &l->up, l->up_bias, &f->mlp_in, f->wide + f->at_up, f->wide_ld);
	block_plan_gated(&b->mlp_in, f->o.threads);
	block_add_part(&b->mlp_out, &l->down, l->down_bias, &f->down_in, f->sum, f->sum_ld);
	block_plan_sum(&b->mlp_out, f->o.threads);
	block_activate(&b->mlp_in, &f->down_in, &b->mlp_out);
}

static void layer(struct block_worker *w, uint32_t i)
{
	struct forward *f = w->f;
	const struct model_layer *l = &f->model->layers[i];
	const struct block_layer *b = &f->layers[i];
	block_run_norm(w, l->norm, NULL, &f->attn_in, block_reads_codes(&b->in, &f->attn_in));
	block_run_attend(w, i);
	block_run_norm(w, l->mlp_norm, NULL, &f->mlp_in, block_reads_codes(&b->mlp_in, &f->mlp_in));
	block_run_mlp(w, i);
}

const struct block_family llama_family = {plan, layer};
