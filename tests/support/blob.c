/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/blob.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* The character that stands for a byte in GPT-2's alphabet: itself if printable in Latin-1, else the next from U+0100 on. */
static void make_alphabet(int32_t ret_byte[0x144])
{
	for (int i = 0; i < 0x144; i++)
		ret_byte[i] = -1;
	int next = 0x100;
	for (int byte = 0; byte < 256; byte++) {
		bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
		ret_byte[printable ? byte : next++] = byte;
	}
}

/* Appends the bytes that text stands for; text with characters outside the alphabet stands for itself. */
static void add_bytes(struct buf *out, const char *text, const int32_t alphabet[0x144])
{
	size_t before = out->length;
	for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) {
		unsigned character = *s;
		if (character >= 0xc3 && character <= 0xc5 && (s[1] & 0xc0) == 0x80)
			character = (character & 0x1f) << 6 | (*++s & 0x3f);
		else if (character == 0xc2)
			character = *++s;
		if (character >= 0x144 || alphabet[character] < 0) {
			out->length = before;
			buf_add(out, text, strlen(text));
			return;
		}
		char byte = (char)alphabet[character];
		buf_add(out, &byte, 1);
	}
}

static void assemble(struct weights_tokenizer h, const uint32_t *start, const uint8_t *kind, const struct weights_merge *merges,
	const struct buf *bytes, struct buf *blob)
{
	static const char zero[4];
	h.n_bytes = (uint32_t)bytes->length;
	buf_add(blob, &h, sizeof h);
	buf_add(blob, start, sizeof *start * (h.n_tokens + 1));
	buf_add(blob, kind, h.n_tokens);
	buf_add(blob, zero, (4 - h.n_tokens % 4) % 4);
	buf_add(blob, merges, sizeof *merges * h.n_merges);
	buf_add(blob, bytes->data, bytes->length);
}

void blob_from_tokens(const struct weights_tokenizer *header, const char *const *tokens, const uint8_t *kinds,
	const struct weights_merge *merges, struct buf *ret_blob)
{
	struct buf bytes = {0};
	uint32_t *start = xcalloc(header->n_tokens + 1, sizeof *start);
	for (uint32_t i = 0; i < header->n_tokens; i++) {
		buf_add(&bytes, tokens[i], strlen(tokens[i]));
		start[i + 1] = (uint32_t)bytes.length;
	}
	assemble(*header, start, kinds, merges, &bytes, ret_blob);
	free(start);
	buf_done(&bytes);
}

static int32_t id_of(const json_t *vocab, const char *left, const char *right)
{
	struct buf text = {0};
	buf_printf(&text, "%s%s", left, right);
	const json_t *id = json_object_get(vocab, text.data);
	CHECK(id != NULL);
	buf_done(&text);
	return (int32_t)json_integer_value(id);
}

static struct weights_merge *read_merges(const json_t *vocab, const json_t *list)
{
	struct weights_merge *merges = xcalloc(json_array_size(list), sizeof *merges);
	size_t rank;
	json_t *merge;
	json_array_foreach(list, rank, merge) {
		char *left, *right;
		if (json_is_array(merge)) {
			left = xstrdup(json_string_value(json_array_get(merge, 0)));
			right = xstrdup(json_string_value(json_array_get(merge, 1)));
		} else {
			left = xstrdup(json_string_value(merge));
			char *space = strchr(left, ' ');
			CHECK(space != NULL);
			right = xstrdup(space + 1);
			*space = '\0';
		}
		merges[rank] = (struct weights_merge){id_of(vocab, left, ""), id_of(vocab, right, ""), id_of(vocab, left, right)};
		free(left);
		free(right);
	}
	return merges;
}

void blob_from_json(const char *path, enum weights_pre pre, uint32_t flags, struct buf *ret_blob)
{
	json_error_t error;
	json_t *root = json_load_file(path, 0, &error);
	if (root == NULL) {
		fprintf(stderr, "%s:%d: %s\n", path, error.line, error.text);
		abort();
	}
	json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
	json_t *added = json_object_get(root, "added_tokens"), *list = json_object_get(model, "merges"), *value;
	int32_t alphabet[0x144];
	make_alphabet(alphabet);
	size_t n = json_object_size(vocab), i; /* ids are 0 .. n - 1, and added tokens go on from there */
	json_array_foreach(added, i, value)
		if ((size_t)json_integer_value(json_object_get(value, "id")) >= n)
			n = (size_t)json_integer_value(json_object_get(value, "id")) + 1;
	const char **text = xcalloc(n, sizeof *text), *key;
	uint8_t *kind = xcalloc(n, sizeof *kind);
	json_object_foreach(vocab, key, value)
		text[json_integer_value(value)] = key;
	json_array_foreach(added, i, value) {
		int32_t id = (int32_t)json_integer_value(json_object_get(value, "id"));
		text[id] = json_string_value(json_object_get(value, "content"));
		kind[id] = json_is_true(json_object_get(value, "special")) ? WEIGHTS_TOKEN_CONTROL : WEIGHTS_TOKEN_ADDED;
	}
	struct buf bytes = {0};
	uint32_t *start = xcalloc(n + 1, sizeof *start);
	for (i = 0; i < n; i++) {
		if (kind[i] != WEIGHTS_TOKEN_NORMAL)
			buf_add(&bytes, text[i], strlen(text[i]));
		else
			add_bytes(&bytes, text[i], alphabet);
		start[i + 1] = (uint32_t)bytes.length;
	}
	struct weights_merge *merges = read_merges(vocab, list);
	struct weights_tokenizer h = {.pre = pre, .n_tokens = (uint32_t)n, .n_merges = (uint32_t)json_array_size(list), .flags = flags,
		.bos = -1, .n_eos = 1, .eos = {11}};
	assemble(h, start, kind, merges, &bytes, ret_blob);
	free(merges);
	free(start);
	buf_done(&bytes);
	free(text);
	free(kind);
	json_decref(root);
}

struct tokenizer *blob_tokenizer(const char *path, enum weights_pre pre, uint32_t flags)
{
	struct buf blob = {0};
	struct err e = {0};
	struct tokenizer *t = NULL;
	blob_from_json(path, pre, flags, &blob);
	if (tokenizer_new(blob.data, blob.length, &t, &e) < 0)
		fprintf(stderr, "%s: %s\n", path, e.what);
	CHECK(t != NULL);
	buf_done(&blob);
	return t;
}
