/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chain of pre-tokenizers is written down as a short text, one word a member, and looked up in a table. What is not in
 * the table would cut text differently, and a model fed with other tokens than it was trained on gets worse in silence; so it
 * is refused, and the message shows the chain.
 */
#include "pack/tokenizer_json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pack/json.h"

#define LLAMA3                                                                                                                 \
	"Split(Isolated,(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" \
	"|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+) Bytes"

static const struct { const char *chain; enum weights_pre pre; } chains[] = {
	{"Punctuation(Contiguous) ByteLevel Digits Split(Isolated,[0-9][0-9][0-9])", WEIGHTS_PRE_FALCON},
	{"ByteLevel", WEIGHTS_PRE_GPT2},
	{"Digits(each) ByteLevel", WEIGHTS_PRE_SMOLLM},
	{LLAMA3, WEIGHTS_PRE_LLAMA3},
};

/* Absent or null counts as the default of Hugging Face's own reader. */
static bool is_set(const json_t *o, const char *key, bool by_default)
{
	const json_t *v = json_value(o, key, NULL);
	return v == NULL ? by_default : json_is_true(v);
}

/* One member of the chain: its type and whatever of its settings changes where text is cut. */
static void describe(const json_t *o, struct buf *b)
{
	const char *type = json_text(json_object_get(o, "type"));
	const char *behavior = json_text(json_object_get(o, "behavior"));
	buf_printf(b, b->length > 0 ? " " : "");
	if (strcmp(type, "ByteLevel") == 0) { /* without its pattern it only maps bytes to characters */
		buf_printf(b, "%s%s", is_set(o, "use_regex", true) ? "ByteLevel" : "Bytes",
			   is_set(o, "add_prefix_space", true) ? "(prefix)" : "");
	} else if (strcmp(type, "Digits") == 0) {
		buf_printf(b, "Digits%s", is_set(o, "individual_digits", false) ? "(each)" : "");
	} else if (strcmp(type, "Punctuation") == 0) {
		buf_printf(b, "Punctuation(%s)", behavior[0] ? behavior : "Isolated");
	} else if (strcmp(type, "Split") == 0) {
		const json_t *pattern = json_object_get(o, "pattern"), *regex = json_object_get(pattern, "Regex");
		buf_printf(b, "Split(%s%s,%s%s)", behavior, is_set(o, "invert", false) ? ",inverted" : "",
			   regex ? "" : "literally ", json_text(regex ? regex : json_object_get(pattern, "String")));
	} else {
		buf_printf(b, "%s", type);
	}
}

static int read_pre(const json_t *root, struct vocab *v, struct err *e)
{
	const json_t *pre = json_value(root, "pre_tokenizer", NULL), *list = json_object_get(pre, "pretokenizers");
	struct buf b = {0};
	if (strcmp(json_text(json_object_get(pre, "type")), "Sequence") == 0) {
		for (size_t i = 0; i < json_array_size(list) && b.length < 4096; i++)
			describe(json_array_get(list, i), &b);
	} else if (pre != NULL) {
		describe(pre, &b);
	}
	const char *chain = b.data != NULL ? b.data : "";
	for (size_t i = 0; i < sizeof chains / sizeof chains[0]; i++)
		if (strcmp(chains[i].chain, chain) == 0)
			v->head.pre = chains[i].pre;
	if (v->head.pre == WEIGHTS_PRE_NONE) {
		err_set(e, -EINVAL, "pre_tokenizer '%.250s' is not known", chain);
		err_hint(e, "known are the pre-splits of Falcon, GPT-2, SmolLM and Llama 3");
	}
	buf_done(&b);
	return v->head.pre == WEIGHTS_PRE_NONE ? -EINVAL : 0;
}

