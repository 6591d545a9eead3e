/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vocabularies: the byte alphabet undone, merges as ids, pre-splits recognised, and what is refused. The bundled model's
 * vocabulary is there in both kinds of file, which have to give the same tables.
 */
#include "tests/unit/pack_util.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "pack/gguf.h"
#include "pack/tokenizer_json.h"

static void *read_file(const char *name, size_t *ret_size)
{
	int fd = open(source_path(name), O_RDONLY);
	struct stat st;
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	char *data = xmalloc((size_t)st.st_size);
	assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
	close(fd);
	*ret_size = (size_t)st.st_size;
	return data;
}

/* Pointers into tables of shm/weights.h. */
struct tables {
	const struct weights_tokenizer *head;
	const uint32_t *start;
	const uint8_t *kind;
	const struct weights_merge *merges;
	const char *bytes;
};

static struct tables tables_of(const struct buf *b)
{
	struct tables t = {.head = (const void *)b->data};
	uint32_t n = t.head->n_tokens;
	t.start = (const void *)(b->data + sizeof *t.head);
	t.kind = (const uint8_t *)(t.start + n + 1);
	t.merges = (const void *)(t.kind + (n + 3) / 4 * 4);
	t.bytes = (const char *)(t.merges + t.head->n_merges);
	assert_ptr_equal(t.bytes + t.head->n_bytes, b->data + b->length);
	return t;
}

static void assert_token(const struct tables *t, uint32_t id, const char *text, size_t length)
{
	assert_int_equal(t->start[id + 1] - t->start[id], length);
	assert_memory_equal(t->bytes + t->start[id], text, length);
}

static void both_kinds_of_file_give_the_same_tables(void **state)
{
	(void)state;
	size_t n_json, n_gguf;
	void *json = read_file("tests/golden/falcon-tales/tokenizer.json", &n_json),
	     *gguf = read_file("models/falcon-tales.Q8_0.gguf", &n_gguf);
	struct buf a = {0}, b = {0};
	struct err e = {0};
	assert_int_equal(tokenizer_json_blob(json, n_json, &a, &e), 0);
	assert_int_equal(gguf_tokenizer_blob(gguf, n_gguf, &b, &e), 0);
	struct tables s = tables_of(&a), t = tables_of(&b);
	assert_int_equal(s.head->pre, WEIGHTS_PRE_FALCON);
	assert_int_equal(t.head->pre, WEIGHTS_PRE_FALCON);
	assert_int_equal(t.head->n_tokens, 4096);
	assert_int_equal(t.head->n_merges, 3828);
	assert_int_equal(t.head->bos, 11);
	assert_int_equal(t.head->n_eos, 1);
	assert_int_equal(t.head->eos[0], 11);
	assert_int_equal(t.head->flags, 0);
	assert_int_equal(a.length, b.length);
	assert_memory_equal(a.data + sizeof *s.head, b.data + sizeof *t.head, a.length - sizeof *s.head);
	assert_token(&t, 0, ">>TITLE<<", 9);
	assert_int_equal(t.kind[0], WEIGHTS_TOKEN_CONTROL);
	for (uint32_t i = 0; i < t.head->n_merges; i++) { /* a merge joins bytes */
		struct weights_merge m = t.merges[i];
		uint32_t left = t.start[m.left + 1] - t.start[m.left], right = t.start[m.right + 1] - t.start[m.right];
		assert_int_equal(t.start[m.result + 1] - t.start[m.result], left + right);
		assert_memory_equal(t.bytes + t.start[m.result], t.bytes + t.start[m.left], left);
		assert_memory_equal(t.bytes + t.start[m.result] + left, t.bytes + t.start[m.right], right);
	}
	buf_done(&a);
	buf_done(&b);
	free(json);
	free(gguf);
}

/* A file of these parts; NULL: a good one. */
static int attempt(const char *pre, const char *added, const char *model, const char *more, struct buf *blob, struct err *e)
{
	struct buf json = {0};
	buf_printf(&json, "{\"pre_tokenizer\":%s,\"added_tokens\":%s,\"model\":{\"type\":\"BPE\",%s}%s}",
		   pre ? pre : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
		   added ? added
			 : "[{\"id\":4,\"content\":\"<|end|>\",\"special\":true},{\"id\":6,\"content\":\"\xc4\xa0\","
			   "\"special\":false}]",
		   model ? model
			 : "\"vocab\":{\"a\":0,\"\xc4\xa0\xc4\x8a\":1,\"\xc4\xa0\xc4\x8a\x61\":2,\"\xe2\x82\xac\":3},"
			   "\"merges\":[\"\xc4\xa0\xc4\x8a a\"]",
		   more ? more : "");
	int r = tokenizer_json_blob(json.data, json.length, blob, e);
	buf_done(&json);
	return r;
}

