/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The forward pass: embedding, the family's layers, output norm and head. All memory is taken in forward_new() from the
 * largest batch that the options allow, so that a step neither allocates nor frees.
 */
#include "model/forward.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "kernels/attention.h"
#include "model/block.h"
#include "model/dense.h"

static const struct block_family *const families[] = {
	[WEIGHTS_FALCON] = &falcon_family, [WEIGHTS_FALCON_RW] = &falcon_rw_family, [WEIGHTS_LLAMA] = &llama_family};

static float *floats(size_t rows, size_t cols)
{
	return xaligned(64, rows * cols * sizeof(float));
}

/* Columns start at multiples of a cache line's 16 floats. */
static size_t place_columns(size_t *end, size_t n)
{
	size_t at = *end;
	*end = at + (n + 15) / 16 * 16;
	return at;
}

/*
 * Floats from one row to the next: whole cache lines, and an odd number of them. Kernels walk down a column of a dozen rows at a
 * time, which in rows of 4,096 bytes would all want the same eight places of the first-level cache.
 */
static size_t spaced(size_t n)
{
	return ((n + 15) / 16 | 1) * 16;
}

static void make_activations(struct forward *f)
{
	const struct weights_hparams *hp = &f->model->hp;
	size_t rows = f->o.max_tokens, q = (size_t)hp->n_head * hp->head_dim, kv = (size_t)hp->n_kv_head * hp->head_dim;
	f->at_q = place_columns(&f->wide_ld, q);
	f->at_k = place_columns(&f->wide_ld, kv);
	f->at_v = place_columns(&f->wide_ld, kv);
	f->at_gate = place_columns(&f->wide_ld, hp->family == WEIGHTS_LLAMA ? hp->n_ff : 0);
	f->at_up = place_columns(&f->wide_ld, hp->n_ff);
	f->wide_ld = spaced(f->wide_ld);
	f->x = floats(rows, hp->n_embd);
	f->wide = floats(rows, f->wide_ld);
	f->queries = floats(rows, q);
	f->sum_ld = spaced(hp->n_embd);
	f->sum = floats(rows, f->sum_ld);
	f->row_span = xcalloc(rows, sizeof *f->row_span);
	f->row_position = xcalloc(rows, sizeof *f->row_position);
	f->hidden_row = xcalloc(rows, sizeof *f->hidden_row);
	f->wanted_row = xcalloc(f->o.max_logits, sizeof *f->wanted_row);
	f->wanted_span = xcalloc(f->o.max_logits, sizeof *f->wanted_span);
	f->wanted_index = xcalloc(f->o.max_logits, sizeof *f->wanted_index);

	struct block_input normed = {.cols = hp->n_embd, .ld = spaced(hp->n_embd), .owner = f->row_span};
	f->attn_in = f->mlp_in = f->head_in = normed;
	f->attn_in.x = floats(rows, normed.ld);
	/* A sequential block is done with attention's input when the MLP's is made. */
	f->mlp_in.x = hp->family == WEIGHTS_FALCON && hp->n_norm == 2 ? floats(rows, normed.ld) : f->attn_in.x;
	f->head_in.x = floats(f->o.max_logits, normed.ld);
	f->head_in.owner = f->wanted_span;
	f->o_in = (struct block_input){.x = floats(rows, spaced(q)), .cols = (uint32_t)q, .ld = spaced(q), .owner = f->row_span};
	f->down_in = (struct block_input){.x = f->wide + (hp->family == WEIGHTS_LLAMA ? f->at_gate : f->at_up),
					  .cols = hp->n_ff,
					  .ld = f->wide_ld,
					  .owner = f->row_span};
}

static void *codes_memory(uint32_t rows, uint32_t cols)
{
	return xaligned(64, kernels_activation_bytes(rows, cols));
}

/* Copies of an input for each member, of one group. */
static void make_own(struct forward *f, struct block_input *in)
{
	in->own = xcalloc(f->o.threads, sizeof *in->own);
	for (uint32_t i = 0; i < f->o.threads; i++) {
		struct block_input *own = &in->own[i];
		*own = (struct block_input){.x = floats(KERNELS_GROUP, in->cols), .ld = in->cols, .cols = in->cols,
			.owner = in->owner, .coded = in->coded};
		if (own->coded)
			own->memory = codes_memory(KERNELS_GROUP, own->cols);
	}
}

