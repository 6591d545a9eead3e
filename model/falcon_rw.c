/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Falcon-RW's sequential block: first attention, then the MLP, each behind a layer norm of its own,
 *
 *	x += Wo attention(norm(x)) + bias
 *	x += Wdown gelu(Wup norm'(x) + bias) + bias
 *
 * Positions come from ALiBi (in the attention kernel) or from rotary (block_place); both kinds of file exist.
 */
#include "model/block.h"

static void plan(struct forward *f, uint32_t layer)
{
	const struct model_layer *l = &f->model->layers[layer];
	struct block_layer *b = &f->layers[layer];
	block_add_qkv(f, &b->in, l);
	block_plan_side(&b->in, f->o.threads);
	block_add_part(&b->out, &l->o, l->o_bias, &f->o_in, f->sum, f->model->hp.n_embd);
	block_plan_sum(&b->out, f->o.threads);
	block_add_part(&b->mlp_in, &l->up, l->up_bias, &f->mlp_in, f->wide + f->at_up, f->wide_ld);
	block_plan_side(&b->mlp_in, f->o.threads);
	block_add_part(&b->mlp_out, &l->down, l->down_bias, &f->down_in, f->sum, f->model->hp.n_embd);
	block_plan_sum(&b->mlp_out, f->o.threads);
}

static void activate(struct block_worker *w, bool codes)
{
	struct forward *f = w->f;
	uint32_t first, count;
	while (block_next_group(w, f->n_rows, &first, &count)) {
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
	const struct model_layer *l = &f->model->layers[i];
	struct block_layer *b = &f->layers[i];
	block_run_norm(w, l->norm, l->norm_bias, &f->attn_in, block_reads_codes(&b->in, &f->attn_in));
	block_run_attend(w, i);
	block_run_norm(w, l->mlp_norm, l->mlp_norm_bias, &f->mlp_in, block_reads_codes(&b->mlp_in, &f->mlp_in));
	block_run_side(w, &b->mlp_in);
	activate(w, block_reads_codes(&b->mlp_out, &f->down_in));
	block_run_sum(w, &b->mlp_out);
}

const struct block_family falcon_rw_family = {plan, layer};
