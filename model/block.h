/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The phases that every block family is put together from (model/ alone includes this). A forward pass is a sequence of
 * phases; all members of the team run the same sequence, take pieces of each phase from the team's counter and meet at the
 * barrier that ends it. A piece is either a group of four token rows or a run of strips of a matrix, and never a part of a
 * sum: which member takes it changes no bit.
 *
 * Token rows of all spans of the batch stand one below the other in each activation matrix.
 */
#ifndef FALCON_MODEL_BLOCK_H
#define FALCON_MODEL_BLOCK_H

#include <stdatomic.h>

#include "model/forward.h"

enum {
	BLOCK_TILE = 128,       /* most rows (query heads x tokens) of one attention tile */
	BLOCK_LEAST = 8,        /* rows below which no tile is cut for the sake of more pieces */
	BLOCK_SPREAD = 4,       /* tiles a thread from which on a tile's spans are not spread over threads */
	BLOCK_PARTS = 5,        /* most matrices of one product: queries, keys, values, gate, up */
	BLOCK_AHEAD = 2,        /* ranges that a member reads ahead: most parts of a piece */
};
#define BLOCK_FIRST UINT32_MAX

/*
 * An activation matrix that products read: rows of `cols` floats, and their codes where a quantised matrix reads them. What a
 * norm makes of at most one group of rows each member makes for itself, in `own`, which takes less time than to wait for another.
 */
struct block_input {
	float *x;               /* [n][ld] */
	size_t ld;
	uint32_t n, cols;
	const uint32_t *owner;  /* [n] span of each row */
	bool coded;             /* some quantised matrix reads it: codes have memory */
	void *memory;
	struct kernels_activations codes;
	struct block_input *own; /* [threads] or NULL */
};

/* One matrix of a product, with the place of its output. */
struct block_part {
	const struct kernels_matrix *w;
	const float *bias;      /* [w->rows] or NULL */
	struct block_input *in;
	float *out;             /* [n][ldo] */
	size_t ldo;
	uint32_t strips;        /* in w */
	uint32_t chunk;         /* strips a piece */
	uint32_t end;           /* pieces of this part and of those before it */
};

/*
 * Matrices that are multiplied in one pass. Side by side ([Wq; Wk; Wv; Wup]) each has its own output, and gelu may be applied to
 * the last one's; gated, an output of the first is multiplied with the same of the second; in a sum ([Wo | Wdown]) the parts
 * add up, in order, to one, which is added to the residual stream.
 */
enum block_kind { BLOCK_SIDE, BLOCK_GATED, BLOCK_SUM };
struct block_product {
	enum block_kind kind;
	struct block_part part[BLOCK_PARTS];
	uint32_t n_parts, pieces;
	struct block_input *into;  /* what the activated outputs are, or NULL without an activation */
	bool codes;                /* somebody reads their codes */
	const struct block_product *next; /* of the pass, the head's is the first */
};

/* One layer's products. The parallel block has `in` with the MLP's parts and `out` with both; the sequential one all four. */
struct block_layer {
	struct block_product in, out, mlp_in, mlp_out;
};

/* Rows of one span and of one key/value head that attention computes together. */
struct block_tile {
	uint32_t span;
	uint32_t token;     /* the span's first among the batch's rows */
	uint32_t row, rows; /* row r of a span is query head r % group of token r / group */
	uint32_t parts;     /* spans of 512 positions that its last row sees */
	uint32_t piece;     /* number of its first piece where parts are spread */
};

struct block_worker;
struct block_family;
struct forward {
	const struct model *model;
	const struct kernels *k;
	const struct block_family *family;
	struct forward_options o;
	uint32_t group;         /* query heads a key/value head */
	uint32_t max_parts;     /* attention spans of the longest context */
	float q_scale;          /* log2(e) / sqrt(head_dim) */

	/* this batch */
	struct forward_span *spans;
	uint32_t n_spans, n_rows, n_wanted, n_hidden;
	uint32_t *row_span, *row_position; /* [max_tokens] */
	uint32_t *wanted_row, *wanted_span, *wanted_index; /* [max_logits] rows that want logits; index within the span's */
	uint32_t *hidden_row; /* [max_tokens] rows that want their hidden state */

	/* activations, [max_tokens] rows unless said otherwise */
	float *x;               /* [n_embd] residual stream */
	float *wide;            /* [wide_ld] queries | keys | values | gate | up */
	size_t wide_ld, at_q, at_k, at_v, at_gate, at_up;
	float *queries;         /* [n_kv_head][max_tokens][group][head_dim], scaled */
	float *sum;             /* [sum_ld] output of the block's sums */
	size_t sum_ld;
	struct block_input attn_in, mlp_in, o_in, down_in, head_in;
	struct block_layer *layers; /* [n_layer] */
	struct block_product head; /* out is each member's own */

	/* attention */
	struct block_tile *tiles;
	uint32_t n_tiles, max_tiles, tile_pieces;
	uint32_t max_stores;    /* places for partials: fewer pairs of a tile and a head are spread */
	bool spread;            /* parts of one tile go to several members */
	_Atomic uint32_t *left; /* [max_stores] parts of a tile that are not yet computed */
	float *partials;        /* [max_stores][max_parts][BLOCK_TILE * (head_dim + 2)] */

