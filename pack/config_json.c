/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names and defaults are those of Transformers' FalconConfig and LlamaConfig, and of the configuration that Falcon's
 * first checkpoints brought along (RWConfig: n_layer, n_head, n_head_kv, n_embed). Two traps: num_kv_heads says nothing
 * unless new_decoder_architecture is set (Transformers writes the number of query heads there), and RWConfig has no key for
 * that architecture: n_head_kv stands for it.
 */
#include "pack/config_json.h"

#include <errno.h>
#include <string.h>

#include "pack/json.h"

/* A number that must be there. */
static int need_u32(const json_t *o, const char *key, const char *other, uint32_t *ret, struct err *e)
{
	int r = json_u32(o, key, other, ret, e);
	return r == -ENOENT ? err_set(e, -EINVAL, "%s is missing", key) : r;
}

static int want_u32(const json_t *o, const char *key, const char *other, uint32_t *ret, struct err *e)
{
	int r = json_u32(o, key, other, ret, e);
	return r == -ENOENT ? 0 : r;
}

static int want_bool(const json_t *o, const char *key, bool *ret, struct err *e)
{
	int r = json_bool(o, key, ret, e);
	return r == -ENOENT ? 0 : r;
}

static int want_f32(const json_t *o, const char *key, float *ret, struct err *e)
{
	int r = json_f32(o, key, ret, e);
	return r == -ENOENT ? 0 : r;
}

static int must_be_false(const json_t *o, const char *key, struct err *e)
{
	bool value = false;
	int r = want_bool(o, key, &value, e);
	return r == 0 && value ? err_set(e, -EINVAL, "%s is true, which is not supported", key) : r;
}

static int must_be_text(const json_t *o, const char *key, const char *value, struct err *e)
{
	const json_t *v = json_value(o, key, NULL);
	if (v == NULL || strcmp(json_text(v), value) == 0)
		return 0;
	return err_set(e, -EINVAL, "%s is '%.64s', expected '%s'", key, json_text(v), value);
}

/* rope_theta as a key of its own or, as newer files have it, inside rope_parameters. Scaled frequencies are refused. */
static int read_rope(const json_t *o, struct weights_hparams *hp, struct err *e)
{
	hp->rope_theta = 10000;
	int r = want_f32(o, "rope_theta", &hp->rope_theta, e);
	const json_t *rope = json_value(o, "rope_parameters", "rope_scaling");
	if (r == 0 && rope != NULL) {
		const json_t *type = json_value(rope, "rope_type", "type");
		if (!json_is_object(rope) || (type != NULL && strcmp(json_text(type), "default") != 0))
			return err_set(e, -EINVAL, "rotary embedding of type '%.64s' is not supported", json_text(type));
		r = want_f32(rope, "rope_theta", &hp->rope_theta, e);
	}
	float partial = 1;
	if (r == 0)
		r = want_f32(rope != NULL && json_value(rope, "partial_rotary_factor", NULL) ? rope : o,
			     "partial_rotary_factor", &partial, e);
	if (r == 0 && (partial < 1 || partial > 1))
		return err_set(e, -EINVAL, "partial_rotary_factor is %g; rotary over a part of the head is not supported",
			       (double)partial);
	if (r == 0 && !(hp->rope_theta >= 1 && hp->rope_theta <= 1e12f))
		return err_set(e, -EINVAL, "rope_theta is %g, expected 1 to 1e12", (double)hp->rope_theta);
	return r;
}