static void free_own(const struct forward *f, struct block_input *in)
{
	for (uint32_t i = 0; in->own != NULL && i < f->o.threads; i++) {
		free(in->own[i].x);
		free(in->own[i].memory);
	}
	free(in->own);
}

/* Products in the order in which a pass comes to them, around to the first. */
static void link_products(struct forward *f)
{
	const struct block_product **to = &f->head.next;
	for (uint32_t i = 0; i < f->model->hp.n_layer; i++) {
		struct block_layer *l = &f->layers[i];
		struct block_product *p[] = {&l->in, &l->out, &l->mlp_in, &l->mlp_out};
		for (size_t j = 0; j < sizeof p / sizeof p[0]; j++) {
			if (p[j]->n_parts == 0)
				continue;
			*to = p[j];
			to = &p[j]->next;
		}
	}
	*to = &f->head;
}

static void make_products(struct forward *f)
{
	f->layers = xcalloc(f->model->hp.n_layer, sizeof *f->layers);
	for (uint32_t i = 0; i < f->model->hp.n_layer; i++)
		f->family->plan(f, i);
	block_add_part(&f->head, &f->model->head, NULL, &f->head_in, NULL, 0);
	block_plan_side(&f->head, f->o.threads);
	link_products(f);
	struct block_input *in[] = {&f->attn_in, &f->mlp_in, &f->o_in, &f->down_in, &f->head_in};
	for (size_t i = 0; i < sizeof in / sizeof in[0]; i++)
		if (in[i]->coded)
			in[i]->memory = codes_memory(in[i] == &f->head_in ? f->o.max_logits : f->o.max_tokens, in[i]->cols);
	make_own(f, &f->attn_in);
	make_own(f, &f->mlp_in);
	make_own(f, &f->head_in);
}

static void make_attention(struct forward *f)
{
	const struct weights_hparams *hp = &f->model->hp;
	f->max_stores = 2 * BLOCK_SPREAD * f->o.threads;
	f->max_parts = (f->o.max_context + KERNELS_SPAN - 1) / KERNELS_SPAN;
	f->max_tiles = (uint32_t)((uint64_t)f->o.max_tokens * f->group / BLOCK_TILE) + f->o.max_spans + f->max_stores;
	f->tiles = xcalloc(f->max_tiles, sizeof *f->tiles);
	f->left = xcalloc(f->max_stores, sizeof *f->left);
	f->partials = floats((size_t)f->max_stores * f->max_parts, (size_t)BLOCK_TILE * (hp->head_dim + 2));
}

static void make_workers(struct forward *f)
{
	const struct weights_hparams *hp = &f->model->hp;
	uint32_t q = hp->n_head * hp->head_dim, widest = hp->n_embd > hp->n_ff ? hp->n_embd : hp->n_ff;
	size_t scratch = kernels_scratch_bytes(widest > q ? widest : q, hp->head_dim, BLOCK_TILE);
	size_t n_pages = (f->o.max_context + PAGE_TOKENS - 1) / PAGE_TOKENS;
	f->workers = xcalloc(f->o.threads, sizeof *f->workers);
	for (uint32_t i = 0; i < f->o.threads; i++) {
		struct block_worker *w = &f->workers[i];
		w->f = f;
		w->member = i;
		w->scratch = xaligned(64, scratch);
		w->keys = xcalloc(n_pages, sizeof *w->keys);
		w->values = xcalloc(n_pages, sizeof *w->values);
		w->parts = xcalloc(f->max_parts, sizeof *w->parts);
		w->merged = floats(BLOCK_TILE, hp->head_dim);
		w->logits = floats(f->o.max_logits, (size_t)f->head.part[0].chunk * WEIGHTS_STRIP);
		if (f->o.dense == FORWARD_OPENBLAS)
			w->panel = xaligned(64, dense_panel_bytes());
	}
}

