/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three segments as the engine sees them: weights mapped read-only, pages and board read-write, every header checked
 * and all three known to belong together. What is accepted here the rest of the engine relies on.
 */
#ifndef FALCON_ENGINE_SEGMENTS_H
#define FALCON_ENGINE_SEGMENTS_H

#include "model/model.h"
#include "shm/board.h"
#include "shm/pages.h"

struct segments {
	void *weights_base, *pages_base, *board_base; /* NULL: not mapped */
	uint64_t weights_size, pages_size, board_size;
	struct model model;        /* resolved in the weights */
	struct pages_header arena; /* a copy of the pages' header */
	struct board board;
};

/*
 * Maps the descriptors and checks what is in them, for an engine whose dense products are of this kind (enum forward_dense).
 * The descriptors stay the caller's. 0 or -errno.
 */
int segments_open(int weights, int pages, int board, uint32_t dense, struct segments *ret, struct err *e);
void segments_close(struct segments *s);

/* Page `number` (below arena.n_pages): its keys and values, and its head. */
void *segments_page(const struct segments *s, uint32_t number);
struct pages_head *segments_head(const struct segments *s, const void *page);

#endif
