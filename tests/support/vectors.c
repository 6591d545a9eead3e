/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

const char *vectors_path(const char *name)
{
	static char path[512];
	const char *source = getenv("srcdir");
	snprintf(path, sizeof path, "%s/tests/golden/%s", source ? source : ".", name);
	return path;
}

static bool same_ids(const struct ids *list, const json_t *ids)
{
	bool same = list->length == json_array_size(ids);
	for (size_t i = 0; same && i < list->length; i++)
		same = list->data[i] == json_integer_value(json_array_get(ids, i));
	return same;
}

static bool same_text(const struct tokenizer *t, const struct ids *list, const char *text, size_t length)
{
	struct buf out = {0};
	for (size_t i = 0; i < list->length; i++) {
		size_t n = 0;
		const char *bytes = tokenizer_bytes(t, list->data[i], &n);
		buf_add(&out, bytes, n);
	}
	bool same = out.length == length && (length == 0 || memcmp(out.data, text, length) == 0);
	buf_done(&out);
	return same;
}

int vectors_check(const struct tokenizer *t, const char *name, const char *pre)
{
	FILE *file = fopen(vectors_path(name), "r");
	if (file == NULL)
		fail_msg("%s cannot be read", vectors_path(name));
	int line = 0, texts = 0, wrong = 0;
	for (json_t *v; (v = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL)) != NULL; json_decref(v)) {
		json_t *text = json_object_get(v, "text"), *its_pre = json_object_get(v, "pre");
		line++;
		if (pre != NULL && strcmp(pre, json_string_value(its_pre)) != 0)
			continue;
		struct ids list = {0};
		struct err e = {0};
		const char *bytes = json_string_value(text);
		size_t length = json_string_length(text);
		bool right = tokenizer_encode(t, bytes, length, true, &list, &e) == 0 &&
			     same_ids(&list, json_object_get(v, "ids")) && same_text(t, &list, bytes, length);
		if (!right)
			print_error("%s:%d: differs: %s %s\n", name, line, bytes, e.what);
		texts++;
		wrong += !right;
		ids_done(&list);
	}
	fclose(file);
	assert_int_equal(wrong, 0);
	return texts;
}
