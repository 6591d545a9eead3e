/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tokenizer over the bundled model's vocabulary. falcon-tales-tokenizer.jsonl holds what Hugging Face's tokenizers 0.23
 * gives with it and each of the pre-splits.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/support/blob.h"
#include "tests/support/vectors.h"
#include "text/bpe.h"
#include "text/template.h"

static struct tokenizer *tales(enum weights_pre pre)
{
	return blob_tokenizer(vectors_path("falcon-tales/tokenizer.json"), pre);
}

static void every_presplit_gives_the_reference_ids(void **state)
{
	(void)state;
	static const struct { enum weights_pre pre; const char *name; int texts; } all[] = {{WEIGHTS_PRE_FALCON, "falcon", 333},
		{WEIGHTS_PRE_GPT2, "gpt2", 60}, {WEIGHTS_PRE_SMOLLM, "smollm", 60}, {WEIGHTS_PRE_LLAMA3, "llama3", 60},
		{WEIGHTS_PRE_FALCON3, "llama3", 60}};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		struct tokenizer *t = tales(all[i].pre);
		assert_int_equal(vectors_check(t, "falcon-tales-tokenizer.jsonl", all[i].name), all[i].texts);
		tokenizer_free(t);
	}
}

static void assert_round_trip(const struct tokenizer *t, const char *text, size_t length, bool special)
{
	struct ids list = {0};
	struct err e = {0};
	struct buf out = {0};
	assert_int_equal(tokenizer_encode(t, text, length, special, &list, &e), 0);
	for (size_t i = 0; i < list.length; i++) {
		size_t n;
		const char *bytes = tokenizer_bytes(t, list.data[i], &n);
		assert_non_null(bytes);
		buf_add(&out, bytes, n);
	}
	assert_int_equal(out.length, length);
	if (length > 0)
		assert_memory_equal(out.data, text, length);
	ids_done(&list);
	buf_done(&out);
}

static void any_bytes_come_back(void **state)
{
	(void)state;
	srand(1);
	for (enum weights_pre pre = WEIGHTS_PRE_FALCON; pre < WEIGHTS_PRES; pre++) {
		struct tokenizer *t = tales(pre);
		for (int round = 0; round < 3000; round++) {
			char text[300];
			size_t n = (size_t)rand() % sizeof text;
			for (size_t i = 0; i < n; i++)
				text[i] = (char)(rand() % 3 ? rand() : "\0\xe2\x82\xac \n1>T"[rand() % 9]);
			assert_round_trip(t, text, n, rand() % 2);
		}
		tokenizer_free(t);
	}
}

static void every_scalar_value_comes_back(void **state)
{
	(void)state;
	struct buf text = {0};
	for (uint32_t c = 0; c < 0x110000; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		char s[4];
		size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
		for (size_t i = n - 1; i > 0; i--)
			s[i] = (char)(0x80 | (c >> 6 * (n - 1 - i) & 63));
		s[0] = (char)((n == 1 ? 0 : 0xf00 >> n) | c >> 6 * (n - 1));
		buf_add(&text, s, n);
	}
	for (enum weights_pre pre = WEIGHTS_PRE_FALCON; pre < WEIGHTS_PRES; pre++) {
		struct tokenizer *t = tales(pre);
		assert_round_trip(t, text.data, text.length, true);
		tokenizer_free(t);
	}
	buf_done(&text);
}

static void a_megabyte_of_anything_takes_no_more_than_seconds(void **state)
{
	(void)state;
	static const char *const units[] = {
		"a", " ", "\n", "1", ">", ">>TITLE<", "!", "\xe2\x82\xac", "\xe2\xb9\x85",
		"\xc3\xa9", "\xff", " \t", "a ", "  a"};
	struct tokenizer *t = tales(WEIGHTS_PRE_FALCON), *llama = tales(WEIGHTS_PRE_LLAMA3);
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		struct buf text = {0};
		while (text.length < 1 << 20)
			buf_printf(&text, "%s", units[i]);
		uint64_t start = clock_ns();
		assert_round_trip(t, text.data, text.length, true);
		assert_round_trip(llama, text.data, text.length, true);
		assert_true(clock_ns() - start < UINT64_C(10000000000)); /* quadratic: hours */
		buf_done(&text);
	}
	tokenizer_free(t);
	tokenizer_free(llama);
}

