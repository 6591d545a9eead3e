/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From text to ids in three steps: tokens that are matched as a whole (control and added ones) cut the text first, the
 * pre-split (split.c) cuts what is between them into pieces, and merging (bpe.c) makes ids of a piece's bytes.
 *
 * Most pieces of ordinary text are one token. When such a piece first comes, it is found out whether merging its bytes leads to
 * that token, and from then on it costs one look-up and no merging. To find it out for all tokens at load would take most of the
 * time in which falcond and an engine start. Whoever finds it out writes the same byte, so no lock is needed.
 *
 * The bytes of a merge's result are checked to be those of its two halves, so that whatever the tables say, the ids of a
 * text detokenize to the text. Invalid UTF-8 is legal: each byte that belongs to no character is a piece of its own.
 */
#include "text/tokenizer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hash.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/utf8.h"

#define TOKENIZER_MAGIC 0x544f4b4eu

/* Whether a piece with a token's bytes becomes this token. */
enum one_piece { ONE_PIECE_UNKNOWN, ONE_PIECE_YES, ONE_PIECE_NO };

/* A token that is matched as a whole in front of the pre-split. */
struct special {
	const char *text;
	uint32_t length;
	int32_t id;
	int32_t shorter; /* index of the longest other one that this one begins with, or -1 */
};

struct tokenizer {
	uint32_t magic;
	struct weights_tokenizer header;
	uint32_t *start; /* [n_tokens + 1] into bytes */
	uint8_t *kind;   /* [n_tokens] enum weights_token_kind */
	char *bytes;
	_Atomic uint8_t *one_piece; /* [n_tokens] enum one_piece, or NULL: for words alone */
	int32_t byte_id[256]; /* -1: no token has just this byte */

	struct slot { uint32_t tag; int32_t id; } *slots; /* hash table of all tokens by their bytes; id -1: empty */
	uint32_t mask;

	struct special *special; /* [n_special] in order of their bytes */
	size_t n_special;
	bool first[256]; /* a special token begins with this byte */

	struct bpe bpe;
	struct split split;
};

/* The slot of the token with these bytes, or the empty one where it would be. */
static struct slot *lookup(const struct tokenizer *t, const char *bytes, size_t length, uint32_t *ret_tag)
{
	uint64_t hash = hash64(bytes, length);
	*ret_tag = (uint32_t)(hash >> 32);
	for (uint32_t i = (uint32_t)hash & t->mask;; i = (i + 1) & t->mask) {
		struct slot *s = &t->slots[i];
		if (s->id < 0)
			return s;
		uint32_t from = t->start[s->id];
		if (s->tag == *ret_tag && t->start[s->id + 1] - from == length && memcmp(t->bytes + from, bytes, length) == 0)
			return s;
	}
}

static int32_t find(const struct tokenizer *t, const char *bytes, size_t length)
{
	uint32_t tag;
	return lookup(t, bytes, length, &tag)->id;
}

/* Checks the tables of a blob and copies the tokens. *ret_merges is where the blob has the merges. */
static int read_tables(struct tokenizer *t, const uint8_t *blob, size_t size, const uint8_t **ret_merges, struct err *e)
{
	struct weights_tokenizer *h = &t->header;
	if (size < sizeof *h)
		return err_set(e, -EINVAL, "tokenizer: %zu bytes are no tables", size);
	memcpy(h, blob, sizeof *h);
	if (h->pre == WEIGHTS_PRE_NONE)
		return err_set(e, -EINVAL, "tokenizer: the model has none");
	uint64_t kinds = ((uint64_t)h->n_tokens + 3) / 4 * 4, starts = 4 * ((uint64_t)h->n_tokens + 1);
	uint64_t merges = sizeof(struct weights_merge) * (uint64_t)h->n_merges;
	if (sizeof *h + starts + kinds + merges + h->n_bytes != size || h->n_tokens > INT32_MAX / 4)
		return err_set(e, -EINVAL, "tokenizer: the tables do not add up to their %zu bytes", size);
	if (h->n_eos > 8 || h->bos < -1 || h->bos >= (int32_t)h->n_tokens)
		return err_set(e, -EINVAL, "tokenizer: the header is out of range");
	blob += sizeof *h;
	t->start = xmalloc(starts);
	memcpy(t->start, blob, starts);
	t->kind = xmalloc(h->n_tokens);
	memcpy(t->kind, blob + starts, h->n_tokens);
	t->bytes = xmalloc(h->n_bytes);
	memcpy(t->bytes, blob + starts + kinds + merges, h->n_bytes);
	for (uint32_t i = 0; i < h->n_tokens; i++)
		if (t->start[i] > t->start[i + 1] || t->kind[i] > WEIGHTS_TOKEN_UNUSED)
			return err_set(e, -EINVAL, "tokenizer: token %u is out of bounds", i);
	for (uint32_t i = 0; i < h->n_eos; i++)
		if (h->eos[i] < 0 || h->eos[i] >= (int32_t)h->n_tokens)
			return err_set(e, -EINVAL, "tokenizer: end-of-text token %d is out of range", h->eos[i]);
	if (t->start[0] != 0 || t->start[h->n_tokens] != h->n_bytes)
		return err_set(e, -EINVAL, "tokenizer: the tokens' text does not fill its table");
	*ret_merges = blob + starts + kinds;
	return 0;
}

