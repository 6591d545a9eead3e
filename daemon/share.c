/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/share.h"

#include <string.h>

#include "base/check.h"
#include "base/hooks.h"

/* Full pages before the last of n tokens. */
static uint32_t full_pages(uint32_t n_tokens)
{
	return n_tokens > 0 ? (n_tokens - 1) / PAGE_TOKENS : 0;
}

/* Whether others may wait for what it computes. */
static bool leads(const struct session *s)
{
	return s->state == SESSION_RUNNING && s->published && !s->cancelling && !s->releasing && !s->dropped &&
	       !(s->flags & BOARD_SCORE);
}

/* Full pages that two texts have in common, `most` at most. */
static uint32_t common_pages(const int32_t *a, const int32_t *b, uint32_t most)
{
	uint32_t n = 0;
	while (n < most && memcmp(a + n * PAGE_TOKENS, b + n * PAGE_TOKENS, PAGE_TOKENS * sizeof *a) == 0)
		n++;
	return n;
}

/* The leader that will have most of the text, and more than there is. */
static void find_leader(const struct sessions *t, const struct owner *o, enum board_priority priority, const int32_t *ids,
			uint32_t n_tokens, struct share *h)
{
	const struct session *at;
	uint32_t most = h->n_pages, full = full_pages(n_tokens);
	TAILQ_FOREACH (at, &t->active, active) {
		uint32_t its = at->n_tokens / PAGE_TOKENS;
		if (at->owner != o || !leads(at) || its <= most || board_record(&t->board, at->slot)->priority > (uint32_t)priority)
			continue;
		uint32_t n = common_pages(ids, board_log(&t->board, at->slot), its < full ? its : full);
		if (n <= most || at->n_kv >= n * PAGE_TOKENS)
			continue;
		h->leader = at;
		h->n_coming = most = n;
	}
}

struct share share_find(const struct sessions *t, const struct owner *o, enum board_priority priority, const int32_t *ids,
			uint32_t n_tokens)
{
	struct share h = {0};
	const struct prefix *p = &t->prefix;
	struct prefix_key key = prefix_root(p, o->id);
	for (uint32_t full = full_pages(n_tokens), page; h.n_pages < full; h.n_pages++) {
		const int32_t *block = ids + h.n_pages * PAGE_TOKENS;
		key = prefix_next(p, key, block);
		if (!prefix_find(p, o->id, key, block, &page))
			break;
		h.n_live += arena_held(t->arena, page);
	}
	find_leader(t, o, priority, ids, n_tokens, &h);
	return h;
}

void share_take(struct sessions *t, struct session *s, uint32_t n_pages)
{
	const struct prefix *p = &t->prefix;
	const int32_t *log = board_log(&t->board, s->slot);
	struct prefix_key key = prefix_root(p, s->owner->id);
	CHECK(s->n_pages == 0 && s->n_kv == 0);
	for (uint32_t page; s->n_pages < n_pages; *board_page(&t->board, s->slot, s->n_pages++) = page) {
		const int32_t *block = log + s->n_pages * PAGE_TOKENS;
		key = prefix_next(p, key, block);
		if (!prefix_find(p, s->owner->id, key, block, &page))
			break;
		arena_share(t->arena, page);
	}
	s->n_kv = s->n_pages * PAGE_TOKENS;
	s->n_shared = s->n_pages;
	s->chain = key;
	stopping_place("falcond.prefix.table");
	atomic_store_explicit(&t->board.words[s->slot].n_pages, s->n_pages, memory_order_release);
	stopping_place("falcond.prefix.pages");
}

/* The next page of the session is in the index; s->chain is its key. */
static void put_next(struct sessions *t, struct session *s)
{
	const int32_t *log = board_log(&t->board, s->slot);
	if (s->n_shared == 0)
		s->chain = prefix_root(&t->prefix, s->owner->id);
	s->chain = prefix_next(&t->prefix, s->chain, log + s->n_shared * PAGE_TOKENS);
	uint32_t page = *board_page(&t->board, s->slot, s->n_shared++);
	if (arena_held(t->arena, page))
		prefix_put(&t->prefix, s->owner->id, s->chain, page);
}

void share_add(struct sessions *t, struct session *s)
{
	uint32_t full = s->n_kv / PAGE_TOKENS;
	if (s->flags & BOARD_SCORE)
		return;
	while (s->n_shared < full && s->n_shared < s->n_pages)
		put_next(t, s);
}

void share_restored(struct sessions *t, struct session *s)
{
	const int32_t *log = board_log(&t->board, s->slot);
	for (uint32_t i = s->n_shared; i < s->n_kv / PAGE_TOKENS && i < s->n_pages; i++) {
		uint32_t page = *board_page(&t->board, s->slot, i);
		if (arena_held(t->arena, page))
			arena_write_head(t->arena, page, (const struct pages_head *)(const void *)(log + i * PAGE_TOKENS));
	}
	share_add(t, s);
}

void share_follow(struct session *s, const struct share *h)
{
	s->leader = h->leader->slot;
	s->leader_run = h->leader->run;
	s->n_coming = h->n_coming;
}

bool share_waits(const struct sessions *t, const struct session *s)
{
	const struct session *leader = t->slots[s->leader];
	return leader != NULL && leader->run == s->leader_run && leads(leader) && leader->n_kv < s->n_coming * PAGE_TOKENS;
}