	struct block_worker *workers; /* [threads] */
};

struct block_range {
	const uint8_t *at;
	uint64_t bytes;
};

/* What one member has for itself. */
struct block_worker {
	struct forward *f;
	struct team *team;
	uint32_t member;
	void *scratch;                   /* kernels_scratch_bytes() */
	const void **keys, **values;     /* [pages of the longest context] */
	struct kernels_partial *parts;   /* [max_parts] */
	float *merged;                   /* [BLOCK_TILE][head_dim] */
	float *logits;                   /* [max_logits][16 * head chunk] */
	float *panel;                    /* dense_panel_bytes(), FORWARD_OPENBLAS alone */
	struct block_range ahead[BLOCK_AHEAD]; /* [ahead_n] what it will read first, from ahead_at on not yet asked for */
	uint32_t ahead_n, ahead_at;
};

static inline bool block_one_group(const struct block_input *in)
{
	return in->n <= KERNELS_GROUP;
}

/* The copy of in that this member reads. */
static inline struct block_input *block_input_of(const struct block_worker *w, struct block_input *in)
{
	return in->own != NULL && block_one_group(in) ? &in->own[w->member] : in;
}

static inline bool block_quantised(const struct kernels_matrix *w)
{
	return w->type > WEIGHTS_BF16;
}

/* Adds queries, keys and values, which every family starts with. */
void block_add_qkv(struct forward *f, struct block_product *p, const struct model_layer *l);

/* Builds a product: adds a part, then plans its pieces. A sum's parts are all rows x n_embd and share their output. */
void block_add_part(struct block_product *p, const struct kernels_matrix *w, const float *bias, struct block_input *in,
		    float *out, size_t ldo);
void block_plan_side(struct block_product *p, uint32_t threads);
void block_plan_gated(struct block_product *p, uint32_t threads);
void block_plan_sum(struct block_product *p, uint32_t threads);

/* The outputs (of the last part; of both if gated) are activated, and then are `into`, which `reader` reads. */
void block_activate(struct block_product *p, struct block_input *into, const struct block_product *reader);

/* Does a quantised matrix of this product read `in`? */
bool block_reads_codes(const struct block_product *p, const struct block_input *in);

/* The next group of rows of the phase; false when there is none. */
bool block_next_group(struct block_worker *w, uint32_t n_rows, uint32_t *ret_first, uint32_t *ret_count);

/* The next piece of the product that this member computes; *piece is BLOCK_FIRST before the first. */
bool block_next_piece(struct block_worker *w, const struct block_product *p, uint32_t *piece);

/* Codes of rows [first, first + count) of in. A row that is not finite fails its span and counts as zero from here on. */
void block_quantise(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count);

/* Codes of columns [first, first + count), multiples of 32, of all rows. */
void block_quantise_columns(struct block_worker *w, struct block_input *in, uint32_t first, uint32_t count);

/* out [n_embd] = norm(x) of one row: layer norm with a bias, RMS norm without. */
void block_norm_row(const struct forward *f, const float *weight, const float *bias, uint32_t row, float *out);

/* in = norm(x) of rows [first, first + count). */
void block_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, uint32_t first,
		uint32_t count);

/* Strips of one matrix times in, by the kernel that its type asks for. out has n rows of ldo floats. */
void block_multiply(struct block_worker *w, const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips,
		    struct block_input *in, float *out, size_t ldo, bool more);

/* Sets what this member asks for while it waits: the beginning of its first piece of p. */
void block_look_ahead(struct block_worker *w, const struct block_product *p);
void block_barrier(struct block_worker *w);

/* Phases, barrier included. */
void block_run_norm(struct block_worker *w, const float *weight, const float *bias, struct block_input *in, bool codes);
void block_run_product(struct block_worker *w, const struct block_product *p);
void block_run_codes(struct block_worker *w, struct block_input *in);

/* Rotates queries and keys, stores keys and values in the spans' pages, and lays out the scaled queries for attention. */
void block_run_place(struct block_worker *w, uint32_t layer);

/* Fills o_in; with its codes if they are asked for. */
void block_run_attention(struct block_worker *w, uint32_t layer, bool codes);

/* The two halves of a sequential block, from the residual stream's norm to the residual stream: several phases. */
void block_run_attend(struct block_worker *w, uint32_t layer);
void block_run_mlp(struct block_worker *w, uint32_t layer);

/* Marks the span as failed; any member may call it at any time. */
void block_fail(struct forward *f, uint32_t span);

/* Splits the batch's rows into tiles; one member calls it before the layers. */
void block_plan_attention(struct forward *f);

/* A block family: plan builds a layer's products once, layer runs it. */
struct block_family {
	void (*plan)(struct forward *f, uint32_t layer);
	void (*layer)(struct block_worker *w, uint32_t layer);
};
extern const struct block_family falcon_family, falcon_rw_family, llama_family;

#endif
