/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer.ggml.*: tokens and merges as arrays of strings, a type a token, and the pre-split by name. Whether a piece that is
 * a whole token is taken without merging is not written in a GGUF file; it follows from the name of the pre-split.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/reader.h"
#include "pack/gguf.h"
#include "pack/vocab.h"

static const struct { const char *name; uint32_t pre, flags; } pres[] = {
	{"falcon", WEIGHTS_PRE_FALCON, 0}, {"gpt2", WEIGHTS_PRE_GPT2, 0}, {"gpt-2", WEIGHTS_PRE_GPT2, 0},
	{"smollm", WEIGHTS_PRE_SMOLLM, 0}, {"llama3", WEIGHTS_PRE_LLAMA3, WEIGHTS_IGNORE_MERGES},
	{"llama-v3", WEIGHTS_PRE_LLAMA3, WEIGHTS_IGNORE_MERGES}, {"llama-bpe", WEIGHTS_PRE_LLAMA3, WEIGHTS_IGNORE_MERGES},
	{"falcon3", WEIGHTS_PRE_FALCON3, WEIGHTS_IGNORE_MERGES},
};

static int read_pre(const struct gguf *g, struct vocab *v, struct err *e)
{
	const char *name = "";
	size_t length = 0;
	int r = gguf_string(g, "tokenizer.ggml.pre", &name, &length, e);
	if (r < 0 && r != -ENOENT)
		return r;
	for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++) {
		if (strlen(pres[i].name) == length && memcmp(pres[i].name, name, length) == 0) {
			v->head.pre = pres[i].pre;
			v->head.flags |= pres[i].flags;
			return 0;
		}
	}
	err_set(e, -EINVAL, "%s: tokenizer.ggml.pre is '%.*s', a pre-split that is not known", g->file,
		(int)(length > 64 ? 64 : length), name);
	return err_hint(e, "known are falcon, gpt2, smollm, llama3 (llama-bpe) and falcon3");
}

/* An array of this item type; its count through ret_n. -ENOENT if it is not there. */
static const struct gguf_value *find_array(const struct gguf *g, const char *key, uint32_t type, struct err *e)
{
	const struct gguf_value *v = gguf_find(g, key);
	if (v == NULL)
		err_set(e, -EINVAL, "%s: metadata %s is missing", g->file, key);
	else if (!v->array || v->type != type || v->n > VOCAB_TOKENS)
		err_set(e, -EINVAL, "%s: metadata %s is not an array of the right type", g->file, key);
	else
		return v;
	return NULL;
}

static enum weights_token_kind kind_of(int32_t type)
{
	switch (type) { /* normal 1, unknown 2, control 3, user defined 4, unused 5, byte 6 */
	case 2:
	case 3:
		return WEIGHTS_TOKEN_CONTROL;
	case 4:
		return WEIGHTS_TOKEN_ADDED;
	case 5:
		return WEIGHTS_TOKEN_UNUSED;
	default:
		return WEIGHTS_TOKEN_NORMAL;
	}
}

static int read_tokens(const struct gguf *g, const struct gguf_value *tokens, struct vocab *v, struct err *e)
{
	const struct gguf_value *types = NULL;
	if (gguf_find(g, "tokenizer.ggml.token_type") != NULL) {
		types = find_array(g, "tokenizer.ggml.token_type", GGUF_I32, e);
		if (types == NULL)
			return -EINVAL;
		if (types->n != tokens->n)
			return err_set(e, -EINVAL, "%s: %" PRIu64 " tokens have %" PRIu64 " types", g->file, tokens->n,
				       types->n);
	}
	struct reader r = reader_over(tokens->data, (size_t)tokens->size);
	for (uint32_t i = 0; i < v->n_tokens; i++) {
		uint64_t length = reader_u64(&r);
		const char *text = (const char *)reader_take(&r, length);
		int32_t type = 1;
		if (types != NULL)
			memcpy(&type, types->data + 4 * (size_t)i, 4);
		int ret = vocab_set(v, i, text, length, kind_of(type), e);
		if (ret < 0)
			return err_prefix(e, "%s: tokenizer.ggml.tokens", g->file);
	}
	return 0;
}

