/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/schedule.h"

#include <stddef.h>

enum { PIECE = 32, LEAST = 32, LEAST_ALONE = 128 };

uint32_t schedule_prompt(const struct schedule *s, uint32_t chunk_ms, bool decoding)
{
	uint32_t least = decoding ? LEAST : LEAST_ALONE;
	if (s->token_ns == 0)
		return least;
	uint64_t fit = (uint64_t)chunk_ms * 1000000 / s->token_ns;
	return fit < least ? least : fit > UINT32_MAX ? UINT32_MAX : (uint32_t)fit;
}

/*
 * The item whose turn it is among those of one kind that still want tokens: of the first owner above `turn` (counted around),
 * the lowest rank. `open` says whether sessions without tokens so far may be chosen.
 */
static struct schedule_item *next_item(const struct schedule *s, struct schedule_item *items, uint32_t n, bool decode,
				       bool open)
{
	struct schedule_item *best = NULL;
	uint64_t best_distance = 0;
	for (struct schedule_item *i = items; i < items + n; i++) {
		if (i->decode != decode || i->n >= (decode ? 1 : i->ready) || (i->n == 0 && !open))
			continue;
		uint64_t distance = i->owner - s->turn - 1; /* modulo 2^64: the owner served last comes last */
		if (best == NULL || distance < best_distance || (distance == best_distance && i->rank < best->rank)) {
			best = i;
			best_distance = distance;
		}
	}
	return best;
}

/* Gives a piece at a time, owner after owner, until `tokens` are given. Returns how many sessions got their first. */
static uint32_t share(struct schedule *s, struct schedule_item *items, uint32_t n, bool decode, uint32_t spans,
		      uint32_t tokens)
{
	uint32_t opened = 0;
	while (tokens > 0) {
		struct schedule_item *i = next_item(s, items, n, decode, opened < spans);
		if (i == NULL)
			break;
		uint32_t piece = decode ? 1 : PIECE;
		if (piece > i->ready - i->n)
			piece = i->ready - i->n;
		if (piece > tokens)
			piece = tokens;
		opened += i->n == 0;
		i->n += piece;
		tokens -= piece;
		s->turn = i->owner;
	}
	return opened;
}

void schedule_share(struct schedule *s, struct schedule_item *items, uint32_t n_items, struct schedule_limits limits)
{
	uint32_t decoding = 0;
	for (uint32_t i = 0; i < n_items; i++) {
		items[i].n = 0;
		decoding += items[i].decode;
	}
	uint32_t room = limits.spans < limits.tokens ? limits.spans : limits.tokens;
	if (decoding < n_items)
		room -= room / 8; /* prompts get on even where more sessions generate than fit one step */
	if (decoding > room)
		decoding = share(s, items, n_items, true, room, room);
	else
		for (uint32_t i = 0; i < n_items; i++)
			items[i].n = items[i].decode;
	uint32_t left = limits.tokens - decoding;
	share(s, items, n_items, false, limits.spans - decoding, left < limits.prompt ? left : limits.prompt);
}

void schedule_measure(struct schedule *s, uint32_t prompt, uint32_t tokens, uint64_t ns)
{
	if (prompt < 16) /* the pass over the weights dominates: says nothing about another token of a prompt */
		return;
	uint64_t sample = ns / tokens + 1;
	s->token_ns = s->token_ns ? (3 * s->token_ns + sample) / 4 : sample;
}