static void the_byte_alphabet_is_undone(void **state)
{
	(void)state;
	struct buf b = {0};
	struct err e = {0};
	assert_int_equal(attempt(NULL, NULL, NULL, NULL, &b, &e), 0);
	struct tables t = tables_of(&b);
	assert_int_equal(t.head->n_tokens, 7);
	assert_token(&t, 0, "a", 1);
	assert_token(&t, 1, " \n", 2); /* U+0120 U+010A */
	assert_token(&t, 2, " \na", 3);
	assert_token(&t, 3, "\xe2\x82\xac", 3); /* outside the alphabet: literal */
	assert_token(&t, 4, "<|end|>", 7);
	assert_int_equal(t.kind[4], WEIGHTS_TOKEN_CONTROL);
	assert_token(&t, 5, "", 0); /* a gap */
	assert_int_equal(t.kind[5], WEIGHTS_TOKEN_UNUSED);
	assert_token(&t, 6, "\xc4\xa0", 2); /* added tokens are literal */
	assert_int_equal(t.kind[6], WEIGHTS_TOKEN_ADDED);
	assert_int_equal(t.head->n_merges, 1);
	assert_int_equal(t.merges[0].left, 1);
	assert_int_equal(t.merges[0].right, 0);
	assert_int_equal(t.merges[0].result, 2);
	assert_int_equal(t.head->bos, -1);
	buf_done(&b);
}

static void every_byte_has_a_character_of_its_own(void **state)
{
	(void)state;
	struct buf model = {0}, b = {0};
	struct err e = {0};
	buf_printf(&model, "\"merges\":[],\"vocab\":{");
	for (unsigned byte = 0, next = 0x100; byte < 256; byte++) { /* token i is byte i */
		bool own = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
		buf_printf(&model, "%s\"\\u%04x\":%u", byte ? "," : "", own ? byte : next++, byte);
	}
	buf_printf(&model, "}");
	assert_int_equal(attempt(NULL, "[]", model.data, NULL, &b, &e), 0);
	struct tables t = tables_of(&b);
	assert_int_equal(t.head->n_tokens, 256);
	for (unsigned byte = 0; byte < 256; byte++)
		assert_token(&t, byte, (char[]){(char)byte}, 1);
	buf_done(&model);
	buf_done(&b);
}

static void pre_splits_are_recognised(void **state)
{
	(void)state;
	static const struct { const char *json; enum weights_pre pre;
	} known[] = {
		{"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}", WEIGHTS_PRE_GPT2},
		{"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
		 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]}",
		 WEIGHTS_PRE_SMOLLM},
		{"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'"
		 "ll|'d)|"
		 "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
		 "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
		 "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":"
		 "false}]}",
		 WEIGHTS_PRE_LLAMA3},
	};
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		struct buf b = {0};
		struct err e = {0};
		assert_int_equal(attempt(known[i].json, NULL, NULL, NULL, &b, &e), 0);
		assert_int_equal(tables_of(&b).head->pre, known[i].pre);
		buf_done(&b);
	}
}

static void a_template_with_a_token_in_front_asks_for_bos(void **state)
{
	(void)state;
	struct buf b = {0};
	struct err e = {0};
	assert_int_equal(attempt(NULL, NULL, NULL,
				 ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
				 "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|end|>\",\"type_"
				 "id\":0}},{\"Sequence\":{\"id\":\"A\"}}],"
				 "\"special_tokens\":{\"<|end|>\":{\"id\":\"<|end|>\",\"ids\":[4]}}}]}",
				 &b, &e),
			 0);
	assert_int_equal(tables_of(&b).head->bos, 4);
	assert_int_equal(tables_of(&b).head->flags, WEIGHTS_ADD_BOS);
	buf_done(&b);
}

