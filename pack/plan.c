/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of tensors, one table a format. A stem stands for its weight and bias; %u is the layer.
 *
 * How queries, keys and values are fused:
 *	HF Falcon    query_key_value: for each key/value head its query heads, then its key, then its value. Multi-query is that
 *	             with one group, multi-head with groups of one query.
 *	GGUF falcon  attn_qkv: all queries, all keys, all values.
 *	Llama        three tensors; GGUF has rotary pairs of queries and keys side by side.
 */
#include "pack/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct naming {
	const char *stem[WEIGHTS_ROLES];
	const char *two[2]; /* WEIGHTS_NORM and WEIGHTS_MLP_NORM of a parallel block with two norms */
	bool interleaved;   /* fused: a group's queries, key and value together */
	bool pairs;         /* rotary partners side by side */
};

static const struct naming namings[NAMINGS] = {
	[NAMING_HF_FALCON] = {
		.stem = {
			[WEIGHTS_EMBED] = "transformer.word_embeddings", [WEIGHTS_HEAD] = "lm_head",
			[WEIGHTS_OUT_NORM] = "transformer.ln_f", [WEIGHTS_NORM] = "transformer.h.%u.input_layernorm",
			[WEIGHTS_MLP_NORM] = "transformer.h.%u.post_attention_layernorm",
			[WEIGHTS_Q] = "transformer.h.%u.self_attention.query_key_value",
			[WEIGHTS_K] = "transformer.h.%u.self_attention.query_key_value",
			[WEIGHTS_V] = "transformer.h.%u.self_attention.query_key_value",
			[WEIGHTS_O] = "transformer.h.%u.self_attention.dense",
			[WEIGHTS_UP] = "transformer.h.%u.mlp.dense_h_to_4h",
			[WEIGHTS_DOWN] = "transformer.h.%u.mlp.dense_4h_to_h",
		},
		.two = {"transformer.h.%u.ln_attn", "transformer.h.%u.ln_mlp"},
		.interleaved = true,
	},
	[NAMING_HF_LLAMA] = {
		.stem = {
			[WEIGHTS_EMBED] = "model.embed_tokens", [WEIGHTS_HEAD] = "lm_head", [WEIGHTS_OUT_NORM] = "model.norm",
			[WEIGHTS_NORM] = "model.layers.%u.input_layernorm",
			[WEIGHTS_MLP_NORM] = "model.layers.%u.post_attention_layernorm",
			[WEIGHTS_Q] = "model.layers.%u.self_attn.q_proj", [WEIGHTS_K] = "model.layers.%u.self_attn.k_proj",
			[WEIGHTS_V] = "model.layers.%u.self_attn.v_proj", [WEIGHTS_O] = "model.layers.%u.self_attn.o_proj",
			[WEIGHTS_GATE] = "model.layers.%u.mlp.gate_proj", [WEIGHTS_UP] = "model.layers.%u.mlp.up_proj",
			[WEIGHTS_DOWN] = "model.layers.%u.mlp.down_proj",
		},
	},
	[NAMING_GGUF_FALCON] = {
		.stem = {
			[WEIGHTS_EMBED] = "token_embd", [WEIGHTS_HEAD] = "output", [WEIGHTS_OUT_NORM] = "output_norm",
			[WEIGHTS_NORM] = "blk.%u.attn_norm", [WEIGHTS_Q] = "blk.%u.attn_qkv", [WEIGHTS_K] = "blk.%u.attn_qkv",
			[WEIGHTS_V] = "blk.%u.attn_qkv", [WEIGHTS_O] = "blk.%u.attn_output", [WEIGHTS_UP] = "blk.%u.ffn_up",
			[WEIGHTS_DOWN] = "blk.%u.ffn_down",
		},
		.two = {"blk.%u.attn_norm_2", "blk.%u.attn_norm"},
	},
	[NAMING_GGUF_LLAMA] = {
		.stem = {
			[WEIGHTS_EMBED] = "token_embd", [WEIGHTS_HEAD] = "output", [WEIGHTS_OUT_NORM] = "output_norm",
			[WEIGHTS_NORM] = "blk.%u.attn_norm", [WEIGHTS_MLP_NORM] = "blk.%u.ffn_norm",
			[WEIGHTS_Q] = "blk.%u.attn_q", [WEIGHTS_K] = "blk.%u.attn_k", [WEIGHTS_V] = "blk.%u.attn_v",
			[WEIGHTS_O] = "blk.%u.attn_output",
			[WEIGHTS_GATE] = "blk.%u.ffn_gate", [WEIGHTS_UP] = "blk.%u.ffn_up", [WEIGHTS_DOWN] = "blk.%u.ffn_down",
		},
		.pairs = true,
	},
};

