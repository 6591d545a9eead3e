/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Falcon's own tokenizer against the ids that Hugging Face's tokenizers gives. The vocabulary is not ours to ship: the path of
 * its tokenizer.json comes from $FALCON_TOKENIZER_JSON, without which these tests are skipped.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "tests/support/blob.h"
#include "tests/support/vectors.h"

static struct tokenizer *tokenizer;

static void every_golden_text_has_the_reference_ids(void **state)
{
	(void)state;
	assert_int_equal(vectors_check(tokenizer, "tokenizer.jsonl", NULL), 269);
}

/* What the reference says of these, too: it drops what its vocabulary cannot express. */
static void a_byte_without_a_token_is_left_out(void **state)
{
	(void)state;
	static const struct { const char *with, *without; } texts[] = {{"a\vb", "ab"}, {"...\x04...", "......"}, {"\v", ""}};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		struct ids list = {0};
		struct err e = {0};
		assert_int_equal(tokenizer_encode(tokenizer, texts[i].with, strlen(texts[i].with), true, &list, &e), 0);
		struct buf text = {0};
		for (size_t j = 0; j < list.length; j++) {
			size_t length;
			const char *bytes = tokenizer_bytes(tokenizer, list.data[j], &length);
			buf_add(&text, bytes, length);
		}
		assert_string_equal(text.data ? text.data : "", texts[i].without);
		buf_done(&text);
		ids_done(&list);
	}
}

/* Of the processor, so that others who use it do not count. */
static uint64_t used_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void a_megabyte_of_one_letter_takes_less_than_two_seconds(void **state)
{
	(void)state;
	size_t n = 1 << 20;
	char *text = xmalloc(n);
	memset(text, 'a', n);
	struct ids list = {0};
	struct err e = {0};
	uint64_t start = used_ns();
	assert_int_equal(tokenizer_encode(tokenizer, text, n, true, &list, &e), 0);
	uint64_t took = used_ns() - start;
	size_t at = 0;
	for (size_t i = 0; i < list.length; i++) {
		size_t length;
		assert_non_null(tokenizer_bytes(tokenizer, list.data[i], &length));
		at += length;
	}
	assert_int_equal(at, n);
	print_message("%zu ids in %.0f ms\n", list.length, (double)took / 1e6);
	assert_true(took < UINT64_C(2000000000));
	ids_done(&list);
	free(text);
}

int main(void)
{
	const char *path = getenv("FALCON_TOKENIZER_JSON");
	if (path == NULL)
		return 77;
	tokenizer = blob_tokenizer(path, WEIGHTS_PRE_NONE);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_golden_text_has_the_reference_ids),
		cmocka_unit_test(a_byte_without_a_token_is_left_out),
		cmocka_unit_test(a_megabyte_of_one_letter_takes_less_than_two_seconds),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tokenizer_free(tokenizer);
	return failed;
}