/* Whether the merge names tokens that are there, and its result is the one half and then the other. */
static bool is_pair(const struct tokenizer *t, const struct weights_merge *m)
{
	uint32_t n = t->header.n_tokens;
	if ((uint32_t)m->left >= n || (uint32_t)m->right >= n || (uint32_t)m->result >= n)
		return false;
	const uint32_t *s = t->start;
	uint32_t left = s[m->left + 1] - s[m->left], right = s[m->right + 1] - s[m->right];
	const char *result = t->bytes + s[m->result];
	return s[m->result + 1] - s[m->result] == left + right && memcmp(result, t->bytes + s[m->left], left) == 0 &&
	       memcmp(result + left, t->bytes + s[m->right], right) == 0;
}

/* Puts tokens of one sort (special or not) into the table; of equal ones the first stays. */
static void index_tokens(struct tokenizer *t, bool special)
{
	for (int32_t id = 0; id < (int32_t)t->header.n_tokens; id++) {
		if ((t->kind[id] == WEIGHTS_TOKEN_CONTROL || t->kind[id] == WEIGHTS_TOKEN_ADDED) != special)
			continue;
		uint32_t tag, length = t->start[id + 1] - t->start[id];
		struct slot *s = lookup(t, t->bytes + t->start[id], length, &tag);
		if (s->id < 0)
			*s = (struct slot){tag, id};
		if (length == 1 && t->kind[id] == WEIGHTS_TOKEN_NORMAL && t->byte_id[(uint8_t)t->bytes[t->start[id]]] < 0)
			t->byte_id[(uint8_t)t->bytes[t->start[id]]] = id;
	}
}

static void make_index(struct tokenizer *t)
{
	uint32_t size = 16;
	while (size < 2 * t->header.n_tokens)
		size *= 2;
	t->mask = size - 1;
	t->slots = xmalloc(size * sizeof *t->slots);
	for (uint32_t i = 0; i < size; i++)
		t->slots[i] = (struct slot){.id = -1};
	for (int i = 0; i < 256; i++)
		t->byte_id[i] = -1;
	index_tokens(t, true);
	index_tokens(t, false);
}

static bool begins_with(const struct special *a, const struct special *b)
{
	return a->length >= b->length && memcmp(a->text, b->text, b->length) == 0;
}