/* Settings of the model that byte-level BPE does without. */
static int check_model(const json_t *root, const json_t *model, struct err *e)
{
	static const char *const empty[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	const json_t *type = json_value(model, "type", NULL);
	if (!json_is_object(model) || (type != NULL && strcmp(json_text(type), "BPE") != 0)) {
		err_set(e, -EINVAL, "model is of type '%.64s'", json_text(type));
		return err_hint(e, "byte-level BPE is the one kind of tokenizer that is supported");
	}
	for (size_t i = 0; i < 2; i++)
		if (json_text(json_value(model, empty[i], NULL))[0] != '\0')
			return err_set(e, -EINVAL, "model.%s is '%.64s', which is not supported", empty[i],
				       json_text(json_object_get(model, empty[i])));
	if (is_set(model, "byte_fallback", false))
		return err_set(e, -EINVAL, "model.byte_fallback is set, which is not supported");
	if (json_value(root, "normalizer", NULL) != NULL)
		return err_set(e, -EINVAL, "normalizer '%.64s' is not supported",
			       json_text(json_object_get(json_object_get(root, "normalizer"), "type")));
	return 0;
}

/* One more than the largest id; what is no id is left for those who read the entries. */
static uint32_t count_tokens(const json_t *vocab, const json_t *added)
{
	json_int_t most = -1;
	const char *text;
	json_t *id;
	json_object_foreach((json_t *)(uintptr_t)vocab, text, id) {
		if (json_integer_value(id) > most && json_integer_value(id) < VOCAB_TOKENS)
			most = json_integer_value(id);
	}
	for (size_t i = 0; i < json_array_size(added); i++) {
		json_int_t n = json_integer_value(json_object_get(json_array_get(added, i), "id"));
		if (n > most && n < VOCAB_TOKENS)
			most = n;
	}
	return (uint32_t)(most + 1);
}

static int read_added(const json_t *added, struct vocab *v, struct err *e)
{
	static const char *const off[] = {"single_word", "lstrip", "rstrip"};
	for (size_t i = 0; i < json_array_size(added); i++) {
		const json_t *o = json_array_get(added, i), *id = json_object_get(o, "id"),
			     *content = json_object_get(o, "content");
		if (!json_is_integer(id) || json_integer_value(id) < 0 || !json_is_string(content) ||
		    json_string_length(content) == 0)
			return err_set(e, -EINVAL, "added token %zu has no id or no content", i);
		for (size_t k = 0; k < 3; k++)
			if (is_set(o, off[k], false))
				return err_set(e, -EINVAL, "added token '%.64s' sets %s, which is not supported",
					       json_text(content), off[k]);
		int r = vocab_set(v, (uint64_t)json_integer_value(id), json_string_value(content), json_string_length(content),
				  is_set(o, "special", false) ? WEIGHTS_TOKEN_CONTROL : WEIGHTS_TOKEN_ADDED, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* After the added tokens, some of which stand here again. */
static int read_vocab(const json_t *vocab, struct vocab *v, struct err *e)
{
	const char *text;
	json_t *id;
	json_object_foreach((json_t *)(uintptr_t)vocab, text, id) {
		size_t length = strlen(text);
		json_int_t n = json_integer_value(id);
		if (!json_is_integer(id) || n < 0)
			return err_set(e, -EINVAL, "the id of token '%.64s' is not a number", text);
		if (n < VOCAB_TOKENS && names_find(&v->index, text, length) == (uint32_t)n)
			continue;
		int r = vocab_set(v, (uint64_t)n, text, length, WEIGHTS_TOKEN_NORMAL, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A merge is "left right", or in newer files ["left", "right"]. */
static int read_merges(const json_t *merges, struct vocab *v, struct err *e)
{
	size_t n = json_array_size(merges);
	if (!json_is_array(merges) || n > VOCAB_TOKENS)
		return err_set(e, -EINVAL, "model.merges is not an array of at most %d merges", VOCAB_TOKENS);
	vocab_reserve_merges(v, (uint32_t)n);
	for (size_t i = 0; i < n; i++) {
		const json_t *m = json_array_get(merges, i), *left = json_array_get(m, 0), *right = json_array_get(m, 1);
		int r;
		if (json_is_string(m))
			r = vocab_merge_line(v, json_string_value(m), json_string_length(m), e);
		else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right))
			r = vocab_merge(v, json_string_value(left), json_string_length(left), json_string_value(right),
					json_string_length(right), e);
		else
			r = err_set(e, -EINVAL, "merge %zu is neither a string nor a pair of strings", i);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Does the template of this post-processor put a token in front of a text? Then that is bos. */
static int read_template(const json_t *processor, struct vocab *v, struct err *e)
{
	if (strcmp(json_text(json_object_get(processor, "type")), "TemplateProcessing") != 0)
		return 0;
	const json_t *first = json_object_get(json_array_get(json_object_get(processor, "single"), 0), "SpecialToken");
	if (first == NULL)
		return 0;
	const char *name = json_text(json_object_get(first, "id"));
	const json_t *ids = json_object_get(json_object_get(json_object_get(processor, "special_tokens"), name), "ids");
	if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0)))
		return err_set(e, -EINVAL, "post_processor: special token '%.64s' is not one token", name);
	v->head.flags |= WEIGHTS_ADD_BOS;
	return vocab_set_bos(v, "post_processor: token", json_integer_value(json_array_get(ids, 0)), e);
}

static int read_post_processor(const json_t *root, struct vocab *v, struct err *e)
{
	const json_t *post = json_value(root, "post_processor", NULL), *list = json_object_get(post, "processors");
	int r = read_template(post, v, e);
	for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
		r = read_template(json_array_get(list, i), v, e);
	return r;
}

int tokenizer_json_read(const json_t *root, struct vocab *v, struct err *e)
{
	const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
	const json_t *added = json_object_get(root, "added_tokens");
	vocab_init(v, count_tokens(vocab, added));
	int r = check_model(root, model, e);
	if (r == 0 && (!json_is_object(vocab) || json_object_size(vocab) == 0))
		r = err_set(e, -EINVAL, "model.vocab is not an object of tokens");
	if (r == 0 && (r = read_pre(root, v, e)) == 0 && (r = read_added(added, v, e)) == 0 &&
	    (r = read_vocab(vocab, v, e)) == 0 && (r = read_merges(json_object_get(model, "merges"), v, e)) == 0)
		r = read_post_processor(root, v, e);
	v->head.flags |= is_set(model, "ignore_merges", false) ? WEIGHTS_IGNORE_MERGES : 0;
	return r;
}

int tokenizer_json_blob(const void *json, size_t length, struct buf *ret_blob, struct err *e)
{
	json_t *root;
	struct vocab v;
	int r = json_open(json, length, "tokenizer.json", &root, e);
	if (r < 0)
		return r;
	if ((r = tokenizer_json_read(root, &v, e)) == 0)
		r = vocab_blob(&v, ret_blob, e);
	vocab_done(&v);
	json_decref(root);
	return r;
}
