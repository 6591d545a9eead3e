/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text_bench TOKENIZER.JSON TEXT [REPETITIONS]: this tokenizer over a text file, on one thread, in
 * MB (10^6 bytes) a second: the whole file in one call, and a call a line. The best of the repetitions counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/support/blob.h"

static size_t encode(const struct tokenizer *t, const char *text, size_t length, bool lines)
{
	struct ids list = {0};
	size_t total = 0;
	for (size_t at = 0; at < length;) {
		const char *end = lines ? memchr(text + at, '\n', length - at) : NULL;
		size_t n = end ? (size_t)(end - text) + 1 - at : length - at;
		list.length = 0;
		if (tokenizer_encode(t, text + at, n, true, &list, NULL) < 0)
			exit(1);
		total += list.length;
		at += n;
	}
	ids_done(&list);
	return total;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: text_bench TOKENIZER.JSON TEXT [REPETITIONS]\n");
		return 2;
	}
	FILE *file = fopen(argv[2], "rb");
	if (file == NULL) {
		perror(argv[2]);
		return 1;
	}
	struct buf text = {0};
	size_t got;
	while ((got = fread(buf_reserve(&text, 1 << 16), 1, 1 << 16, file)) > 0)
		text.length += got;
	fclose(file);
	uint64_t start = clock_ns();
	struct tokenizer *t = blob_tokenizer(argv[1], WEIGHTS_PRE_NONE);
	printf("load (JSON included)  %8.1f ms\n", (double)(clock_ns() - start) / 1e6);
	int repetitions = argc > 3 ? atoi(argv[3]) : 5;
	for (int lines = 0; lines < 2; lines++) {
		uint64_t best = UINT64_MAX;
		size_t ids = 0;
		for (int i = 0; i < repetitions; i++) {
			start = clock_ns();
			ids = encode(t, text.data, text.length, lines);
			uint64_t took = clock_ns() - start;
			best = took < best ? took : best;
		}
		printf("%-20s  %8.1f MB/s, %zu ids\n", lines ? "a call a line" : "one call",
		       (double)text.length * 1e3 / (double)best, ids);
	}
	tokenizer_free(t);
	buf_done(&text);
	return 0;
}
