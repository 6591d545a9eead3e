/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products: what a layer multiplies in one phase, how it is cut into pieces, and what becomes of a piece's outputs while they
 * are still in the cache of the member that made them.
 *
 * Decoding one session is bound by memory, so every moment in which no member reads weights is lost. Three things keep the
 * reads going. Pieces are hundreds of kilobytes. A member's first piece is known beforehand (the others come from the team's
 * counter), so while it waits at a barrier, and others are busy with the few numbers between two matrices, it asks for the
 * beginning of that piece, up to what its second-level cache holds without pain. And the activation and the codes of the
 * outputs are made piece by piece, in parallel, and need no phase of their own.
 */
#include "model/block.h"

#include "base/check.h"
#include "model/dense.h"

enum {
	PIECE = 64 << 10,  /* least and most bytes of weights a piece */
	PIECE_MOST = 512 << 10,
	AHEAD = 256 << 10, /* most bytes asked for ahead: a quarter of a second-level cache of today */
	LINES = 4,         /* lines asked for at a time, between two looks at the barrier */
	LINE = 64,
};

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t strips_of(const struct kernels_matrix *w)
{
	return (w->rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP;
}

static uint64_t strip_bytes(const struct kernels_matrix *w)
{
	return weights_strip_bytes(w->type, w->cols);
}

/* Plans --------------------------------------------------------------------------------------------------------------- */

void block_add_part(struct block_product *p, const struct kernels_matrix *w, const float *bias, struct block_input *in,
		    float *out, size_t ldo)
{
	CHECK(p->n_parts < BLOCK_PARTS && w->cols == in->cols);
	p->part[p->n_parts++] =
		(struct block_part){.w = w, .bias = bias, .in = in, .out = out, .ldo = ldo, .strips = strips_of(w)};
	in->coded |= block_quantised(w);
}

/* Large enough that taking a piece costs nothing beside it, small enough that no member waits long for the last. */
static uint64_t piece_bytes(const struct block_product *p, uint32_t threads)
{
	uint64_t total = 0;
	for (uint32_t i = 0; i < p->n_parts; i++)
		total += weights_bytes(p->part[i].w->type, p->part[i].w->rows, p->part[i].w->cols);
	uint64_t share = total / (16 * (uint64_t)threads);
	return share < PIECE ? PIECE : share > PIECE_MOST ? PIECE_MOST : share;
}

/* An even number of strips, whole blocks of 32 columns of whoever reads the output, or all of them. */
static uint32_t chunk_of(uint64_t bytes, uint64_t strip, uint32_t strips)
{
	uint64_t chunk = (bytes + strip - 1) / strip;
	chunk += chunk % 2;
	return chunk < strips ? (uint32_t)chunk : strips;
}

void block_plan_side(struct block_product *p, uint32_t threads)
{
	uint64_t bytes = piece_bytes(p, threads);
	for (uint32_t i = 0; i < p->n_parts; i++) {
		struct block_part *part = &p->part[i];
		part->chunk = chunk_of(bytes, strip_bytes(part->w), part->strips);
		p->pieces += (part->strips + part->chunk - 1) / part->chunk;
		part->end = p->pieces;
	}
}

static void plan_together(struct block_product *p, uint32_t threads)
{
	uint64_t strip = 0;
	for (uint32_t i = 0; i < p->n_parts; i++) {
		CHECK(p->part[i].strips == p->part[0].strips);
		strip += strip_bytes(p->part[i].w);
	}
	uint32_t chunk = chunk_of(piece_bytes(p, threads), strip, p->part[0].strips);
	for (uint32_t i = 0; i < p->n_parts; i++)
		p->part[i].chunk = chunk;
	p->pieces = (p->part[0].strips + chunk - 1) / chunk;
}

void block_plan_gated(struct block_product *p, uint32_t threads)
{
	CHECK(p->n_parts == 2);
	p->kind = BLOCK_GATED;
	plan_together(p, threads);
}

void block_plan_sum(struct block_product *p, uint32_t threads)
{
	for (uint32_t i = 0; i < p->n_parts; i++)
		CHECK(p->part[i].out == p->part[0].out);
	p->kind = BLOCK_SUM;
	plan_together(p, threads);
}

bool block_reads_codes(const struct block_product *p, const struct block_input *in)
{
	for (uint32_t i = 0; i < p->n_parts; i++)
		if (p->part[i].in == in && block_quantised(p->part[i].w))
			return true;
	return false;
}

void block_activate(struct block_product *p, struct block_input *into, const struct block_product *reader)
{
	p->into = into;
	p->codes = block_reads_codes(reader, into);
}

/* Reading ahead ------------------------------------------------------------------------------------------------------- */

/* What piece of its kind a number is: strips [*ret_strip, + the returned number) of the part, or of all parts together. */
static uint32_t piece_strips(const struct block_product *p, uint32_t piece, uint32_t *ret_part, uint32_t *ret_strip)
{
	uint32_t i = 0, before = 0;
	if (p->kind == BLOCK_SIDE)
		while (piece >= p->part[i].end)
			before = p->part[i++].end;
	*ret_part = i;
	*ret_strip = (piece - before) * p->part[i].chunk;
	return least(p->part[i].chunk, p->part[i].strips - *ret_strip);
}

void block_look_ahead(struct block_worker *w, const struct block_product *p)
{
	uint64_t left = AHEAD;
	w->ahead_n = w->ahead_at = 0;
	if (w->member >= p->pieces || p->pieces == 1)
		return;
	uint32_t part, strip, n = piece_strips(p, w->member, &part, &strip);
	uint32_t end = p->kind == BLOCK_SIDE ? part + 1 : p->n_parts;
	for (; part < end && w->ahead_n < BLOCK_AHEAD; part++) {
		const struct kernels_matrix *m = p->part[part].w;
		uint64_t bytes = strip_bytes(m) * n;
		bytes = bytes < left ? bytes : left;
		w->ahead[w->ahead_n++] = (struct block_range){m->data + strip_bytes(m) * strip, bytes};
		left -= bytes;
	}
}

static bool read_ahead(void *arg)
{
	struct block_worker *w = arg;
	if (w->ahead_at == w->ahead_n)
		return false;
	struct block_range *r = &w->ahead[w->ahead_at];
	for (int i = 0; i < LINES && r->bytes > 0; i++) {
		__builtin_prefetch(r->at, 0, 2);
		r->at += LINE;
		r->bytes -= r->bytes < LINE ? r->bytes : LINE;
	}
	w->ahead_at += r->bytes == 0;
	return true;
}

void block_barrier(struct block_worker *w)
{
	team_barrier_idle(w->team, read_ahead, w);
}

/* Runs ---------------------------------------------------------------------------------------------------------------- */

void block_multiply(struct block_worker *w, const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips,
		    struct block_input *in, float *out, size_t ldo, bool more)
{
	const struct kernels *k = w->f->k;
	in = block_input_of(w, in);
	if (block_quantised(m))
		k->matmul(m, strip, n_strips, &in->codes, out, ldo, more, w->scratch);
	else if (w->f->o.dense == FORWARD_OPENBLAS)
		dense_multiply(m, strip, n_strips, in->x, in->ld, in->n, out, ldo, more, w->panel);
	else
		k->matmul_dense(m, strip, n_strips, in->x, in->ld, in->n, out, ldo, more, w->scratch);
}

/* Columns of the output that strips [strip, strip + n) are. */
struct columns {
	size_t first, count;
};

static struct columns columns_of(const struct kernels_matrix *m, uint32_t strip, uint32_t n)
{
	size_t first = (size_t)strip * WEIGHTS_STRIP, end = first + (size_t)n * WEIGHTS_STRIP;
	return (struct columns){first, (end < m->rows ? end : m->rows) - first};
}

static void add_bias(struct block_worker *w, const struct block_part *part, struct columns c)
{
	if (part->bias == NULL)
		return;
	for (uint32_t t = 0; t < part->in->n; t++)
		w->f->k->add(part->out + t * part->ldo + c.first, part->bias + c.first, c.count);
}

static void quantise_made(struct block_worker *w, const struct block_product *p, struct columns c)
{
	if (p->codes)
		block_quantise_columns(w, p->into, (uint32_t)c.first, (uint32_t)c.count);
}

/* Each part has pieces of its own; the last part's outputs are what gelu is applied to. */
static void run_side(struct block_worker *w, const struct block_product *p, uint32_t piece)
{
	uint32_t i, strip, n = piece_strips(p, piece, &i, &strip);
	const struct block_part *part = &p->part[i];
	struct columns c = columns_of(part->w, strip, n);
	block_multiply(w, part->w, strip, n, part->in, part->out, part->ldo, false);
	add_bias(w, part, c);
	if (p->into == NULL || i + 1 < p->n_parts)
		return;
	for (uint32_t t = 0; t < part->in->n; t++)
		w->f->k->gelu(part->out + t * part->ldo + c.first, c.count);
	quantise_made(w, p, c);
}

/* The gated values take the gate's place. */
static void run_gated(struct block_worker *w, const struct block_product *p, uint32_t piece)
{
	uint32_t i, strip, n = piece_strips(p, piece, &i, &strip);
	const struct block_part *gate = &p->part[0], *up = &p->part[1];
	struct columns c = columns_of(gate->w, strip, n);
	for (i = 0; i < p->n_parts; i++) {
		block_multiply(w, p->part[i].w, strip, n, p->part[i].in, p->part[i].out, p->part[i].ldo, false);
		add_bias(w, &p->part[i], c);
	}
	for (uint32_t t = 0; t < gate->in->n; t++) {
		float *out = gate->out + t * gate->ldo + c.first;
		w->f->k->swiglu(out, up->out + t * up->ldo + c.first, c.count, out);
	}
	quantise_made(w, p, c);
}

static void run_sum(struct block_worker *w, const struct block_product *p, uint32_t piece)
{
	const struct forward *f = w->f;
	const struct block_part *head = &p->part[0];
	uint32_t i, strip, n = piece_strips(p, piece, &i, &strip);
	struct columns c = columns_of(head->w, strip, n);
	for (i = 0; i < p->n_parts; i++)
		block_multiply(w, p->part[i].w, strip, n, p->part[i].in, head->out, head->ldo, i > 0);
	for (i = 0; i < p->n_parts; i++)
		add_bias(w, &p->part[i], c);
	for (uint32_t t = 0; t < f->n_rows; t++)
		f->k->add(f->x + (size_t)t * f->model->hp.n_embd + c.first, head->out + t * head->ldo + c.first, c.count);
}

bool block_next_piece(struct block_worker *w, const struct block_product *p, uint32_t *piece)
{
	*piece = *piece == BLOCK_FIRST ? w->member : w->team->n + team_take(w->team);
	return *piece < p->pieces;
}

void block_run_product(struct block_worker *w, const struct block_product *p)
{
	for (uint32_t piece = BLOCK_FIRST; block_next_piece(w, p, &piece);) {
		switch (p->kind) {
		case BLOCK_SIDE: run_side(w, p, piece); break;
		case BLOCK_GATED: run_gated(w, p, piece); break;
		case BLOCK_SUM: run_sum(w, p, piece); break;
		}
	}
	block_look_ahead(w, p->next);
	block_barrier(w);
}
