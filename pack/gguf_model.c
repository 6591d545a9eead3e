/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Architectures `falcon` and `llama` of GGUF: metadata to hyperparameters. What is set apart from its default in a way that
 * would change the result, and that we do not compute, is refused by name.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pack/checkpoint.h"
#include "pack/gguf.h"

struct model {
	const struct gguf *g;
	const char *arch; /* "falcon" or "llama", the prefix of its keys */
};

static const char *key_of(const struct model *m, const char *key, char text[96])
{
	snprintf(text, 96, "%s.%s", m->arch, key);
	return text;
}

/* An integer that must be there. */
static int need(const struct model *m, const char *key, uint32_t *ret, struct err *e)
{
	char text[96];
	int r = gguf_u32(m->g, key_of(m, key, text), ret, e);
	return r == -ENOENT ? err_set(e, -EINVAL, "%s: metadata %s is missing", m->g->file, text) : r;
}

/* An integer that may be there: *ret is the default. */
static int want(const struct model *m, const char *key, uint32_t *ret, struct err *e)
{
	char text[96];
	int r = gguf_u32(m->g, key_of(m, key, text), ret, e);
	return r == -ENOENT ? 0 : r;
}

/* An integer that, if it is there, must have this value. */
static int must_be(const struct model *m, const char *key, uint32_t value, const char *why, struct err *e)
{
	uint32_t found = value;
	int r = want(m, key, &found, e);
	if (r == 0 && found != value)
		return err_set(e, -EINVAL, "%s: metadata %s.%s is %u, expected %u: %s", m->g->file, m->arch, key, found, value,
			       why);
	return r;
}

static int check_rope(const struct model *m, struct weights_hparams *hp, struct err *e)
{
	char text[96];
	const char *type = "none";
	size_t length = 4;
	float factor = 1;
	hp->rope_theta = 10000;
	int r = gguf_f32(m->g, key_of(m, "rope.freq_base", text), &hp->rope_theta, e);
	if (r == 0 || r == -ENOENT)
		r = gguf_string(m->g, key_of(m, "rope.scaling.type", text), &type, &length, e);
	if (r == 0 || r == -ENOENT)
		r = gguf_f32(m->g, key_of(m, "rope.scaling.factor", text), &factor, e);
	if (r < 0 && r != -ENOENT)
		return r;
	if (length != 4 || memcmp(type, "none", 4) != 0 || factor < 1 || factor > 1)
		return err_set(e, -EINVAL, "%s: rotary scaling '%.*s' by %g is not supported", m->g->file,
			       (int)(length > 32 ? 32 : length), type, (double)factor);
	if (!(hp->rope_theta >= 1 && hp->rope_theta <= 1e12f))
		return err_set(e, -EINVAL, "%s: metadata %s.rope.freq_base is %g, expected 1 to 1e12", m->g->file, m->arch,
			       (double)hp->rope_theta);
	return must_be(m, "rope.dimension_count", hp->head_dim, "rotary over a part of the head is not supported", e);
}