static bool is_bias(enum weights_role role)
{
	switch (role) {
	case WEIGHTS_OUT_NORM_BIAS: case WEIGHTS_NORM_BIAS: case WEIGHTS_MLP_NORM_BIAS: case WEIGHTS_Q_BIAS:
	case WEIGHTS_K_BIAS: case WEIGHTS_V_BIAS: case WEIGHTS_UP_BIAS: case WEIGHTS_O_BIAS: case WEIGHTS_DOWN_BIAS:
		return true;
	default:
		return false;
	}
}

/* A bias follows its weight in enum weights_role. */
static enum weights_role weight_of(enum weights_role role)
{
	return is_bias(role) ? (enum weights_role)(role - 1) : role;
}

static bool is_fused(const struct checkpoint *c, enum weights_role weight)
{
	const char *const *stem = namings[c->naming].stem;
	return (weight == WEIGHTS_Q || weight == WEIGHTS_K || weight == WEIGHTS_V) && stem[WEIGHTS_Q] == stem[WEIGHTS_K];
}

/* The tensor's name in the checkpoint's format; false if the format has none for this role. */
static bool name_of(const struct checkpoint *c, enum weights_role role, uint32_t layer, char name[SOURCE_NAME])
{
	const struct naming *n = &namings[c->naming];
	enum weights_role weight = weight_of(role);
	const char *stem = n->stem[weight], *number = stem != NULL ? strstr(stem, "%u") : NULL;
	if (c->hparams.family == WEIGHTS_FALCON && c->hparams.n_norm == 2 &&
	    (weight == WEIGHTS_NORM || weight == WEIGHTS_MLP_NORM)) {
		stem = n->two[weight == WEIGHTS_MLP_NORM];
		number = strstr(stem, "%u");
	}
	if (stem == NULL)
		return false;
	const char *leaf = is_bias(role) ? "bias" : "weight";
	if (number == NULL)
		snprintf(name, SOURCE_NAME, "%s.%s", stem, leaf);
	else
		snprintf(name, SOURCE_NAME, "%.*s%u%s.%s", (int)(number - stem), stem, layer, number + 2, leaf);
	return true;
}

/* Some checkpoints were saved from inside the model and lack the outermost name. */
static struct source_tensor *find(struct checkpoint *c, const char *name)
{
	struct source_tensor *t = source_find(&c->source, name);
	static const char *const outermost[] = {"transformer.", "model."};
	for (size_t i = 0; t == NULL && i < 2; i++)
		if (strncmp(name, outermost[i], strlen(outermost[i])) == 0)
			t = source_find(&c->source, name + strlen(outermost[i]));
	return t;
}

static struct row_map map_of(const struct checkpoint *c, enum weights_role weight)
{
	const struct weights_hparams *hp = &c->hparams;
	const struct naming *n = &namings[c->naming];
	uint32_t dim = hp->head_dim, per = hp->n_head / hp->n_kv_head, q = hp->n_head * dim, kv = hp->n_kv_head * dim;
	if (n->pairs && (weight == WEIGHTS_Q || weight == WEIGHTS_K))
		return (struct row_map){.head_rows = dim, .per_group = UINT32_MAX, .pairs = true};
	if (!is_fused(c, weight))
		return row_map_plain(0);
	if (!n->interleaved)
		return row_map_plain(weight == WEIGHTS_Q ? 0 : weight == WEIGHTS_K ? q : q + kv);
	struct row_map map = {.head_rows = dim, .per_group = 1, .group_rows = (per + 2) * dim};
	if (weight == WEIGHTS_Q)
		map.per_group = per;
	else
		map.first = (weight == WEIGHTS_K ? per : per + 1) * dim;
	return map;
}