/* Merging by its definition: all pairs, all merges, one step at a time. */
static size_t reference_merge(const struct weights_merge *merges, uint32_t n_merges, int32_t *ids, size_t n)
{
	for (uint32_t rank = 0; rank < n_merges;) {
		size_t at = 0;
		while (at + 1 < n && !(ids[at] == merges[rank].left && ids[at + 1] == merges[rank].right))
			at++;
		if (at + 1 >= n) {
			rank++;
			continue;
		}
		ids[at] = merges[rank].result;
		memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
		n--;
		rank = 0;
	}
	return n;
}

static void short_and_long_pieces_are_merged_by_the_definition(void **state)
{
	(void)state;
	srand(2);
	for (int round = 0; round < 3000; round++) {
		struct weights_merge merges[40];
		uint32_t n_merges = (uint32_t)rand() % 40;
		for (uint32_t i = 0; i < n_merges; i++) {
			int32_t below = 4 + (int32_t)i;
			bool again = true;
			while (again) { /* each pair once, as a vocabulary has it */
				merges[i] = (struct weights_merge){rand() % below, rand() % below, below};
				again = false;
				for (uint32_t j = 0; j < i; j++)
					again |= merges[j].left == merges[i].left && merges[j].right == merges[i].right;
			}
		}
		struct bpe b;
		bpe_init(&b, merges, n_merges);
		int32_t ids[200], expected[200];
		size_t n = (size_t)rand() % 200;
		for (size_t i = 0; i < n; i++)
			ids[i] = expected[i] = rand() % 4;
		size_t left = bpe_merge(&b, ids, n);
		assert_int_equal(left, reference_merge(merges, n_merges, expected, n));
		assert_memory_equal(ids, expected, left * sizeof *ids);
		bpe_done(&b);
	}
}

static const char *const small_tokens[] = {"a", "b", "ab", "<", "s", ">", "<s>", "<s>>", "<a", "never",
	"<|im_start|>", "<|im_end|>"};
static const uint8_t small_kinds[] = {[6] = WEIGHTS_TOKEN_CONTROL, [7] = WEIGHTS_TOKEN_CONTROL, [8] = WEIGHTS_TOKEN_ADDED,
	[9] = WEIGHTS_TOKEN_UNUSED, [10] = WEIGHTS_TOKEN_CONTROL, [11] = WEIGHTS_TOKEN_CONTROL};
static const struct weights_merge small_merges[] = {{0, 1, 2}};
static const struct weights_tokenizer small = {.pre = WEIGHTS_PRE_GPT2, .n_tokens = 12, .n_merges = 1, .bos = 6, .n_eos = 2,
	.eos = {7, 11}};

static struct tokenizer *small_tokenizer(uint32_t flags)
{
	struct weights_tokenizer header = small;
	header.flags = flags;
	struct buf blob = {0};
	blob_from_tokens(&header, small_tokens, small_kinds, small_merges, &blob);
	struct tokenizer *t = NULL;
	struct err e = {0};
	assert_int_equal(tokenizer_new(blob.data, blob.length, &t, &e), 0);
	buf_done(&blob);
	return t;
}

static void assert_ids(const struct tokenizer *t, const char *text, bool special, const int32_t *ids, size_t n)
{
	struct ids list = {0};
	struct err e = {0};
	assert_int_equal(tokenizer_encode(t, text, strlen(text), special, &list, &e), 0);
	assert_int_equal(list.length, n);
	assert_memory_equal(list.data, ids, n * sizeof *ids);
	ids_done(&list);
}
#define IDS(...) (int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)

static void control_tokens_are_parsed_only_where_asked_for(void **state)
{
	(void)state;
	struct tokenizer *t = small_tokenizer(0);
	assert_ids(t, "a<s>b", true, IDS(0, 6, 1));
	assert_ids(t, "a<s>b", false, IDS(0, 3, 4, 5, 1));
	assert_ids(t, "ab", true, IDS(2));
	tokenizer_free(t);
}

static void of_special_tokens_the_leftmost_and_then_the_longest_counts(void **state)
{
	(void)state;
	struct tokenizer *t = small_tokenizer(0);
	assert_ids(t, "<s>>", true, IDS(7));
	assert_ids(t, "<s>><s>", true, IDS(7, 6));
	assert_ids(t, "<<s>b", true, IDS(3, 6, 1));
	tokenizer_free(t);
}

static void added_tokens_are_matched_before_the_presplit_whatever_is_asked_for(void **state)
{
	(void)state;
	struct tokenizer *t = small_tokenizer(0);
	assert_ids(t, "<ab", false, IDS(8, 1));
	assert_ids(t, "<ab", true, IDS(8, 1));
	tokenizer_free(t);
}

