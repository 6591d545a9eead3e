/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/blob.h"
#include "text/ending.h"
#include "text/utf8.h"

enum { EOS = 0, CONTROL = 1, FIRST_TEXT = 2 };
static const char *const tokens[] = {"<eos>", "<control>", "a", "b", "ab", "ba", "abc", "\xc3", "\xa9", "\xe2\x82", "\xac",
	"\xf0", " ", "ST", "OP", "the"};
enum { N = sizeof tokens / sizeof tokens[0] };
static struct tokenizer *tokenizer;

static int load(void **state)
{
	(void)state;
	const uint8_t kinds[N] = {WEIGHTS_TOKEN_CONTROL, WEIGHTS_TOKEN_CONTROL};
	const struct weights_tokenizer header = {.pre = WEIGHTS_PRE_GPT2, .n_tokens = N, .bos = -1, .n_eos = 1, .eos = {EOS}};
	struct buf blob = {0};
	blob_from_tokens(&header, tokens, kinds, NULL, &blob);
	struct err e = {0};
	int r = tokenizer_new(blob.data, blob.length, &tokenizer, &e);
	buf_done(&blob);
	return r;
}

static int unload(void **state)
{
	(void)state;
	tokenizer_free(tokenizer);
	return 0;
}

static void add_stop(struct board_record *r, const char *text)
{
	r->stop_length[r->n_stops] = (uint8_t)strlen(text);
	memcpy(r->stops[r->n_stops++], text, strlen(text));
}

static int32_t id(const char *text)
{
	int32_t found = tokenizer_find(tokenizer, text, strlen(text));
	assert_true(found >= 0);
	return found;
}

static void take(struct ending *e, const struct board_record *r, const char *token)
{
	ending_take(e, tokenizer, r, id(token));
}

static void assert_visible(const struct ending *e, const struct board_record *r, bool final, const char *text)
{
	size_t n = ending_visible(e, r, final);
	assert_int_equal(n, strlen(text));
	assert_memory_equal(e->text.data ? e->text.data : "", text, n);
}

static void a_stop_string_across_tokens_ends_the_text_before_it(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 100};
	struct ending e = {0};
	add_stop(&r, "STOP");
	ending_start(&e, 5);
	take(&e, &r, "a");
	take(&e, &r, "ST");
	assert_visible(&e, &r, false, "a");
	assert_int_equal(ending_reason(&e, &r, 100), 0);
	take(&e, &r, "OP");
	assert_int_equal(ending_reason(&e, &r, 100), BOARD_STOP);
	assert_visible(&e, &r, false, "a");
	assert_visible(&e, &r, true, "a");
	assert_int_equal(e.position, 8);
	ending_done(&e);
}

static void what_only_seemed_to_become_a_stop_string_is_shown_later(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 100};
	struct ending e = {0};
	add_stop(&r, "abab!");
	ending_start(&e, 0);
	take(&e, &r, "ab");
	take(&e, &r, "ab");
	assert_visible(&e, &r, false, "");
	take(&e, &r, "ab"); /* the second "ab" may begin it now */
	assert_visible(&e, &r, false, "ab");
	take(&e, &r, "the");
	assert_visible(&e, &r, false, "abababthe");
	ending_done(&e);
}

static void a_character_is_shown_when_it_is_whole(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 100};
	struct ending e = {0};
	ending_start(&e, 0);
	take(&e, &r, "\xe2\x82");
	assert_visible(&e, &r, false, "");
	assert_visible(&e, &r, true, "\xe2\x82");
	take(&e, &r, "\xac");
	assert_visible(&e, &r, false, "\xe2\x82\xac");
	ending_done(&e);
}

static void control_tokens_have_no_text_and_do_not_end(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 100};
	struct ending e = {0};
	ending_start(&e, 0);
	take(&e, &r, "<control>");
	take(&e, &r, "a");
	assert_visible(&e, &r, true, "a");
	assert_int_equal(ending_reason(&e, &r, 100), 0);
	ending_done(&e);
}

static void end_of_text_ends_unless_the_record_ignores_it(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 100};
	struct ending e = {0};
	ending_start(&e, 0);
	take(&e, &r, "<eos>");
	assert_int_equal(ending_reason(&e, &r, 100), BOARD_EOS);
	assert_visible(&e, &r, true, "");
	r.flags = BOARD_IGNORE_EOS;
	ending_start(&e, 0);
	take(&e, &r, "<eos>");
	take(&e, &r, "b");
	assert_int_equal(ending_reason(&e, &r, 100), 0);
	assert_visible(&e, &r, true, "b");
	ending_done(&e);
}

