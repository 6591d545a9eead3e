/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Falcon's own tokenizer against the ids that Hugging Face's tokenizers gives. The vocabulary is not ours to ship: the path of
 * its tokenizer.json comes from $FALCON_TOKENIZER_JSON, without which these tests are skipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "tests/support/blob.h"

static struct tokenizer *tokenizer;

static void every_golden_text_has_the_reference_ids(void **state)
{
	(void)state;
	const char *folder = getenv("srcdir");
	char path[512];
	snprintf(path, sizeof path, "%s/tests/golden/tokenizer.jsonl", folder ? folder : ".");
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	int texts = 0, wrong = 0;
	for (json_t *line; (line = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL)) != NULL; json_decref(line)) {
		json_t *text = json_object_get(line, "text"), *ids = json_object_get(line, "ids");
		struct ids list = {0};
		struct err e = {0};
		assert_int_equal(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true, &list, &e), 0);
		bool equal = list.length == json_array_size(ids);
		for (size_t i = 0; equal && i < list.length; i++)
			equal = list.data[i] == json_integer_value(json_array_get(ids, i));
		if (!equal)
			print_error("text %d differs: %s\n", texts + 1, json_string_value(text));
		texts++;
		wrong += !equal;
		ids_done(&list);
	}
	fclose(file);
	print_message("%d of %d texts equal\n", texts - wrong, texts);
	assert_int_equal(wrong, 0);
	assert_int_equal(texts, 269);
}

static void a_megabyte_of_one_letter_takes_less_than_two_seconds(void **state)
{
	(void)state;
	size_t n = 1 << 20;
	char *text = xmalloc(n);
	memset(text, 'a', n);
	struct ids list = {0};
	struct err e = {0};
	uint64_t start = clock_ns();
	assert_int_equal(tokenizer_encode(tokenizer, text, n, true, &list, &e), 0);
	uint64_t took = clock_ns() - start;
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
	tokenizer = blob_tokenizer(path, WEIGHTS_PRE_FALCON, 0);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_golden_text_has_the_reference_ids),
		cmocka_unit_test(a_megabyte_of_one_letter_takes_less_than_two_seconds),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tokenizer_free(tokenizer);
	return failed;
}