static void properties_of_tokens_can_be_asked_for(void **state)
{
	(void)state;
	struct tokenizer *t = small_tokenizer(0), *with_bos = small_tokenizer(WEIGHTS_ADD_BOS);
	size_t length = 0;
	assert_memory_equal(tokenizer_bytes(t, 2, &length), "ab", 2);
	assert_int_equal(length, 2);
	assert_null(tokenizer_bytes(t, 12, &length));
	assert_null(tokenizer_bytes(t, -1, &length));
	assert_int_equal(tokenizer_find(t, "<s>", 3), 6);
	assert_int_equal(tokenizer_find(t, "<s", 2), -1);
	assert_int_equal(tokenizer_kind(t, 8), WEIGHTS_TOKEN_ADDED);
	assert_int_equal(tokenizer_kind(t, 99), WEIGHTS_TOKEN_UNUSED);
	assert_int_equal(tokenizer_size(t), 12);
	assert_true(tokenizer_is_eos(t, 11) && tokenizer_is_eos(t, 7) && !tokenizer_is_eos(t, 6));
	assert_int_equal(tokenizer_bos(t), -1);
	assert_int_equal(tokenizer_bos(with_bos), 6);
	tokenizer_free(t);
	tokenizer_free(with_bos);
}

static void a_piece_that_is_a_token_is_taken_whole_where_the_tables_say_so(void **state)
{
	(void)state;
	static const char *const tokens[] = {"a", "b", "c", "ab", "abc"};
	static const uint8_t kinds[5];
	static const struct weights_merge merges[] = {{0, 1, 3}};
	struct weights_tokenizer header = {.pre = WEIGHTS_PRE_LLAMA3, .n_tokens = 5, .n_merges = 1, .bos = -1};
	for (int ignore = 0; ignore < 2; ignore++) {
		struct buf blob = {0};
		struct tokenizer *t;
		header.flags = ignore ? WEIGHTS_IGNORE_MERGES : 0;
		blob_from_tokens(&header, tokens, kinds, merges, &blob);
		assert_int_equal(tokenizer_new(blob.data, blob.length, &t, NULL), 0);
		if (ignore)
			assert_ids(t, "abc", true, IDS(4));
		else
			assert_ids(t, "abc", true, IDS(3, 2));
		buf_done(&blob);
		tokenizer_free(t);
	}
}

static void tables_that_do_not_add_up_are_refused(void **state)
{
	(void)state;
	struct buf blob = {0};
	struct tokenizer *t = NULL;
	struct err e = {0};
	blob_from_tokens(&small, small_tokens, small_kinds, small_merges, &blob);
	for (size_t n = 0; n < blob.length; n++)
		assert_int_equal(tokenizer_new(blob.data, n, &t, &e), -EINVAL);
	const size_t merges = sizeof small + 4 * 13 + 12;
	const struct { size_t offset; uint32_t value; } damage[] = {
		{0, WEIGHTS_PRE_NONE}, {0, WEIGHTS_PRES}, {4, UINT32_MAX}, {8, 2}, {12, 3}, {20, 12}, {20, (uint32_t)-2},
		{24, 9}, {28, 12}, {28, (uint32_t)-1}, {sizeof small, 1}, {sizeof small + 4, 9}, {sizeof small + 48, 1},
		{merges, 12}, {merges, (uint32_t)-1}, {merges + 4, 0}, {merges + 8, 1},
	};
	for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
		char *copy = xmalloc(blob.length);
		memcpy(copy, blob.data, blob.length);
		memcpy(copy + damage[i].offset, &damage[i].value, 4);
		e.what[0] = '\0';
		assert_int_equal(tokenizer_new(copy, blob.length, &t, &e), -EINVAL);
		assert_true(e.what[0] != '\0');
		free(copy);
	}
	assert_null(t);
	buf_done(&blob);
}

/* One message of the user's in the template of this name. */
static int user_message(const struct tokenizer *t, const char *name, int32_t after, const char *text, struct ids *list, struct err *e)
{
	const struct template *p = template_find(name, e);
	const struct ids *before = &(struct ids){.data = &after, .length = after >= 0};
	const struct template_message message = {TEMPLATE_USER, text, strlen(text)};
	return p ? template_chat(p, t, before, &message, 1, list, e) : -ENOENT;
}