static void reasons_have_an_order(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 2};
	struct ending e = {0};
	add_stop(&r, "a");
	ending_start(&e, 1);
	assert_int_equal(ending_reason(&e, &r, 2), 0);
	take(&e, &r, "b");
	assert_int_equal(ending_reason(&e, &r, 2), BOARD_LENGTH);
	r.n_end = 9;
	assert_int_equal(ending_reason(&e, &r, 2), BOARD_CONTEXT);
	assert_int_equal(ending_reason(&e, &r, 3), 0);
	take(&e, &r, "<eos>");
	r.n_end = 3;
	assert_int_equal(ending_reason(&e, &r, 3), BOARD_EOS);
	take(&e, &r, "a");
	assert_int_equal(ending_reason(&e, &r, 3), BOARD_STOP);
	ending_done(&e);
}

static void without_a_tokenizer_only_length_and_context_end(void **state)
{
	(void)state;
	struct board_record r = {.n_end = 2};
	struct ending e = {0};
	ending_start(&e, 0);
	ending_take(&e, NULL, &r, 0);
	assert_int_equal(ending_reason(&e, &r, 10), 0);
	ending_take(&e, NULL, &r, 0);
	assert_int_equal(ending_reason(&e, &r, 10), BOARD_LENGTH);
	assert_visible(&e, &r, true, "");
	ending_done(&e);
}

static bool stands_at(const struct board_record *r, uint32_t stop, const struct buf *text, size_t at, bool cut)
{
	size_t n = r->stop_length[stop], rest = text->length - at;
	return cut ? rest < n && memcmp(text->data + at, r->stops[stop], rest) == 0
		   : rest >= n && memcmp(text->data + at, r->stops[stop], n) == 0;
}

/* Text(c) by its definition, looking at every place of the text. */
static size_t reference_visible(const struct board_record *r, const struct buf *text, size_t end)
{
	size_t safe = end != SIZE_MAX ? end : text->length;
	for (size_t at = 0; at < text->length && end == SIZE_MAX; at++)
		for (uint32_t i = 0; i < r->n_stops; i++)
			if (at < safe && stands_at(r, i, text, at, true))
				safe = at;
	return utf8_whole(text->data, safe);
}

static size_t reference_end(const struct board_record *r, const struct buf *text)
{
	for (size_t at = 0; at < text->length; at++)
		for (uint32_t i = 0; i < r->n_stops; i++)
			if (stands_at(r, i, text, at, false))
				return at;
	return SIZE_MAX;
}

static void random_stop(struct board_record *r)
{
	struct buf stop = {0};
	for (int n = rand() % 4 + 1; n > 0; n--)
		buf_printf(&stop, "%s", tokens[FIRST_TEXT + rand() % (N - FIRST_TEXT)]);
	add_stop(r, stop.data);
	buf_done(&stop);
}

static void random_runs_show_what_the_definition_says_and_never_take_it_back(void **state)
{
	(void)state;
	srand(3);
	for (int round = 0; round < 20000; round++) {
		struct board_record r = {.n_end = 1000};
		for (int n = rand() % 4; n > 0; n--)
			random_stop(&r);
		struct ending e = {0};
		struct buf text = {0};
		size_t shown = 0, end = SIZE_MAX;
		ending_start(&e, 3);
		for (int n = rand() % 30; n > 0 && ending_reason(&e, &r, 1000) == 0; n--) {
			int32_t token = rand() % (N - 1) + 1;
			ending_take(&e, tokenizer, &r, token);
			if (token >= FIRST_TEXT)
				buf_add(&text, tokens[token], strlen(tokens[token]));
			end = reference_end(&r, &text);
			assert_int_equal(e.end, end);
			size_t now = ending_visible(&e, &r, false);
			assert_int_equal(now, reference_visible(&r, &text, end));
			assert_true(now >= shown);
			shown = now;
		}
		assert_int_equal(e.text.length, text.length);
		assert_int_equal(ending_visible(&e, &r, true), end != SIZE_MAX ? end : text.length);
		assert_true(ending_visible(&e, &r, true) >= shown);
		buf_done(&text);
		ending_done(&e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stop_string_across_tokens_ends_the_text_before_it),
		cmocka_unit_test(what_only_seemed_to_become_a_stop_string_is_shown_later),
		cmocka_unit_test(a_character_is_shown_when_it_is_whole),
		cmocka_unit_test(control_tokens_have_no_text_and_do_not_end),
		cmocka_unit_test(end_of_text_ends_unless_the_record_ignores_it),
		cmocka_unit_test(reasons_have_an_order),
		cmocka_unit_test(without_a_tokenizer_only_length_and_context_end),
		cmocka_unit_test(random_runs_show_what_the_definition_says_and_never_take_it_back),
	};
	return cmocka_run_group_tests(tests, load, unload);
}