/* Keys that all families share. */
static int read_common(const json_t *o, struct weights_hparams *hp, struct err *e)
{
	int r;
	if ((r = need_u32(o, "hidden_size", "n_embed", &hp->n_embd, e)) < 0 ||
	    (r = need_u32(o, "num_hidden_layers", "n_layer", &hp->n_layer, e)) < 0 ||
	    (r = need_u32(o, "num_attention_heads", "n_head", &hp->n_head, e)) < 0 ||
	    (r = need_u32(o, "vocab_size", NULL, &hp->n_vocab, e)) < 0)
		return r;
	hp->n_context = 2048;
	hp->head_dim = hp->n_head > 0 && hp->n_embd % hp->n_head == 0 ? hp->n_embd / hp->n_head : 0;
	if ((r = want_u32(o, "max_position_embeddings", NULL, &hp->n_context, e)) < 0 ||
	    (r = want_u32(o, "head_dim", NULL, &hp->head_dim, e)) < 0)
		return r;
	if (json_value(o, "quantization_config", NULL) != NULL) {
		err_set(e, -EINVAL, "quantization_config: the checkpoint is quantised");
		return err_hint(e, "use the original in float32, float16 or bfloat16, or a GGUF file");
	}
	return 0;
}

struct falcon_switches { bool alibi, bias, parallel, multi_query, grouped; };

static int read_switches(const json_t *o, bool rw, struct falcon_switches *s, struct err *e)
{
	int r;
	*s = (struct falcon_switches){
		.parallel = !rw, .multi_query = !rw, .grouped = rw && json_value(o, "n_head_kv", NULL) != NULL};
	if ((r = want_bool(o, "alibi", &s->alibi, e)) < 0 || (r = want_bool(o, "bias", &s->bias, e)) < 0 ||
	    (r = want_bool(o, "parallel_attn", &s->parallel, e)) < 0 ||
	    (r = want_bool(o, "multi_query", &s->multi_query, e)) < 0 ||
	    (r = want_bool(o, "new_decoder_architecture", &s->grouped, e)) < 0)
		return r;
	if (s->parallel && (s->alibi || s->bias))
		return err_set(e, -EINVAL, "%s together with parallel_attn is not supported", s->alibi ? "alibi" : "bias");
	if (!s->parallel && s->grouped)
		return err_set(e, -EINVAL, "new_decoder_architecture without parallel_attn is not supported");
	return 0;
}

static int read_falcon(const json_t *o, bool rw, struct checkpoint *c, struct err *e)
{
	struct weights_hparams *hp = &c->hparams;
	struct falcon_switches s;
	bool tied = true;
	int r;
	if ((r = read_switches(o, rw, &s, e)) < 0)
		return r;
	c->naming = NAMING_HF_FALCON;
	hp->family = s.parallel ? WEIGHTS_FALCON : WEIGHTS_FALCON_RW;
	hp->flags = (s.alibi ? WEIGHTS_ALIBI : 0) | (s.bias ? WEIGHTS_BIAS : 0);
	hp->n_kv_head = s.multi_query ? 1 : hp->n_head;
	hp->n_norm = s.grouped ? 2 : 1;
	hp->n_ff = 4 * hp->n_embd;
	hp->norm_eps = 1e-5f;
	if (s.grouped) {
		hp->n_kv_head = hp->n_head;
		r = want_u32(o, "num_kv_heads", "n_head_kv", &hp->n_kv_head, e);
	}
	if (r < 0 || (r = want_u32(o, "num_ln_in_parallel_attn", NULL, &hp->n_norm, e)) < 0 ||
	    (r = want_u32(o, "ffn_hidden_size", NULL, &hp->n_ff, e)) < 0 ||
	    (r = want_f32(o, "layer_norm_epsilon", &hp->norm_eps, e)) < 0 ||
	    (r = want_bool(o, "tie_word_embeddings", &tied, e)) < 0 || (r = must_be_text(o, "activation", "gelu", e)) < 0 ||
	    (r = must_be_false(o, "apply_residual_connection_post_layernorm", e)) < 0)
		return r;
	if (hp->n_norm == 2 && !s.grouped)
		return err_set(e, -EINVAL,
			       "num_ln_in_parallel_attn is 2 without new_decoder_architecture, which is not supported");
	c->head_optional = tied;
	return s.alibi ? 0 : read_rope(o, hp, e);
}