static int compare_special(const void *left, const void *right)
{
	const struct special *a = left, *b = right;
	int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
	return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

static void make_special(struct tokenizer *t)
{
	for (int32_t id = 0; id < (int32_t)t->header.n_tokens; id++) {
		uint32_t length = t->start[id + 1] - t->start[id];
		if (length == 0 || (t->kind[id] != WEIGHTS_TOKEN_CONTROL && t->kind[id] != WEIGHTS_TOKEN_ADDED))
			continue;
		if ((t->n_special & (t->n_special - 1)) == 0) /* full, or empty: room for twice as many */
			t->special = xreallocarray(t->special, t->n_special ? 2 * t->n_special : 1, sizeof *t->special);
		t->special[t->n_special++] = (struct special){t->bytes + t->start[id], length, id, -1};
		t->first[(uint8_t)t->bytes[t->start[id]]] = true;
	}
	if (t->n_special > 0)
		qsort(t->special, t->n_special, sizeof *t->special, compare_special);
	/* In this order whatever a token begins with is the one before it, or what that begins with, and so on. */
	for (size_t i = 1; i < t->n_special; i++) {
		int32_t j = (int32_t)i - 1;
		while (j >= 0 && !begins_with(&t->special[i], &t->special[j]))
			j = t->special[j].shorter;
		t->special[i].shorter = j;
	}
}

/* Appends what merging makes of these bytes. A byte that the vocabulary lacks is left out, as if it were not there. */
static void merge_bytes(const struct tokenizer *t, const char *bytes, size_t length, struct ids *list)
{
	size_t from = list->length;
	for (size_t i = 0; i < length; i++)
		if (t->byte_id[(uint8_t)bytes[i]] >= 0)
			ids_add(list, t->byte_id[(uint8_t)bytes[i]]);
	if (list->length > from)
		list->length = from + bpe_merge(&t->bpe, list->data + from, list->length - from);
}

/* What is known without merging. */
static void make_one_piece(struct tokenizer *t)
{
	uint8_t normal = t->header.flags & WEIGHTS_IGNORE_MERGES ? ONE_PIECE_YES : ONE_PIECE_UNKNOWN;
	t->one_piece = xcalloc(t->header.n_tokens, sizeof *t->one_piece);
	for (uint32_t id = 0; id < t->header.n_tokens; id++)
		atomic_init(&t->one_piece[id], t->kind[id] == WEIGHTS_TOKEN_NORMAL ? normal : ONE_PIECE_NO);
}

static int read_merges(struct tokenizer *t, const struct weights_merge *merges, struct err *e)
{
	for (uint32_t i = 0; i < t->header.n_merges; i++)
		if (!is_pair(t, &merges[i]))
			return err_set(e, -EINVAL, "tokenizer: merge %u does not make what its halves are", i);
	bpe_init(&t->bpe, merges, t->header.n_merges);
	return 0;
}

/* What is needed to make ids of text. */
static int prepare_encoding(struct tokenizer *t, const uint8_t *merges, struct err *e)
{
	size_t bytes = sizeof(struct weights_merge) * (size_t)t->header.n_merges;
	struct weights_merge *copy = xmalloc(bytes); /* the blob may be aligned to nothing */
	memcpy(copy, merges, bytes);
	int r = read_merges(t, copy, e);
	free(copy);
	if (r < 0 || (r = split_init(&t->split, t->header.pre, e)) < 0)
		return r;
	make_index(t);
	make_special(t);
	make_one_piece(t);
	return 0;
}

static int new_tokenizer(const void *blob, size_t size, bool words, struct tokenizer **ret, struct err *e)
{
	struct tokenizer *t = xcalloc(1, sizeof *t);
	t->magic = TOKENIZER_MAGIC;
	const uint8_t *merges;
	int r = read_tables(t, blob, size, &merges, e);
	if (r == 0 && !words)
		r = prepare_encoding(t, merges, e);
	if (r < 0) {
		tokenizer_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

int tokenizer_new(const void *blob, size_t size, struct tokenizer **ret, struct err *e)
{
	return new_tokenizer(blob, size, false, ret, e);
}

int tokenizer_new_words(const void *blob, size_t size, struct tokenizer **ret, struct err *e)
{
	return new_tokenizer(blob, size, true, ret, e);
}

void tokenizer_free(struct tokenizer *t)
{
	if (t == NULL)
		return;
	CHECK_OBJ(t, TOKENIZER_MAGIC);
	split_done(&t->split);
	bpe_done(&t->bpe);
	free(t->special);
	free(t->slots);
	free((void *)t->one_piece);
	free(t->bytes);
	free(t->kind);
	free(t->start);
	t->magic = 0;
	free(t);
}

/* What one call of tokenizer_encode works with. */
struct encoding {
	const struct tokenizer *t;
	pcre2_match_data *match;
	struct ids *list;
	struct err *e;
};

static int encode_piece(void *context, const char *piece, size_t length)
{
	struct encoding *c = context;
	const struct tokenizer *t = c->t;
	int32_t id = find(t, piece, length);
	uint8_t known = id < 0 ? ONE_PIECE_NO : atomic_load_explicit(&t->one_piece[id], memory_order_relaxed);
	if (known == ONE_PIECE_YES) {
		ids_add(c->list, id);
		return 0;
	}
	size_t from = c->list->length;
	merge_bytes(t, piece, length, c->list);
	if (known == ONE_PIECE_UNKNOWN) {
		bool whole = c->list->length == from + 1 && c->list->data[from] == id;
		atomic_store_explicit(&t->one_piece[id], whole ? ONE_PIECE_YES : ONE_PIECE_NO, memory_order_relaxed);
	}
	return 0;
}

/* Text without special tokens: stretches of valid UTF-8 are split, each byte between them is a piece. */
static int encode_plain(struct encoding *c, const char *text, size_t length)
{
	int r = 0;
	while (r == 0 && length > 0) {
		size_t n = utf8_prefix(text, length);
		if (n > 0)
			r = split_text(&c->t->split, c->match, text, n, encode_piece, c);
		else
			r = encode_piece(c, text, n = 1);
		if (r == -E2BIG)
			r = err_set(c->e, -EINVAL, "tokenizer: a run of one kind of characters is too long to be matched");
		text += n;
		length -= n;
	}
	return r;
}

/* The longest special token that text begins with, or NULL. `control`: control tokens count too. */
static const struct special *special_at(const struct tokenizer *t, const char *text, size_t length, bool control)
{
	struct special whole = {.text = text, .length = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX};
	size_t low = 0, high = t->n_special; /* those below low are not behind text in order */
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (compare_special(&t->special[middle], &whole) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (int32_t i = (int32_t)low - 1; i >= 0; i = t->special[i].shorter) {
		const struct special *s = &t->special[i];
		if (begins_with(&whole, s) && (control || t->kind[s->id] == WEIGHTS_TOKEN_ADDED))
			return s;
	}
	return NULL;
}

static int encode(struct encoding *c, const char *text, size_t length, bool special)
{
	size_t plain = 0, at = 0; /* [plain, at) is yet to be encoded */
	while (at < length) {
		const struct special *s = NULL;
		if (c->t->first[(uint8_t)text[at]])
			s = special_at(c->t, text + at, length - at, special);
		if (s == NULL) {
			at++;
			continue;
		}
		int r = encode_plain(c, text + plain, at - plain);
		if (r < 0)
			return r;
		ids_add(c->list, s->id);
		plain = at += s->length;
	}
	return encode_plain(c, text + plain, length - plain);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, bool special, struct ids *list, struct err *e)
{
	CHECK_OBJ(t, TOKENIZER_MAGIC);
	CHECK(t->one_piece != NULL);
	if (length > INT32_MAX)
		return err_set(e, -EINVAL, "tokenizer: %zu bytes are too many for one text", length);
	struct encoding c = {.t = t,
		.match = pcre2_match_data_create(1, NULL), .list = list, .e = e};
	CHECK(c.match != NULL);
	size_t before = list->length;
	int r = encode(&c, text, length, special);
	if (r < 0)
		list->length = before;
	pcre2_match_data_free(c.match);
	return r;
}

static bool has(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->header.n_tokens;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *ret_length)
{
	if (!has(t, id))
		return NULL;
	*ret_length = t->start[id + 1] - t->start[id];
	return t->bytes + t->start[id];
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t length)
{
	CHECK(t->slots != NULL);
	return find(t, text, length);
}

enum weights_token_kind tokenizer_kind(const struct tokenizer *t, int32_t id)
{
	return has(t, id) ? (enum weights_token_kind)t->kind[id] : WEIGHTS_TOKEN_UNUSED;
}

uint32_t tokenizer_size(const struct tokenizer *t)
{
	return t->header.n_tokens;
}

bool tokenizer_is_eos(const struct tokenizer *t, int32_t id)
{
	for (uint32_t i = 0; i < t->header.n_eos; i++)
		if (t->header.eos[i] == id)
			return true;
	return false;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->header.flags & WEIGHTS_ADD_BOS ? t->header.bos : -1;
}
