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

/* Bytes that are no ordinary token of their own: they may be left out where they stand, all others come back in order. */
static bool missing[256];

static void find_missing(const struct tokenizer *t)
{
	memset(missing, true, sizeof missing);
	for (int32_t id = 0; id < (int32_t)tokenizer_size(t); id++) {
		size_t n;
		const char *bytes = tokenizer_bytes(t, id, &n);
		if (n == 1 && tokenizer_kind(t, id) == WEIGHTS_TOKEN_NORMAL)
			missing[(uint8_t)bytes[0]] = false;
	}
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
				/* The nearest byte that fits: a special token may begin with one that is missing otherwise. */
				while (at < length && text[at] != bytes[j] && missing[(uint8_t)text[at]])
					at++;
				CHECK(at < length && text[at] == bytes[j]);
			}
		}
		for (; at < length; at++)
			CHECK(missing[(uint8_t)text[at]]);
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
	find_missing(t);
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