static int read_llama(const json_t *o, struct checkpoint *c, struct err *e)
{
	struct weights_hparams *hp = &c->hparams;
	bool tied = false;
	int r;
	c->naming = NAMING_HF_LLAMA;
	hp->family = WEIGHTS_LLAMA;
	hp->n_kv_head = hp->n_head;
	hp->n_norm = 1;
	hp->norm_eps = 1e-6f;
	if ((r = want_u32(o, "num_key_value_heads", NULL, &hp->n_kv_head, e)) < 0 ||
	    (r = need_u32(o, "intermediate_size", NULL, &hp->n_ff, e)) < 0 ||
	    (r = want_f32(o, "rms_norm_eps", &hp->norm_eps, e)) < 0 ||
	    (r = want_bool(o, "tie_word_embeddings", &tied, e)) < 0 || (r = must_be_text(o, "hidden_act", "silu", e)) < 0 ||
	    (r = must_be_false(o, "attention_bias", e)) < 0 || (r = must_be_false(o, "mlp_bias", e)) < 0)
		return r;
	c->head_optional = tied;
	return read_rope(o, hp, e);
}

static int read_ids(const json_t *o, struct config_ids *ids, struct err *e)
{
	const json_t *bos = json_value(o, "bos_token_id", NULL), *eos = json_value(o, "eos_token_id", NULL);
	*ids = (struct config_ids){.bos = -1};
	if (bos != NULL && !json_is_integer(bos))
		return err_set(e, -EINVAL, "bos_token_id is not a number");
	if (bos != NULL)
		ids->bos = json_integer_value(bos);
	size_t n = eos == NULL ? 0 : json_is_array(eos) ? json_array_size(eos) : 1;
	if (n > 8)
		return err_set(e, -EINVAL, "eos_token_id lists %zu tokens, expected at most 8", n);
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
		if (!json_is_integer(id))
			return err_set(e, -EINVAL, "eos_token_id is neither a number nor a list of numbers");
		ids->eos[ids->n_eos++] = json_integer_value(id);
	}
	return 0;
}

int config_json_ids(const void *json, size_t length, const char *file, struct config_ids *ids, struct err *e)
{
	json_t *root;
	int r = json_open(json, length, file, &root, e);
	if (r < 0)
		return r;
	if ((r = read_ids(root, ids, e)) < 0)
		err_prefix(e, "%s", file);
	json_decref(root);
	return r;
}

/* The first of `architectures`; without them, what model_type implies. */
static const char *architecture(const json_t *o)
{
	const char *name = json_text(json_array_get(json_object_get(o, "architectures"), 0));
	const char *type = json_text(json_object_get(o, "model_type"));
	if (name[0] != '\0')
		return name;
	if (strcmp(type, "falcon") == 0)
		return "FalconForCausalLM";
	if (strcmp(type, "RefinedWeb") == 0 || strcmp(type, "RefinedWebModel") == 0)
		return "RWForCausalLM";
	return strcmp(type, "llama") == 0 ? "LlamaForCausalLM" : type;
}

static int read_config(const json_t *o, struct checkpoint *c, struct config_ids *ids, struct err *e)
{
	const char *name = architecture(o);
	bool rw = strcmp(name, "RWForCausalLM") == 0, falcon = rw || strcmp(name, "FalconForCausalLM") == 0;
	if (!falcon && strcmp(name, "LlamaForCausalLM") != 0) {
		err_set(e, -EINVAL, "architecture '%.64s' is not supported", name);
		return err_hint(e, "FalconForCausalLM, RWForCausalLM and LlamaForCausalLM are");
	}
	int r = read_common(o, &c->hparams, e);
	if (r == 0)
		r = falcon ? read_falcon(o, rw, c, e) : read_llama(o, c, e);
	return r < 0 ? r : read_ids(o, ids, e);
}

int config_json_read(const void *json, size_t length, struct checkpoint *c, struct config_ids *ids, struct err *e)
{
	json_t *root;
	int r = json_open(json, length, c->file, &root, e);
	if (r < 0)
		return r;
	if ((r = read_config(root, c, ids, e)) < 0)
		err_prefix(e, "%s", c->file);
	json_decref(root);
	return r;
}
