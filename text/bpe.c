/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging always takes the pair that was learned first and lies leftmost. Nearly all pieces are words of a few bytes, for which
 * looking through all pairs again after each merge is the fastest way. It is quadratic, so beyond SHORT ids a heap of pairs
 * and a linked list take over: each merge adds at most two pairs to the heap, and pairs that a merge has overtaken are
 * recognised when they come up.
 */
#include "text/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { SHORT = 48 };
#define NO_RANK UINT32_MAX

struct bpe_slot {
	int32_t left, right;
	uint32_t rank; /* NO_RANK: empty */
	int32_t result;
};

static const struct bpe_slot no_merge = {.rank = NO_RANK};

static inline uint32_t place(const struct bpe *b, int32_t left, int32_t right)
{
	uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	return (uint32_t)(pair * UINT64_C(0x9e3779b97f4a7c15) >> 32) & b->mask;
}

void bpe_init(struct bpe *b, const struct weights_merge *merges, uint32_t n)
{
	uint64_t size = 16;
	while (size < (uint64_t)n * 2)
		size *= 2;
	b->mask = (uint32_t)(size - 1);
	b->slots = xcalloc(size, sizeof *b->slots);
	for (uint64_t i = 0; i < size; i++)
		b->slots[i] = no_merge;
	for (uint32_t rank = 0; rank < n; rank++) {
		struct weights_merge m = merges[rank];
		struct bpe_slot *s = &b->slots[place(b, m.left, m.right)];
		while (s->rank != NO_RANK && !(s->left == m.left && s->right == m.right))
			s = s == b->slots + b->mask ? b->slots : s + 1;
		if (s->rank == NO_RANK)
			*s = (struct bpe_slot){m.left, m.right, rank, m.result};
	}
}

void bpe_done(struct bpe *b)
{
	free(b->slots);
	b->slots = NULL;
}

/* What becomes of this pair; rank NO_RANK if nothing does. */
static inline const struct bpe_slot *find(const struct bpe *b, int32_t left, int32_t right)
{
	for (uint32_t i = place(b, left, right);; i = (i + 1) & b->mask) {
		const struct bpe_slot *s = &b->slots[i];
		if ((s->left == left && s->right == right) || s->rank == NO_RANK)
			return s->rank == NO_RANK ? &no_merge : s;
	}
}

static size_t merge_short(const struct bpe *b, int32_t *ids, size_t n)
{
	const struct bpe_slot *pair[SHORT]; /* of ids i and i + 1 */
	for (size_t i = 0; i + 1 < n; i++)
		pair[i] = find(b, ids[i], ids[i + 1]);
	while (n > 1) {
		size_t best = 0;
		for (size_t i = 1; i + 1 < n; i++)
			if (pair[i]->rank < pair[best]->rank)
				best = i;
		if (pair[best]->rank == NO_RANK)
			break;
		ids[best] = pair[best]->result;
		memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
		n--;
		if (best + 1 < n) {
			memmove(pair + best + 1, pair + best + 2, (n - best - 2) * sizeof *pair);
			pair[best] = find(b, ids[best], ids[best + 1]);
		}
		if (best > 0)
			pair[best - 1] = find(b, ids[best - 1], ids[best]);
	}
	return n;
}

/* A pair that may be merged: in the heap, lowest rank first, then leftmost. */
struct candidate {
	uint32_t at; /* its left half is ids[at] */
	const struct bpe_slot *pair;
};

/* A long piece: ids as a doubly linked list (an id that was merged into its left neighbour is -1), and the heap. */
struct piece {
	const struct bpe *bpe;
	int32_t *ids;
	uint32_t n, *next, *previous; /* next is n, previous meaningless, at the ends */
	struct candidate *heap;
	size_t size; /* of the heap: below 3n, as n - 1 pairs are there at first and each merge adds two */
};

static inline bool before(const struct candidate *a, const struct candidate *b)
{
	return a->pair->rank < b->pair->rank || (a->pair->rank == b->pair->rank && a->at < b->at);
}

static void push(struct piece *p, uint32_t at)
{
	struct candidate c = {at, find(p->bpe, p->ids[at], p->ids[p->next[at]])};
	if (c.pair->rank == NO_RANK)
		return;
	size_t i = p->size++;
	for (; i > 0 && before(&c, &p->heap[(i - 1) / 2]); i = (i - 1) / 2)
		p->heap[i] = p->heap[(i - 1) / 2];
	p->heap[i] = c;
}

static struct candidate pop(struct piece *p)
{
	struct candidate top = p->heap[0], last = p->heap[--p->size];
	size_t i = 0;
	for (size_t child = 1; child < p->size; child = 2 * i + 1) {
		if (child + 1 < p->size && before(&p->heap[child + 1], &p->heap[child]))
			child++;
		if (!before(&p->heap[child], &last))
			break;
		p->heap[i] = p->heap[child];
		i = child;
	}
	p->heap[i] = last;
	return top;
}

static size_t merge_long(const struct bpe *b, int32_t *ids, uint32_t n)
{
	struct piece p = {.bpe = b, .ids = ids, .n = n};
	p.next = xreallocarray(NULL, n, sizeof *p.next);
	p.previous = xreallocarray(NULL, n, sizeof *p.previous);
	p.heap = xreallocarray(NULL, n, 3 * sizeof *p.heap);
	for (uint32_t i = 0; i < n; i++) {
		p.next[i] = i + 1;
		p.previous[i] = i - 1;
	}
	for (uint32_t i = 0; i + 1 < n; i++)
		push(&p, i);
	while (p.size > 0) {
		struct candidate c = pop(&p);
		uint32_t right = p.next[c.at];
		if (ids[c.at] != c.pair->left || right == n || ids[right] != c.pair->right)
			continue;
		ids[c.at] = c.pair->result;
		ids[right] = -1;
		p.next[c.at] = p.next[right];
		if (p.next[c.at] != n) {
			p.previous[p.next[c.at]] = c.at;
			push(&p, c.at);
		}
		if (c.at > 0)
			push(&p, p.previous[c.at]);
	}
	size_t left = 0;
	for (uint32_t i = 0; i < n; i++)
		if (ids[i] >= 0)
			ids[left++] = ids[i];
	free(p.next);
	free(p.previous);
	free(p.heap);
	return left;
}

size_t bpe_merge(const struct bpe *b, int32_t *ids, size_t n)
{
	return n <= SHORT ? merge_short(b, ids, n) : merge_long(b, ids, (uint32_t)n);
}