static int read_merges(const struct gguf *g, struct vocab *v, struct err *e)
{
	const struct gguf_value *merges = find_array(g, "tokenizer.ggml.merges", GGUF_STRING, e);
	if (merges == NULL)
		return -EINVAL;
	vocab_reserve_merges(v, (uint32_t)merges->n);
	struct reader r = reader_over(merges->data, (size_t)merges->size);
	for (uint64_t i = 0; i < merges->n; i++) {
		uint64_t length = reader_u64(&r);
		const char *line = (const char *)reader_take(&r, length);
		int ret = vocab_merge_line(v, line, length, e);
		if (ret < 0)
			return err_prefix(e, "%s: tokenizer.ggml.merges", g->file);
	}
	return 0;
}

static int read_specials(const struct gguf *g, struct vocab *v, struct err *e)
{
	static const char *const eos[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
					  "tokenizer.ggml.eom_token_id"};
	uint32_t id;
	int r = gguf_u32(g, "tokenizer.ggml.bos_token_id", &id, e);
	if (r == 0)
		r = vocab_set_bos(v, "tokenizer.ggml.bos_token_id", id, e);
	for (size_t i = 0; i < sizeof eos / sizeof eos[0] && (r == 0 || r == -ENOENT); i++)
		if ((r = gguf_u32(g, eos[i], &id, e)) == 0)
			r = vocab_add_eos(v, eos[i], id, e);
	bool add = false;
	if (r == 0 || r == -ENOENT)
		r = gguf_bool(g, "tokenizer.ggml.add_bos_token", &add, e);
	if (r < 0 && r != -ENOENT)
		return r;
	if (add && v->head.bos < 0)
		return err_set(e, -EINVAL, "%s: tokenizer.ggml.add_bos_token is set, but there is no bos_token_id", g->file);
	v->head.flags |= add ? WEIGHTS_ADD_BOS : 0;
	return 0;
}

int gguf_tokenizer(const struct gguf *g, struct buf *ret_blob, struct err *e)
{
	const char *model;
	size_t length;
	int r = gguf_string(g, "tokenizer.ggml.model", &model, &length, e);
	if (r == -ENOENT || (r == 0 && length == 4 && memcmp(model, "none", 4) == 0)) {
		vocab_blob_none(ret_blob);
		return 0;
	}
	if (r < 0)
		return r;
	if (length != 4 || memcmp(model, "gpt2", 4) != 0) {
		err_set(e, -EINVAL, "%s: the tokenizer is of kind '%.*s'", g->file, (int)(length > 64 ? 64 : length), model);
		return err_hint(e, "byte-level BPE ('gpt2') is the one kind that is supported");
	}
	const struct gguf_value *tokens = find_array(g, "tokenizer.ggml.tokens", GGUF_STRING, e);
	if (tokens == NULL)
		return -EINVAL;
	struct vocab v;
	vocab_init(&v, (uint32_t)tokens->n);
	if ((r = read_pre(g, &v, e)) == 0 && (r = read_tokens(g, tokens, &v, e)) == 0 && (r = read_merges(g, &v, e)) == 0 &&
	    (r = read_specials(g, &v, e)) == 0)
		r = vocab_blob(&v, ret_blob, e);
	vocab_done(&v);
	return r;
}

int gguf_tokenizer_blob(const void *data, size_t length, struct buf *ret_blob, struct err *e)
{
	struct gguf g;
	struct source s = {0};
	int r = gguf_open(data, length, "GGUF", &g, &s, e);
	if (r == 0)
		r = gguf_tokenizer(&g, ret_blob, e);
	source_done(&s);
	gguf_close(&g);
	return r;
}