static void merges_may_be_pairs(void **state)
{
	(void)state;
	struct buf b = {0};
	struct err e = {0};
	assert_int_equal(attempt(NULL, "[]",
				 "\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]", NULL,
				 &b, &e),
			 0);
	assert_int_equal(tables_of(&b).merges[0].result, 2);
	assert_int_equal(tables_of(&b).head->flags, WEIGHTS_IGNORE_MERGES);
	buf_done(&b);
}

static void vocabularies_that_do_not_add_up_are_refused(void **state)
{
	(void)state;
	static const struct { const char *pre, *added, *model, *more, *what;
	} cases[] = {
		{"{\"type\":\"Metaspace\"}", NULL, NULL, NULL, "pre_tokenizer 'Metaspace' is not known"},
		{"{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", NULL, NULL, NULL, "'ByteLevel(prefix)'"},
		{"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+$\"},\"behavior\":\"Isolated\"}", NULL, NULL, NULL,
		 "Split(Isolated,(a+)+$)"},
		{"null", NULL, NULL, NULL, "pre_tokenizer ''"},
		{NULL, NULL, "\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]", NULL, "token 0 is there twice"},
		{NULL, NULL, "\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]", NULL, "duplicate"},
		{NULL, NULL, "\"vocab\":{\"<|end|>\":0},\"merges\":[]", NULL, "have the same text '<|end|>'"},
		{NULL, NULL, "\"vocab\":{\"a\":-1},\"merges\":[]", NULL, "id of token 'a'"},
		{NULL, NULL, "\"vocab\":{\"a\":99999999999},\"merges\":[]", NULL, "beyond the vocabulary"},
		{NULL, NULL, "\"vocab\":{\"a\":4294967295},\"merges\":[]", NULL, "beyond the vocabulary"},
		{NULL, NULL, "\"vocab\":{\"a\":\"0\"},\"merges\":[]", NULL, "id of token 'a'"},
		{NULL, NULL, "\"vocab\":{},\"merges\":[]", NULL, "model.vocab"},
		{NULL, NULL, "\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]", NULL, "merge 0, 'a' with 'b'"},
		{NULL, NULL, "\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]", NULL,
		 "merges 0 and 1 are the same"},
		{NULL, "[]", "\"vocab\":{\"\\u20ac\":0,\"\\u0120\":1,\"\\u20ac\\u0120\":2},\"merges\":[\"\\u20ac \\u0120\"]",
		 NULL, "merge 0 does not join"},
		{NULL, NULL, "\"vocab\":{\"a\":0},\"merges\":[\"a\"]", NULL, "not two tokens"},
		{NULL, NULL, "\"vocab\":{\"a\":0},\"merges\":[3]", NULL, "neither a string nor a pair"},
		{NULL, NULL, "\"vocab\":{\"a\":0},\"merges\":{}", NULL, "model.merges"},
		{NULL, NULL, "\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]", NULL, "byte_fallback"},
		{NULL, NULL, "\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},\"merges\":[]", NULL, "end_of_word_suffix"},
		{NULL, "[{\"id\":4,\"content\":\"<m>\",\"lstrip\":true}]", NULL, NULL, "sets lstrip"},
		{NULL, "[{\"id\":4}]", NULL, NULL, "added token 0"},
		{NULL, NULL, NULL, ",\"normalizer\":{\"type\":\"NFC\"}", "normalizer 'NFC'"},
		{NULL, NULL, NULL,
		 ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}]}",
		 "special token '<s>'"},
		{NULL, NULL, NULL, "}", "tokenizer.json:"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct buf b = {0};
		struct err e = {0};
		assert_int_equal(attempt(cases[i].pre, cases[i].added, cases[i].model, cases[i].more, &b, &e), -EINVAL);
		if (strstr(e.what, cases[i].what) == NULL)
			fail_msg("'%s', expected '%s'", e.what, cases[i].what);
		buf_done(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_kinds_of_file_give_the_same_tables),
		cmocka_unit_test(the_byte_alphabet_is_undone),
		cmocka_unit_test(every_byte_has_a_character_of_its_own),
		cmocka_unit_test(pre_splits_are_recognised),
		cmocka_unit_test(a_template_with_a_token_in_front_asks_for_bos),
		cmocka_unit_test(merges_may_be_pairs),
		cmocka_unit_test(vocabularies_that_do_not_add_up_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