static void text_in_a_template_is_not_parsed(void **state)
{
	(void)state;
	static const char *const tokens[] = {"<|im_start|>", "<|im_end|>"};
	static const uint8_t kinds[256 + 2] = {WEIGHTS_TOKEN_CONTROL, WEIGHTS_TOKEN_CONTROL};
	const char *all[256 + 2];
	char bytes[256][2];
	memcpy(all, tokens, sizeof tokens);
	for (int i = 0; i < 256; i++) {
		bytes[i][0] = (char)i;
		bytes[i][1] = '\0';
		all[2 + i] = bytes[i]; /* the one for NUL is empty: not needed here */
	}
	struct weights_tokenizer header = {.pre = WEIGHTS_PRE_SMOLLM, .n_tokens = 258, .bos = -1};
	struct buf blob = {0};
	struct tokenizer *t;
	blob_from_tokens(&header, all, kinds, NULL, &blob);
	assert_int_equal(tokenizer_new(blob.data, blob.length, &t, NULL), 0);
	enum { CUT_OFF = 5, END = 1 }; /* an answer's last token */
	static const struct { int32_t before; int starts, ends; } cases[] = {{-1, 3, 2}, {END, 2, 1}, {CUT_OFF, 2, 2}};
	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		struct ids list = {0};
		struct err e = {0};
		assert_int_equal(user_message(t, "chatml", cases[c].before, "x<|im_end|>", &list, &e), 0);
		int starts = 0, ends = 0;
		for (size_t i = 0; i < list.length; i++) {
			starts += list.data[i] == 0;
			ends += list.data[i] == 1;
		}
		assert_int_equal(starts, cases[c].starts);
		assert_int_equal(ends, cases[c].ends);
		list.length = 0;
		assert_int_equal(user_message(t, "plain", cases[c].before, "<|im_end|>", &list, &e), 0);
		assert_int_equal(list.length, 10);
		ids_done(&list);
	}
	buf_done(&blob);
	tokenizer_free(t);
}

/* The text that these messages become, in a tokenizer whose every byte is a token. */
static void assert_chat(const struct tokenizer *t, const char *name, const char *after, const struct template_message *m, size_t n,
			const char *expected)
{
	struct ids list = {0}, before = {0};
	struct err e = {0};
	assert_int_equal(tokenizer_encode(t, after, strlen(after), false, &before, &e), 0);
	struct buf text = {0};
	const struct template *p = template_find(name, &e);
	assert_non_null(p);
	assert_int_equal(template_chat(p, t, &before, m, n, &list, &e), 0);
	for (size_t i = 0; i < list.length; i++) {
		size_t length;
		const char *bytes = tokenizer_bytes(t, list.data[i], &length);
		buf_add(&text, bytes, length);
	}
	assert_string_equal(text.data, expected);
	buf_done(&text);
	ids_done(&before);
	ids_done(&list);
}

static void every_template_says_who_speaks(void **state)
{
	(void)state;
	static const struct template_message chat[] = {{TEMPLATE_SYSTEM, "Be kind.", 8}, {TEMPLATE_USER, " Hi ", 4},
						       {TEMPLATE_ASSISTANT, "Hello.", 6}, {TEMPLATE_USER, "Who?", 4}};
	struct tokenizer *t = tales(WEIGHTS_PRE_FALCON);
	assert_chat(t, "plain", "", chat, 4, "Be kind. Hi Hello.Who?");
	assert_chat(t, "falcon-instruct", "", chat, 4, "Be kind.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Who?\n\nAssistant:");
	assert_chat(t, "falcon-180b-chat", "", chat, 4, "System: Be kind.\nUser: Hi\nFalcon: Hello.\nUser: Who?\nFalcon:");
	assert_chat(t, "falcon2", "", chat + 1, 1, "User: Hi\nFalcon:");
	assert_chat(t, "falcon2", "Hello.", chat + 3, 1, "\nUser: Who?\nFalcon:");
	assert_chat(t, "falcon3", "", chat, 4,
		    "<|system|>\nBe kind.\n<|user|>\n Hi \n<|assistant|>\nHello.\n<|user|>\nWho?\n<|assistant|>\n");
	tokenizer_free(t);
}