static int read_eps(const struct model *m, bool rms, float *ret, struct err *e)
{
	char text[96];
	key_of(m, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", text);
	int r = gguf_f32(m->g, text, ret, e);
	return r == -ENOENT ? err_set(e, -EINVAL, "%s: metadata %s is missing", m->g->file, text) : r;
}

static int read_hparams(const struct model *m, struct checkpoint *c, struct err *e)
{
	struct weights_hparams *hp = &c->hparams;
	bool llama = hp->family == WEIGHTS_LLAMA;
	int r;
	if ((r = need(m, "block_count", &hp->n_layer, e)) < 0 || (r = need(m, "embedding_length", &hp->n_embd, e)) < 0 ||
	    (r = need(m, "attention.head_count", &hp->n_head, e)) < 0 || (r = need(m, "context_length", &hp->n_context, e)) < 0)
		return r;
	if (hp->n_head == 0 || hp->n_embd % hp->n_head)
		hp->head_dim = 0;
	else
		hp->head_dim = hp->n_embd / hp->n_head;
	hp->n_kv_head = hp->n_head;
	hp->n_ff = llama ? 0 : 4 * hp->n_embd;
	if ((r = want(m, "attention.head_count_kv", &hp->n_kv_head, e)) < 0 ||
	    (r = want(m, "feed_forward_length", &hp->n_ff, e)) < 0 ||
	    (r = want(m, "attention.key_length", &hp->head_dim, e)) < 0 ||
	    (r = must_be(m, "attention.value_length", hp->head_dim, "values of another length than keys", e)) < 0 ||
	    (r = must_be(m, "expert_count", 0, "mixtures of experts are not supported", e)) < 0 ||
	    (r = must_be(m, "attention.sliding_window", 0, "sliding windows are not supported", e)) < 0 ||
	    (r = read_eps(m, llama, &hp->norm_eps, e)) < 0)
		return r;
	return check_rope(m, hp, e);
}

static int choose_family(const struct gguf *g, struct model *m, struct checkpoint *c, struct err *e)
{
	const char *arch = "";
	size_t length = 0;
	int r = gguf_string(g, "general.architecture", &arch, &length, e);
	if (r < 0 && r != -ENOENT)
		return r;
	m->g = g;
	if (length == 6 && memcmp(arch, "falcon", 6) == 0) {
		m->arch = "falcon";
		c->naming = NAMING_GGUF_FALCON;
		c->hparams.family = WEIGHTS_FALCON;
		c->hparams.n_norm = source_find(&c->source, "blk.0.attn_norm_2.weight") != NULL ? 2 : 1;
	} else if (length == 5 && memcmp(arch, "llama", 5) == 0) {
		m->arch = "llama";
		c->naming = NAMING_GGUF_LLAMA;
		c->hparams.family = WEIGHTS_LLAMA;
		c->hparams.n_norm = 1;
	} else {
		err_set(e, -EINVAL, "%s: architecture '%.*s' is not supported", g->file, (int)(length > 64 ? 64 : length),
			arch);
		return err_hint(e, "GGUF files of the architectures falcon and llama are");
	}
	return 0;
}

/* What is no number: name, chat template, the rows of the embedding, the tokenizer. */
static int read_rest(const struct gguf *g, struct checkpoint *c, struct err *e)
{
	const char *text;
	size_t length;
	int r = gguf_string(g, "general.name", &text, &length, e);
	if (r == 0)
		checkpoint_set_name(c, text, length);
	if (r == 0 || r == -ENOENT)
		r = gguf_string(g, "tokenizer.chat_template", &text, &length, e);
	if (r == 0 && memchr(text, '\0', length) == NULL)
		buf_add(&c->template, text, length);
	if (r < 0 && r != -ENOENT)
		return r;
	const struct source_tensor *embed = source_find(&c->source, "token_embd.weight");
	if (embed == NULL)
		return err_set(e, -EINVAL, "%s: tensor token_embd.weight is missing", g->file);
	c->hparams.n_vocab = embed->dims[0] > UINT32_MAX ? UINT32_MAX : (uint32_t)embed->dims[0];
	return gguf_tokenizer(g, &c->tokenizer, e);
}

int gguf_checkpoint(const void *data, size_t size, const char *file, struct checkpoint *c, struct err *e)
{
	struct gguf g;
	struct model m;
	c->file = file;
	c->head_optional = true;
	const char *end = strstr(file, ".gguf");
	checkpoint_set_name(c, file, end != NULL ? (size_t)(end - file) : strlen(file));
	int r = gguf_open(data, size, file, &g, &c->source, e);
	if (r == 0 && (r = choose_family(&g, &m, c, e)) == 0 && (r = read_hparams(&m, c, e)) == 0 &&
	    (r = read_rest(&g, c, e)) == 0)
		r = checkpoint_check(c, e);
	gguf_close(&g);
	return r;
}
