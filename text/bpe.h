/* SPDX-License-Identifier: Apache-2.0 */
/* Byte pair merging of one piece. text/ alone includes this. */
#ifndef FALCON_TEXT_BPE_H
#define FALCON_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "shm/weights.h"

/* The merges as a hash table from a pair to its rank and result. */
struct bpe {
	struct bpe_slot *slots;
	uint32_t mask; /* slots - 1, a power of two minus one */
};

/* Copies the merges; the earlier of two for one pair counts. */
void bpe_init(struct bpe *b, const struct weights_merge *merges, uint32_t n);
void bpe_done(struct bpe *b);

/*
 * Merges ids[0 .. n) in place, always the pair of lowest rank and of these the leftmost, and returns how many are left.
 * O(n log n).
 */
size_t bpe_merge(const struct bpe *b, int32_t *ids, size_t n);

#endif
