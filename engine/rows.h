/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's end of the rows ring: what score runs have to say, in entries that falcond takes out one by one. An entry is
 * written, then published by ring_head, and only then does the run's progress pass its positions; so an engine that dies in
 * between says the same again, and nothing is lost.
 */
#ifndef FALCON_ENGINE_ROWS_H
#define FALCON_ENGINE_ROWS_H

#include "shm/board.h"

/* Entries that may be published now; none if falcond's ring_tail cannot be right. */
uint32_t rows_free(const struct board *b);

/* One entry of one position: its logits [n_vocab], and ln p of the token that follows. */
void rows_publish_logits(const struct board *b, uint32_t slot, uint32_t run, uint32_t position, const float *logits,
			 uint32_t n_vocab, float logprob);

/* ln p of the tokens that follow positions [first, first + n), in as few entries as hold them: never more than n. */
void rows_publish_logprobs(const struct board *b, uint32_t slot, uint32_t run, uint32_t first, const float *logprobs,
			   uint32_t n);

/* The hidden states [n][n_embd] of positions [first, first + n), in as few entries as hold them: rows_of_hidden() in each. */
void rows_publish_hidden(const struct board *b, uint32_t slot, uint32_t run, uint32_t first, const float *hidden, uint32_t n_embd,
			 uint32_t n);

/* Positions of n_embd floats that one entry holds; 0: it holds none. */
static inline uint32_t rows_of_hidden(const struct board *b, uint32_t n_embd) { return board_payload(b) / n_embd; }

#endif
