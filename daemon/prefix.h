/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of full pages by what they hold: which page has the keys and values of this block of 32 tokens after those tokens.
 *
 * A block's key is a hash over the key of the block before it and its own ids; the first one's predecessor is a hash of the
 * owner. So equal keys mean equal texts from the first token on, of the same owner. The hash is XXH3 with 128 bits under a secret
 * that falcond draws at its start: nobody can make up a text that falls on another's. Nothing depends on the hash alone: an
 * entry also has its owner, and the ids are compared with those in the page's head, which the engine wrote when it had filled
 * the page. The index has at most one page a key.
 *
 * A page leaves the index when the arena uses it for something else (daemon/arena.h); until then it may be found even if no
 * session holds it any more.
 */
#ifndef FALCON_DAEMON_PREFIX_H
#define FALCON_DAEMON_PREFIX_H

#include "base/hash.h"
#include "daemon/arena.h"

enum { PREFIX_SECRET = 192 };

struct prefix_key { uint64_t low, high; };
struct prefix_entry;

struct prefix {
	struct arena *arena;
	uint8_t secret[PREFIX_SECRET];
	struct prefix_entry *entries; /* [arena->n_pages] */
	uint32_t *buckets;            /* [n_buckets] first page of a chain */
	uint32_t n_buckets;           /* a power of two */
};

/* The arena, which is initialised, tells the index of pages that it uses anew. */
void prefix_init(struct prefix *p, struct arena *arena);
void prefix_done(struct prefix *p);

/* What the first block of an owner's text follows, and the key of the block ids[32] after another. */
struct prefix_key prefix_root(const struct prefix *p, uint64_t owner);
struct prefix_key prefix_next(const struct prefix *p, struct prefix_key before, const int32_t *ids);

/* The page of a block: key is its own, made of ids. False if there is none. */
bool prefix_find(const struct prefix *p, uint64_t owner, struct prefix_key key, const int32_t *ids, uint32_t *ret_page);

/* A held, full page has this block. Nothing happens if the page or another one of the same block is there already. */
void prefix_put(struct prefix *p, uint64_t owner, struct prefix_key key, uint32_t page);

#endif
