/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stop strings are looked for in the bytes, since their borders and those of tokens have nothing to do with each other. A token
 * can only complete one that begins less than its length before the token, so each token's bytes are looked at
 * once. What might yet become a stop string at the end of the text is held back from clients.
 */
#include "text/ending.h"

#include <string.h>

#include "text/utf8.h"

void ending_start(struct ending *e, uint32_t n_given)
{
	e->text.length = 0;
	e->position = n_given;
	e->end = SIZE_MAX;
	e->eos = false;
}

void ending_done(struct ending *e)
{
	buf_done(&e->text);
}

/* The lowest place from `from` on where a whole stop string stands, or SIZE_MAX. */
static size_t find_stop(const struct buf *text, size_t from, const struct board_record *r)
{
	for (size_t at = from; at < text->length; at++)
		for (uint32_t i = 0; i < r->n_stops; i++) {
			size_t n = r->stop_length[i];
			if (n > 0 && n <= text->length - at && memcmp(text->data + at, r->stops[i], n) == 0)
				return at;
		}
	return SIZE_MAX;
}

/* Where the text's last bytes might begin a stop string that is not complete: the lowest such place, or the length. */
static size_t find_beginning(const struct buf *text, const struct board_record *r)
{
	size_t at = text->length > BOARD_STOP_BYTES ? text->length - BOARD_STOP_BYTES : 0;
	for (; at < text->length; at++)
		for (uint32_t i = 0; i < r->n_stops; i++) {
			size_t n = text->length - at;
			if (n < r->stop_length[i] && memcmp(text->data + at, r->stops[i], n) == 0)
				return at;
		}
	return at;
}

void ending_take(struct ending *e, const struct tokenizer *t, const struct board_record *r, int32_t id)
{
	e->position++;
	if (t == NULL)
		return;
	if (tokenizer_is_eos(t, id)) {
		e->eos |= !(r->flags & BOARD_IGNORE_EOS);
		return;
	}
	size_t length;
	const char *bytes = tokenizer_bytes(t, id, &length);
	if (bytes == NULL || tokenizer_kind(t, id) == WEIGHTS_TOKEN_CONTROL)
		return;
	size_t before = e->text.length;
	buf_add(&e->text, bytes, length);
	if (e->end == SIZE_MAX)
		e->end = find_stop(&e->text, before > BOARD_STOP_BYTES ? before - BOARD_STOP_BYTES : 0, r);
}

enum board_reason ending_reason(const struct ending *e, const struct board_record *r, uint32_t n_context)
{
	if (e->end != SIZE_MAX)
		return BOARD_STOP;
	if (e->eos)
		return BOARD_EOS;
	if (e->position >= r->n_end)
		return BOARD_LENGTH;
	if (e->position >= n_context)
		return BOARD_CONTEXT;
	return 0;
}

size_t ending_visible(const struct ending *e, const struct board_record *r, bool final)
{
	size_t end = e->end != SIZE_MAX ? e->end : e->text.length;
	if (final)
		return end;
	if (e->end == SIZE_MAX)
		end = find_beginning(&e->text, r);
	return utf8_whole(e->text.data, end);
}
