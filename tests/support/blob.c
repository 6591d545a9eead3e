/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/blob.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "pack/tokenizer_json.h"

void blob_from_tokens(const struct weights_tokenizer *header, const char *const *tokens, const uint8_t *kinds,
	const struct weights_merge *merges, struct buf *ret_blob)
{
	static const char zero[4];
	struct weights_tokenizer h = *header;
	struct buf bytes = {0};
	uint32_t *start = xcalloc(h.n_tokens + 1, sizeof *start);
	for (uint32_t i = 0; i < h.n_tokens; i++) {
		buf_add(&bytes, tokens[i], strlen(tokens[i]));
		start[i + 1] = (uint32_t)bytes.length;
	}
	h.n_bytes = (uint32_t)bytes.length;
	buf_add(ret_blob, &h, sizeof h);
	buf_add(ret_blob, start, sizeof *start * (h.n_tokens + 1));
	buf_add(ret_blob, kinds, h.n_tokens);
	buf_add(ret_blob, zero, (4 - h.n_tokens % 4) % 4);
	buf_add(ret_blob, merges, sizeof *merges * h.n_merges);
	buf_add(ret_blob, bytes.data, bytes.length);
	free(start);
	buf_done(&bytes);
}

static void read_file(const char *path, struct buf *ret_content)
{
	FILE *file = fopen(path, "rb");
	if (file == NULL) {
		perror(path);
		exit(1);
	}
	size_t got;
	while ((got = fread(buf_reserve(ret_content, 1 << 16), 1, 1 << 16, file)) > 0)
		ret_content->length += got;
	fclose(file);
}

struct tokenizer *blob_tokenizer(const char *path, enum weights_pre pre)
{
	struct buf json = {0}, blob = {0};
	struct err e = {0};
	struct tokenizer *t = NULL;
	read_file(path, &json);
	int r = tokenizer_json_blob(json.data, json.length, &blob, &e);
	if (r == 0 && pre != WEIGHTS_PRE_NONE) {
		uint32_t number = pre;
		memcpy(blob.data + offsetof(struct weights_tokenizer, pre), &number, sizeof number);
	}
	if (r == 0)
		r = tokenizer_new(blob.data, blob.length, &t, &e);
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", path, e.what);
		exit(1);
	}
	buf_done(&json);
	buf_done(&blob);
	return t;
}