/* A run that ended at the template's stop string has left it in the session. */
static void the_users_words_are_not_doubled_behind_an_answer_that_was_stopped_at_them(void **state)
{
	(void)state;
	static const struct template_message user = {TEMPLATE_USER, "Who?", 4}, system = {TEMPLATE_SYSTEM, "Stop.", 5};
	struct tokenizer *t = tales(WEIGHTS_PRE_FALCON);
	assert_chat(t, "falcon-instruct", "Hello.\n\nUser:", &user, 1, " Who?\n\nAssistant:");
	assert_chat(t, "falcon-instruct", "Hello.\nUser:", &user, 1, " Who?\n\nAssistant:");
	assert_chat(t, "falcon-instruct", "Hello.\nUser: ", &user, 1, "Who?\n\nAssistant:");
	assert_chat(t, "falcon-instruct", "Hello.\nUser", &user, 1, "\n\nUser: Who?\n\nAssistant:");
	assert_chat(t, "falcon-instruct", "Hello.\nUser: I", &user, 1, "\n\nUser: Who?\n\nAssistant:");
	assert_chat(t, "falcon-180b-chat", "Hello.\nUser:", &user, 1, " Who?\nFalcon:");
	assert_chat(t, "falcon-180b-chat", "Hello.\nUser:", &system, 1, "\nSystem: Stop.\nFalcon:");
	assert_chat(t, "plain", "Hello.\nUser:", &user, 1, "Who?");
	tokenizer_free(t);
}

static void a_models_own_template_is_recognised(void **state)
{
	(void)state;
	static const struct { const char *jinja, *name; } cases[] = {
		{"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}", "chatml"},
		{"{% if m.role == 'user' %}<|user|>\n{% endif %}<|assistant|>\n", "falcon3"},
		{"{{ 'User: ' + m }}{{ '\nFalcon:' }}", "falcon-180b-chat"},
		{"{{ '\n\nUser: ' + m }}{{ '\n\nAssistant:' }}", "falcon-instruct"},
		{"{{ m }}", "plain"},
		{"", "plain"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		assert_string_equal(template_recognise(cases[i].jinja, strlen(cases[i].jinja), NULL)->name, cases[i].name);
}

static void templates_that_cannot_be_are_refused(void **state)
{
	(void)state;
	struct tokenizer *t = tales(WEIGHTS_PRE_FALCON);
	struct ids list = {0};
	struct err e = {0};
	assert_int_equal(user_message(t, "alpaca", -1, "x", &list, &e), -ENOENT);
	assert_int_equal(user_message(t, "chatml", -1, "x", &list, &e), -ENOTSUP);
	assert_non_null(strstr(e.what, "<|im_start|>"));
	assert_int_equal(list.length, 0);
	tokenizer_free(t);
}

static void *encode_often(void *context)
{
	static const char text[] = "Once upon a time there were 1234567 unbelievably-long-winded na\xc3\xafve stories!!";
	const struct tokenizer *t = context;
	for (int i = 0; i < 2000; i++)
		assert_round_trip(t, text, sizeof text - 1, true);
	return NULL;
}

static void several_threads_may_use_one_tokenizer(void **state)
{
	(void)state;
	struct tokenizer *t = tales(WEIGHTS_PRE_FALCON);
	pthread_t other;
	assert_int_equal(pthread_create(&other, NULL, encode_often, t), 0);
	encode_often(t);
	assert_int_equal(pthread_join(other, NULL), 0);
	tokenizer_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_presplit_gives_the_reference_ids),
		cmocka_unit_test(any_bytes_come_back),
		cmocka_unit_test(every_scalar_value_comes_back),
		cmocka_unit_test(a_megabyte_of_anything_takes_no_more_than_seconds),
		cmocka_unit_test(short_and_long_pieces_are_merged_by_the_definition),
		cmocka_unit_test(control_tokens_are_parsed_only_where_asked_for),
		cmocka_unit_test(of_special_tokens_the_leftmost_and_then_the_longest_counts),
		cmocka_unit_test(added_tokens_are_matched_before_the_presplit_whatever_is_asked_for),
		cmocka_unit_test(properties_of_tokens_can_be_asked_for),
		cmocka_unit_test(a_piece_that_is_a_token_is_taken_whole_where_the_tables_say_so),
		cmocka_unit_test(tables_that_do_not_add_up_are_refused),
		cmocka_unit_test(text_in_a_template_is_not_parsed),
		cmocka_unit_test(every_template_says_who_speaks),
		cmocka_unit_test(the_users_words_are_not_doubled_behind_an_answer_that_was_stopped_at_them),
		cmocka_unit_test(a_models_own_template_is_recognised),
		cmocka_unit_test(templates_that_cannot_be_are_refused),
		cmocka_unit_test(several_threads_may_use_one_tokenizer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
