/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokenizer tables of arbitrary bytes; what is accepted must encode any text (here: itself) to ids that give the text again,
 * but for bytes that its vocabulary lacks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes that are no token of their own may be left out where they stand; all others come back in order. */
static size_t past_missing(const struct tokenizer *t, const char *text, size_t at, size_t length)
{
	while (at < length && tokenizer_find(t, text + at, 1) < 0)
		at++;
	return at;
}

static void round_trip(const struct tokenizer *t, const char *text, size_t length, bool special)
{
	struct ids list = {0};
	struct err e = {0};
	if (tokenizer_encode(t, text, length, special, &list, &e) == 0) {
		size_t at = 0;
		for (size_t i = 0; i < list.length; i++) {
			size_t n;
			const char *bytes = tokenizer_bytes(t, list.data[i], &n);
			CHECK(bytes != NULL);
			for (size_t j = 0; j < n; j++, at++) {
				if (at < length && text[at] != bytes[j])
					at = past_missing(t, text, at, length);
				CHECK(at < length && text[at] == bytes[j]);
			}
		}
		CHECK(past_missing(t, text, at, length) == length);
	}
	ids_done(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tokenizer *t = NULL;
	struct err e = {0};
	if (tokenizer_new(data, size, &t, &e) < 0) {
		CHECK(t == NULL && e.what[0] != '\0');
		return 0;
	}
	round_trip(t, (const char *)data, size, true);
	round_trip(t, (const char *)data, size, false);
	for (int32_t id = -1; id <= (int32_t)tokenizer_size(t); id++) {
		size_t n;
		const char *bytes = tokenizer_bytes(t, id, &n);
		if (bytes != NULL)
			round_trip(t, bytes, n, true);
	}
	tokenizer_free(t);
	return 0;
}