int forward_new(const struct model *m, const struct kernels *k, const struct forward_options *o, struct forward **ret,
		struct err *e)
{
	CHECK(o->max_tokens > 0 && o->max_spans > 0 && o->max_logits > 0 && o->max_context > 0 && o->threads > 0);
	if (pages_element(o->kv) == 0)
		return err_set(e, -EINVAL, "unknown kind %u of keys and values", o->kv);
	if (m->rope && o->max_context > m->hp.n_context) {
		err_set(e, -EINVAL, "a context of %u tokens, the model's rotary table ends at %u", o->max_context,
			m->hp.n_context);
		return err_hint(e, "ask for a context of at most %u tokens", m->hp.n_context);
	}
	struct forward *f = xcalloc(1, sizeof *f);
	f->model = m;
	f->k = k;
	f->o = *o;
	f->family = families[m->hp.family];
	f->group = m->hp.n_head / m->hp.n_kv_head;
	f->q_scale = attention_scale(m->hp.head_dim);
	if (o->dense == FORWARD_OPENBLAS)
		dense_init();
	make_activations(f);
	make_products(f);
	make_attention(f);
	make_workers(f);
	*ret = f;
	return 0;
}

static void free_worker(struct block_worker *w)
{
	void *const memory[] = {w->scratch, w->keys, w->values, w->parts, w->merged, w->logits, w->panel};
	for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
		free(memory[i]);
}

void forward_free(struct forward *f)
{
	if (f == NULL)
		return;
	for (uint32_t i = 0; i < f->o.threads; i++)
		free_worker(&f->workers[i]);
	free_own(f, &f->attn_in);
	free_own(f, &f->mlp_in);
	free_own(f, &f->head_in);
	if (f->mlp_in.x != f->attn_in.x)
		free(f->mlp_in.x);
	void *const memory[] = {f->x, f->wide, f->queries, f->sum, f->row_span, f->row_position, f->hidden_row, f->wanted_row,
		f->wanted_span, f->wanted_index, f->attn_in.x, f->head_in.x, f->o_in.x, f->attn_in.memory, f->mlp_in.memory, f->o_in.memory,
		f->down_in.memory, f->head_in.memory, f->layers, f->tiles, (void *)f->left, f->partials, f->workers};
	for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
		free(memory[i]);
	free(f);
}

static void set_rows(const struct forward *f, struct block_input *in, uint32_t n)
{
	in->n = n;
	if (in->coded && n > 0)
		kernels_place(&in->codes, in->memory, n, in->cols);
	if (in->own != NULL && block_one_group(in))
		for (uint32_t i = 0; i < f->o.threads; i++) {
			struct block_input *own = &in->own[i];
			own->n = n;
			if (own->coded && n > 0)
				kernels_place(&own->codes, own->memory, n, own->cols);
		}
}

/* Lists the batch's rows and those that want logits. One member does it, before the first barrier. */
static void plan_batch(struct forward *f, struct forward_span *spans, uint32_t n_spans)
{
	CHECK(n_spans <= f->o.max_spans);
	f->spans = spans;
	f->n_spans = n_spans;
	f->n_rows = f->n_wanted = f->n_hidden = 0;
	for (uint32_t s = 0; s < n_spans; s++) {
		struct forward_span *span = &spans[s];
		uint32_t wanted = span->logits == FORWARD_ALL ? span->n : span->logits == FORWARD_LAST && span->n > 0;
		CHECK(span->n <= f->o.max_tokens - f->n_rows && wanted <= f->o.max_logits - f->n_wanted);
		CHECK(span->first <= f->o.max_context && span->n <= f->o.max_context - span->first);
		span->failed = false;
		for (uint32_t i = 0; i < span->n; i++) {
			f->row_span[f->n_rows + i] = s;
			f->row_position[f->n_rows + i] = span->first + i;
			if (span->logits == FORWARD_HIDDEN)
				f->hidden_row[f->n_hidden++] = f->n_rows + i;
		}
		for (uint32_t i = 0; i < wanted; i++) {
			f->wanted_row[f->n_wanted] = f->n_rows + span->n - wanted + i;
			f->wanted_span[f->n_wanted] = s;
			f->wanted_index[f->n_wanted++] = i;
		}
		f->n_rows += span->n;
	}
	set_rows(f, &f->attn_in, f->n_rows);
	set_rows(f, &f->mlp_in, f->n_rows);
	set_rows(f, &f->o_in, f->n_rows);
	set_rows(f, &f->down_in, f->n_rows);
	set_rows(f, &f->head_in, f->n_wanted);
	block_plan_attention(f);
}

