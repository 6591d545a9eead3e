/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arena of key/value pages as falcond sees it: who holds how many references to which page is its private memory; the
 * pages themselves it never maps. A page that is free, or taken from those that were kept, is punched out, so the next holder
 * finds zeros.
 *
 * A page whose content is worth keeping stays as it is when nobody holds it, among the free ones: it may be held again for what it
 * has (daemon/prefix.h), until it is taken for something else. Pages without content are taken first, then the one that was let
 * go of longest ago. So what is kept never takes room from anyone.
 *
 * Files of a tmpfs may be full where the arena is not: then (`reserves`) a page is taken with its memory, and those for which there is
 * none are not free until others have given theirs back.
 *
 * A page that a thread reads or writes for a file (daemon/spill.h) is pinned: when its last holder lets go it is held back until
 * the thread is done.
 */
#ifndef FALCON_DAEMON_ARENA_H
#define FALCON_DAEMON_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "shm/pages.h"

struct arena_link { uint32_t before, after; };

struct arena {
	int fd; /* the pages segment, the caller's */
	uint64_t heads_offset, payload_offset, stride;
	uint32_t n_pages;
	uint32_t n_free; /* pages that can be taken: without content, and kept ones */
	uint32_t n_kept; /* of these, with content */
	uint32_t n_shared; /* pages that more than one table holds */
	uint32_t n_held; /* pages that nobody holds and that are not free, because they are pinned */
	bool reserves; /* memory is taken with the page */
	uint32_t n_short; /* pages that would be free, if there was memory for them */
	uint32_t *free; /* [n_short + n_free - n_kept] stack of page numbers, those that are short of memory at the bottom */
	uint32_t *refs; /* [n_pages] page tables that hold the page; 0: free */
	uint32_t *pins; /* [n_pages] threads that read or write it */
	struct arena_link *links; /* [n_pages + 1] the kept pages as a ring, the last link is its head: longest let go of first */
	bool *keep; /* [n_pages] its content is worth keeping */
	void (*lose)(void *arg, uint32_t page); /* a page that was worth keeping is used for something else */
	void *arg;
};

void arena_init(struct arena *a, int fd, const struct pages_header *h);
void arena_done(struct arena *a);

/* Of a segment with pages in use: refs[n_pages] says by how many tables. What nobody holds is punched out. */
void arena_adopt(struct arena *a, const uint32_t *refs);

/* Takes a free page, with one reference. False if there is none. */
bool arena_take(struct arena *a, uint32_t *ret_page);

/* The content of a held page is worth keeping once nobody holds it. `lose` is set. */
void arena_keep(struct arena *a, uint32_t page);

/* One more table holds the page, which is held or kept. */
void arena_share(struct arena *a, uint32_t page);

/* One table less; the last one's page is free, or kept. */
void arena_drop(struct arena *a, uint32_t page);

/* One more thread reads or writes the page, which somebody holds; and one less. */
void arena_pin(struct arena *a, uint32_t page);
void arena_unpin(struct arena *a, uint32_t page);

/*
 * Whether it is a page that a table holds. Page tables are falcond's own, but stand where an engine gone mad could write: a number out
 * of one is good if this says so.
 */
static inline bool arena_held(const struct arena *a, uint32_t page) { return page < a->n_pages && a->refs[page] > 0; }

/* The ids that a full page has. False if they cannot be read. */
bool arena_read_head(const struct arena *a, uint32_t page, struct pages_head *ret_head);
void arena_write_head(const struct arena *a, uint32_t page, const struct pages_head *head);

/* Copies the payload of one page to another. 0 or -errno. */
int arena_copy(const struct arena *a, uint32_t from, uint32_t to, struct err *e);

#endif