static int check_source(const struct checkpoint *c, const struct source_tensor *t, enum weights_role role,
			struct weights_shape s, struct err *e)
{
	const struct weights_hparams *hp = &c->hparams;
	uint64_t rows = s.plain ? s.cols : s.rows; /* vectors are rows of one element */
	char text[64];
	if (is_fused(c, weight_of(role)))
		rows = ((uint64_t)hp->n_head + 2 * hp->n_kv_head) * hp->head_dim;
	if (s.plain && t->type > WEIGHTS_BF16)
		return err_set(e, -EINVAL, "%s: tensor %s is quantised (%s), expected F32, F16 or BF16", t->file, t->name,
			       weights_type_name(t->type));
	if (t->n_dims != (s.plain ? 1 : 2) || t->dims[0] != rows || (!s.plain && t->dims[1] != s.cols)) {
		source_shape(t, text);
		if (s.plain)
			return err_set(e, -EINVAL, "%s: tensor %s is %s, expected %llu", t->file, t->name, text,
				       (unsigned long long)rows);
		return err_set(e, -EINVAL, "%s: tensor %s is %s, expected %llu x %u", t->file, t->name, text,
			       (unsigned long long)rows, s.cols);
	}
	return 0;
}

/* A head of the embedding's own bytes need not be stored twice. */
static bool same_as_embedding(struct checkpoint *c, const struct source_tensor *head)
{
	char name[SOURCE_NAME];
	name_of(c, WEIGHTS_EMBED, 0, name);
	const struct source_tensor *embed = find(c, name);
	return embed != NULL && embed->type == head->type && embed->size == head->size &&
	       (embed->data == head->data || memcmp(embed->data, head->data, head->size) == 0);
}

static int add_part(struct plan *p, struct checkpoint *c, enum weights_role role, uint32_t layer, struct err *e)
{
	struct weights_shape s = weights_shape(&c->hparams, role);
	struct plan_part part = {.map = row_map_plain(0)};
	part.tensor = (struct weights_tensor){.role = (uint16_t)role, .type = WEIGHTS_F32, .layer = layer, .rows = s.rows,
		.cols = s.cols, .plain = (uint8_t)s.plain};
	if (role != WEIGHTS_ROPE && role != WEIGHTS_SLOPES) {
		char name[SOURCE_NAME];
		CHECK(name_of(c, role, layer, name));
		struct source_tensor *t = find(c, name);
		if (t == NULL && s.optional && c->head_optional)
			return 0;
		if (t == NULL)
			return err_set(e, -EINVAL, "%s: tensor %s is missing", c->file, name);
		t->used = true;
		int r = check_source(c, t, role, s, e);
		if (r < 0)
			return r;
		if (role == WEIGHTS_HEAD && same_as_embedding(c, t))
			return 0;
		part.source = t;
		part.map = map_of(c, weight_of(role));
		part.tensor.type = s.plain ? WEIGHTS_F32 : (uint16_t)t->type;
	}
	part.tensor.size = s.plain ? (uint64_t)s.rows * s.cols * 4 : weights_bytes(part.tensor.type, s.rows, s.cols);
	CHECK(part.tensor.size > 0);
	p->parts[p->length++] = part;
	return 0;
}

/* A tensor that nothing is made from means a model that computes something else. */
static int check_unused(const struct checkpoint *c, struct err *e)
{
	for (size_t i = 0; i < c->source.length; i++) {
		const struct source_tensor *t = &c->source.list[i];
		size_t n = strlen(t->name);
		if (t->used || (n > 9 && strcmp(t->name + n - 9, ".inv_freq") == 0)) /* rotary constants of old checkpoints */
			continue;
		err_set(e, -EINVAL, "%s: tensor %s does not belong to this architecture", t->file, t->name);
		if (strcmp(t->name, "rope_freqs.weight") == 0)
			return err_hint(e, "scaled rotary frequencies are not supported");
		return err_hint(e, "it would be ignored, and the model would compute something else than it was made for");
	}
	return 0;
}

int plan_make(struct checkpoint *c, struct plan *p, struct err *e)
{
	*p = (struct plan){.parts = xcalloc((size_t)c->hparams.n_layer * WEIGHTS_ROLES, sizeof *p->parts)};
	for (uint32_t layer = 0; layer < c->hparams.n_layer; layer++) {
		for (int role = 1; role < WEIGHTS_ROLES; role++) {
			struct weights_shape s = weights_shape(&c->hparams, (enum weights_role)role);
			if (s.rows == 0 || (s.once && layer > 0))
				continue;
			int r = add_part(p, c, (enum weights_role)role, layer, e);
			if (r < 0)
				return r;
		}
	}
	return check_unused(c, e);
}

void plan_done(struct plan *p)
{
	free(p->parts);
	*p = (struct plan){0};
}
