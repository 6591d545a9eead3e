/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arena of key/value pages as falcond sees it: who holds how many references to which page is its private memory; the
 * pages themselves it never maps. A page that nobody holds is punched out, so memory is used by what sessions hold alone, and
 * the next holder finds zeros.
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

struct arena {
	int fd; /* the pages segment, the caller's */
	uint64_t payload_offset, stride;
	uint32_t n_pages, n_free;
	uint32_t n_held; /* pages that nobody holds and that are not free, because they are pinned */
	uint32_t *free; /* [n_free] stack of page numbers */
	uint32_t *refs; /* [n_pages] page tables that hold the page; 0: free */
	uint32_t *pins; /* [n_pages] threads that read or write it */
};

void arena_init(struct arena *a, int fd, const struct pages_header *h);
void arena_done(struct arena *a);

/* Of a segment with pages in use: refs[n_pages] says by how many tables. What nobody holds is punched out. */
void arena_adopt(struct arena *a, const uint32_t *refs);

/* Takes a free page, with one reference. False if there is none. */
bool arena_take(struct arena *a, uint32_t *ret_page);

/* One more table holds the page. */
void arena_share(struct arena *a, uint32_t page);

/* One table less; the last one's page is free. */
void arena_drop(struct arena *a, uint32_t page);

/* One more thread reads or writes the page, which somebody holds; and one less. */
void arena_pin(struct arena *a, uint32_t page);
void arena_unpin(struct arena *a, uint32_t page);

/* Whether one table alone holds the page: then dropping it would free it. */
static inline bool arena_exclusive(const struct arena *a, uint32_t page) { return a->refs[page] == 1; }

/* Copies the payload of one page to another. 0 or -errno. */
int arena_copy(const struct arena *a, uint32_t from, uint32_t to, struct err *e);

#endif
