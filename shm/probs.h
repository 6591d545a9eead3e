/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-probabilities of generated tokens, for runs that ask for them (BOARD_LOGPROBS). They stand at the end of the board's
 * segment, where nobody maps it: a place for each token of each slot has more bytes than an address space should lend, but costs
 * nothing while it is sparse. The engine writes an entry before the progress that passes its token, falcond reads it with the
 * token: what outlives either process is the same as of the token log. docs/decisions/0031.
 *
 * An entry is 1 + N of struct prob, N as the run asked: the token itself, then the N likeliest of its place, in falling order.
 */
#ifndef FALCON_SHM_PROBS_H
#define FALCON_SHM_PROBS_H

#include "shm/board.h"

/* ln p(id | all tokens before), of the model's own distribution: before biases, penalties, temperature and cuts. */
struct prob {
	int32_t id; /* -1: the vocabulary has no more tokens */
	float logprob;
};
static_assert(sizeof(struct prob) == 8, "prob");

enum { PROBS_MOST = 1 + BOARD_TOP }; /* of one entry */

/* struct prob of an entry; 0: the run asks for none. */
static inline uint32_t probs_per_token(uint32_t flags)
{
	return flags & BOARD_LOGPROBS ? 1 + board_top(flags) : 0;
}

/* Bytes of n tokens' entries. */
static inline uint64_t probs_bytes(uint32_t flags, uint32_t n)
{
	return (uint64_t)n * probs_per_token(flags) * sizeof(struct prob);
}

/* Bytes of a slot's place, for so many tokens. */
uint64_t probs_stride(uint32_t n_context);

/* Offset of a slot's entries in the segment: of its token at n_given first. */
static inline uint64_t probs_offset(const struct board *b, uint32_t slot)
{
	return b->probs_offset + b->probs_stride * slot;
}

/*
 * Entries of tokens [first, first + n) counted from n_given, of a run with these flags, from or to memory that need not be
 * aligned. They are in the slot's place if the tokens are in its context. 0 or -errno; -ENODATA: nobody wrote there.
 */
int probs_write(const struct board *b, uint32_t slot, uint32_t flags, uint32_t first, uint32_t n, const void *entries);
int probs_read(const struct board *b, uint32_t slot, uint32_t flags, uint32_t first, uint32_t n, void *ret);

/* Gives the memory of a slot's entries back. */
void probs_clear(const struct board *b, uint32_t slot);

#endif
