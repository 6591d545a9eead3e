/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPT-2's alphabet: the 188 bytes that print in Latin-1 (0x21 to 0x7e, 0xa1 to 0xac, 0xae to 0xff) stand for themselves, as
 * code points; the other 68, in ascending order, are U+0100 and up. So a code point below 0x144 names one byte or none.
 */
#include "pack/vocab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { ALPHABET = 0x144 };

/* How much of a text a message shows, for %.*s. */
static int shown(size_t length)
{
	return length > 64 ? 64 : (int)length;
}

static bool prints(unsigned byte)
{
	return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* byte[c] of code point c, -1 where the alphabet has none. */
static void fill_alphabet(int16_t byte[ALPHABET])
{
	unsigned next = 0x100;
	memset(byte, 0xff, ALPHABET * sizeof byte[0]);
	for (unsigned b = 0; b < 256; b++)
		byte[prints(b) ? b : next++] = (int16_t)b;
}

/* Appends the bytes that text stands for. A text with a character outside the alphabet is literal, as the reference has it. */
static void add_bytes(struct buf *b, const char *text, uint32_t length, const int16_t byte[ALPHABET])
{
	size_t start = b->length;
	char *out = buf_reserve(b, length);
	uint32_t n = 0;
	for (uint32_t i = 0; i < length; i++) {
		unsigned c = (uint8_t)text[i];
		if (c >= 0xc2 && c <= 0xc5 && i + 1 < length && ((uint8_t)text[i + 1] & 0xc0) == 0x80)
			c = (c & 0x1f) << 6 | ((uint8_t)text[++i] & 0x3f);
		else if (c >= 0x80)
			c = ALPHABET;
		if (c >= ALPHABET || byte[c] < 0) {
			b->length = start;
			buf_add(b, text, length);
			return;
		}
		out[n++] = (char)byte[c];
	}
	b->length += n;
}

void vocab_init(struct vocab *v, uint32_t n)
{
	CHECK(n <= VOCAB_TOKENS);
	*v = (struct vocab){.head = {.bos = -1}, .n_tokens = n};
	v->tokens = xcalloc(n, sizeof *v->tokens);
}

void vocab_done(struct vocab *v)
{
	free(v->tokens);
	free(v->merges);
	names_done(&v->index);
	*v = (struct vocab){0};
}

int vocab_set(struct vocab *v, uint64_t id, const char *text, size_t length, enum weights_token_kind kind, struct err *e)
{
	if (id >= v->n_tokens)
		return err_set(e, -EINVAL, "token '%.*s' has id %llu, beyond the vocabulary of %u", shown(length), text,
			       (unsigned long long)id, v->n_tokens);
	if (length > VOCAB_TEXT)
		return err_set(e, -EINVAL, "the text of token %llu has %zu bytes, expected at most %d", (unsigned long long)id,
			       length, VOCAB_TEXT);
	struct vocab_token *t = &v->tokens[id];
	if (t->text != NULL)
		return err_set(e, -EINVAL, "token %llu is there twice: '%.*s' and '%.*s'", (unsigned long long)id,
			       shown(t->length), t->text, shown(length), text);
	if (names_add(&v->index, text, length, (uint32_t)id) < 0)
		return err_set(e, -EINVAL, "tokens %u and %llu have the same text '%.*s'", names_find(&v->index, text, length),
			       (unsigned long long)id, shown(length), text);
	*t = (struct vocab_token){text, (uint32_t)length, (uint8_t)kind};
	return 0;
}

void vocab_reserve_merges(struct vocab *v, uint32_t n)
{
	v->merges = xreallocarray(v->merges, (size_t)v->n_merges + n, sizeof *v->merges);
}

int vocab_merge(struct vocab *v, const char *left, size_t left_length, const char *right, size_t right_length, struct err *e)
{
	char joined[512];
	uint32_t a = names_find(&v->index, left, left_length), b = names_find(&v->index, right, right_length), c = NAMES_NONE;
	if (left_length <= sizeof joined && right_length <= sizeof joined - left_length) {
		memcpy(joined, left, left_length);
		memcpy(joined + left_length, right, right_length);
		c = names_find(&v->index, joined, left_length + right_length);
	}
	if (a == NAMES_NONE || b == NAMES_NONE || c == NAMES_NONE)
		return err_set(e, -EINVAL, "merge %u, '%.*s' with '%.*s', names a token that the vocabulary does not have",
			       v->n_merges, shown(left_length), left, shown(right_length), right);
	v->merges[v->n_merges++] = (struct weights_merge){(int32_t)a, (int32_t)b, (int32_t)c};
	return 0;
}

int vocab_merge_line(struct vocab *v, const char *line, size_t length, struct err *e)
{
	const char *space = memchr(line, ' ', length);
	if (space == NULL || memchr(space + 1, ' ', length - (size_t)(space + 1 - line)) != NULL)
		return err_set(e, -EINVAL, "merge %u, '%.*s', is not two tokens and a space", v->n_merges, shown(length),
			       line);
	size_t left = (size_t)(space - line);
	return vocab_merge(v, line, left, space + 1, length - left - 1, e);
}

int vocab_add_eos(struct vocab *v, const char *key, int64_t id, struct err *e)
{
	if (id < 0 || id >= v->n_tokens)
		return err_set(e, -EINVAL, "%s %lld is not a token of the vocabulary of %u", key, (long long)id, v->n_tokens);
	for (uint32_t i = 0; i < v->head.n_eos; i++)
		if (v->head.eos[i] == id)
			return 0;
	if (v->head.n_eos == 8)
		return err_set(e, -EINVAL, "%s: more than 8 end-of-text tokens", key);
	v->head.eos[v->head.n_eos++] = (int32_t)id;
	return 0;
}

int vocab_set_bos(struct vocab *v, const char *key, int64_t id, struct err *e)
{
	if (id < 0 || id >= v->n_tokens)
		return err_set(e, -EINVAL, "%s %lld is not a token of the vocabulary of %u", key, (long long)id, v->n_tokens);
	v->head.bos = (int32_t)id;
	return 0;
}

/*
 * A pair that is there twice would have two ranks. And a merge has to join bytes, not only characters: literal tokens have
 * their text for bytes.
 */
static int check_merges(const struct vocab *v, const uint32_t *start, const char *bytes, struct err *e)
{
	struct names seen = {0};
	int r = 0;
	for (uint32_t i = 0; i < v->n_merges && r == 0; i++) {
		const struct weights_merge *m = &v->merges[i];
		const char *pair = (const char *)&m->left, *joined = bytes + start[m->result];
		uint32_t left = start[m->left + 1] - start[m->left], right = start[m->right + 1] - start[m->right];
		if (names_add(&seen, pair, 8, i) < 0)
			r = err_set(e, -EINVAL, "merges %u and %u are the same", names_find(&seen, pair, 8), i);
		else if (start[m->result + 1] - start[m->result] != left + right ||
			 memcmp(joined, bytes + start[m->left], left) != 0 ||
			 memcmp(joined + left, bytes + start[m->right], right) != 0)
			r = err_set(e, -EINVAL, "merge %u does not join the bytes of tokens %d and %d", i, m->left, m->right);
	}
	names_done(&seen);
	return r;
}

int vocab_blob(struct vocab *v, struct buf *ret_blob, struct err *e)
{
	int16_t byte[ALPHABET];
	uint32_t n = v->n_tokens, *start = xcalloc((size_t)n + 1, sizeof *start);
	uint8_t *kind = xcalloc(((size_t)n + 3) / 4 * 4, 1);
	struct buf bytes = {0};
	int r = 0;
	fill_alphabet(byte);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		const struct vocab_token *t = &v->tokens[i];
		kind[i] = t->text == NULL ? WEIGHTS_TOKEN_UNUSED : t->kind;
		if (t->text != NULL && (t->kind == WEIGHTS_TOKEN_CONTROL || t->kind == WEIGHTS_TOKEN_ADDED))
			buf_add(&bytes, t->text, t->length);
		else if (t->text != NULL)
			add_bytes(&bytes, t->text, t->length, byte);
		start[i + 1] = (uint32_t)bytes.length;
		if (bytes.length > UINT32_MAX / 2)
			r = err_set(e, -EINVAL, "the vocabulary's text is larger than 2 GiB");
	}
	if (r == 0)
		r = check_merges(v, start, bytes.data != NULL ? bytes.data : "", e);
	if (r == 0) {
		v->head.n_tokens = n;
		v->head.n_merges = v->n_merges;
		v->head.n_bytes = (uint32_t)bytes.length;
		buf_add(ret_blob, &v->head, sizeof v->head);
		buf_add(ret_blob, start, ((size_t)n + 1) * sizeof *start);
		buf_add(ret_blob, kind, ((size_t)n + 3) / 4 * 4);
		buf_add(ret_blob, v->merges, v->n_merges * sizeof *v->merges);
		buf_add(ret_blob, bytes.data, bytes.length);
	}
	buf_done(&bytes);
	free(kind);
	free(start);
	return r;
}

void vocab_blob_none(struct buf *ret_blob)
{
	struct weights_tokenizer none = {.pre = WEIGHTS_PRE_NONE};
	buf_add(ret_blob, &none, sizeof none);
}