static void run_embedding(struct block_worker *w)
{
	struct forward *f = w->f;
	uint32_t first, count;
	while (block_next_group(w, f->n_rows, &first, &count))
		for (uint32_t t = first; t < first + count; t++) {
			const struct forward_span *span = &f->spans[f->row_span[t]];
			int32_t id = span->ids[f->row_position[t] - span->first];
			f->k->row(&f->model->embed, (uint32_t)id, f->x + (size_t)t * f->model->hp.n_embd);
		}
	team_barrier(w->team);
}

/* The output norm of one of the batch's rows. */
static void out_norm(const struct forward *f, uint32_t row, float *out)
{
	block_norm_row(f, f->model->out_norm, f->model->out_norm_bias, row, out);
}

/* Hands the hidden states that are wanted to their spans. */
static void run_hidden(struct block_worker *w)
{
	struct forward *f = w->f;
	uint32_t first, count, n_embd = f->model->hp.n_embd;
	while (block_next_group(w, f->n_hidden, &first, &count))
		for (uint32_t i = first; i < first + count; i++) {
			uint32_t row = f->hidden_row[i], s = f->row_span[row];
			float *out = f->spans[s].hidden_out + (size_t)(f->row_position[row] - f->spans[s].first) * n_embd;
			out_norm(f, row, out);
			for (uint32_t c = 0; c < n_embd; c++)
				if (!isfinite(out[c]))
					block_fail(f, s);
		}
	team_barrier(w->team);
}

static void norm_wanted(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		out_norm(w->f, w->f->wanted_row[i], in->x + i * in->ld);
	if (in->coded)
		block_quantise(w, in, first, count);
}

static void run_out_norm(struct block_worker *w)
{
	struct forward *f = w->f;
	uint32_t first, count;
	if (block_one_group(&f->head_in)) {
		norm_wanted(w, block_input_of(w, &f->head_in), 0, f->n_wanted);
		return;
	}
	while (block_next_group(w, f->n_wanted, &first, &count))
		norm_wanted(w, &f->head_in, first, count);
	block_barrier(w);
}

/* Hands columns [first, first + n) of every wanted row to its span. */
static void scatter_logits(struct block_worker *w, size_t first, size_t n, size_t ld)
{
	struct forward *f = w->f;
	for (uint32_t i = 0; i < f->n_wanted; i++) {
		const float *from = w->logits + i * ld;
		float *to = f->spans[f->wanted_span[i]].logits_out + (size_t)f->wanted_index[i] * f->model->hp.n_vocab + first;
		bool finite = true;
		for (size_t c = 0; c < n; c++) {
			to[c] = from[c];
			finite &= isfinite(from[c]) != 0;
		}
		if (!finite)
			block_fail(f, f->wanted_span[i]);
	}
}

/* A piece of the head is multiplied as a matrix of its own, so that its columns fit into the member's buffer. */
static void run_head(struct block_worker *w)
{
	struct forward *f = w->f;
	const struct kernels_matrix *head = &f->model->head;
	uint64_t strip_bytes = weights_strip_bytes(head->type, head->cols);
	uint32_t chunk = f->head.part[0].chunk;
	size_t ld = (size_t)chunk * WEIGHTS_STRIP;
	if (f->n_wanted == 0)
		return;
	run_out_norm(w);
	for (uint32_t piece = BLOCK_FIRST; block_next_piece(w, &f->head, &piece);) {
		uint32_t strip = piece * chunk, row = strip * WEIGHTS_STRIP;
		uint32_t rows = head->rows - row < ld ? head->rows - row : (uint32_t)ld;
		struct kernels_matrix part = *head;
		part.data += strip_bytes * strip;
		part.rows = rows;
		block_multiply(w, &part, 0, (rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP, &f->head_in, w->logits, ld, false);
		scatter_logits(w, row, rows, ld);
	}
	block_look_ahead(w, f->head.next);
}

void forward_run(struct forward *f, struct team *team, uint32_t member, struct forward_span *spans, uint32_t n_spans)
{
	CHECK(team->n <= f->o.threads && member < team->n);
	struct block_worker *w = &f->workers[member];
	w->team = team;
	if (member == 0)
		plan_batch(f, spans, n_spans);
	team_barrier(team);
	run_embedding(w);
	for (uint32_t i = 0; i < f->model->hp.n_layer; i++)
		f->family->layer(w, i);
	if (f->n_hidden > 0)
		run_hidden(w);
	run_head(w);
	block_barrier(w);
}
