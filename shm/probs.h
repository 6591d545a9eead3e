/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-probabilities of generated tokens, for runs that ask for them (BOARD_LOGPROBS). They stand on the board: the engine writes an
 * entry before the progress that passes its token, falcond reads it with the token, so that what outlives either process is the
 * same as of the token log. A place for each token of each slot costs nothing while it is sparse. docs/decisions/0031.
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

/*
 * Where entry i of a slot's run stands, i below n_context. Entry 0 is of the token at n_given; of a score run, which generates none,
 * of the token at position 1, what the model says after the first.
 */
static inline struct prob *probs_at(const struct board *b, uint32_t slot, uint32_t flags, uint32_t i)
{
	return (struct prob *)(void *)(b->probs + b->probs_stride * slot + probs_bytes(flags, i));
}

#endif
