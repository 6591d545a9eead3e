/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prefix.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/mem.h"

static_assert(PREFIX_SECRET >= XXH3_SECRET_SIZE_MIN, "a secret of XXH3");

enum { NONE = UINT32_MAX };

struct prefix_entry {
	struct prefix_key key;
	uint64_t owner;
	uint32_t next; /* page of the same bucket */
	bool is_used;
};

static uint32_t *bucket(const struct prefix *p, struct prefix_key key)
{
	return &p->buckets[key.low & (p->n_buckets - 1)];
}

/* The arena's page holds something else from now on. */
static void lose(void *arg, uint32_t page)
{
	struct prefix *p = arg;
	CHECK(p->entries[page].is_used);
	uint32_t *at = bucket(p, p->entries[page].key);
	while (*at != page)
		at = &p->entries[*at].next;
	*at = p->entries[page].next;
	p->entries[page].is_used = false;
}

void prefix_init(struct prefix *p, struct arena *arena)
{
	*p = (struct prefix){.arena = arena, .n_buckets = 64};
	while (p->n_buckets < arena->n_pages)
		p->n_buckets *= 2;
	p->entries = xcalloc(arena->n_pages, sizeof *p->entries);
	p->buckets = xcalloc(p->n_buckets, sizeof *p->buckets);
	memset(p->buckets, 0xff, p->n_buckets * sizeof *p->buckets);
	CHECK(getrandom(p->secret, sizeof p->secret, 0) == sizeof p->secret);
	arena->lose = lose;
	arena->arg = p;
}

void prefix_done(struct prefix *p)
{
	free(p->entries);
	free(p->buckets);
	*p = (struct prefix){0};
}

static struct prefix_key hash(const struct prefix *p, const void *data, size_t size)
{
	XXH128_hash_t h = XXH3_128bits_withSecret(data, size, p->secret, sizeof p->secret);
	return (struct prefix_key){.low = h.low64, .high = h.high64};
}

struct prefix_key prefix_root(const struct prefix *p, uint64_t owner)
{
	return hash(p, &owner, sizeof owner);
}

struct prefix_key prefix_next(const struct prefix *p, struct prefix_key before, const int32_t *ids)
{
	struct { struct prefix_key before; int32_t ids[PAGE_TOKENS]; } block = {.before = before};
	memcpy(block.ids, ids, sizeof block.ids);
	return hash(p, &block, sizeof block);
}

static uint32_t page_of(const struct prefix *p, uint64_t owner, struct prefix_key key)
{
	uint32_t page = *bucket(p, key);
	for (; page != NONE; page = p->entries[page].next) {
		const struct prefix_entry *at = &p->entries[page];
		if (at->key.low == key.low && at->key.high == key.high && at->owner == owner)
			break;
	}
	return page;
}

bool prefix_find(const struct prefix *p, uint64_t owner, struct prefix_key key, const int32_t *ids, uint32_t *ret_page)
{
	struct pages_head head;
	uint32_t page = page_of(p, owner, key);
	if (page == NONE || !arena_read_head(p->arena, page, &head) || memcmp(head.ids, ids, sizeof head.ids) != 0)
		return false;
	*ret_page = page;
	return true;
}

void prefix_put(struct prefix *p, uint64_t owner, struct prefix_key key, uint32_t page)
{
	if (p->entries[page].is_used || page_of(p, owner, key) != NONE)
		return;
	uint32_t *first = bucket(p, key);
	p->entries[page] = (struct prefix_entry){.key = key, .owner = owner, .next = *first, .is_used = true};
	*first = page;
	arena_keep(p->arena, page);
}
