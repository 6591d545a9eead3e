/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a score run has said, between the rows ring and the client. falcond takes an entry out of the ring as soon as it
 * stands there, so one slow reader blocks nobody; what it may take is bounded by credit: positions below `until` may be
 * computed, and `until` follows the reader's cursor by a window. What lies before the cursor is forgotten.
 *
 * Of hidden states the sum alone is kept, so all positions have credit. It is added up here, in the order of positions, because
 * the engine keeps nothing between steps and may say the same twice.
 */
#ifndef FALCON_DAEMON_SCORES_H
#define FALCON_DAEMON_SCORES_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/board.h"

struct scores {
	bool rows;          /* with logits */
	uint32_t n_tokens, n_vocab, n_embd;
	uint32_t window;    /* positions kept at most */
	uint32_t from, end; /* positions [from, end) are here */
	float *logprobs;    /* [window] ring by position: ln p(token at position + 1 | all before) */
	float **logits;     /* [window] the same: [n_vocab] each, with rows */
	double *sum;        /* [n_embd] of the hidden states of positions below end, with BOARD_HIDDEN; from and window mean nothing then */
};

/* For a run with these flags. */
void scores_init(struct scores *s, uint32_t n_tokens, uint32_t n_vocab, uint32_t n_embd, uint32_t flags);
void scores_done(struct scores *s);

/*
 * Takes what is new of positions [first, first + count); what is here already is dropped. False: the entry leaves a gap or
 * goes beyond the credit, which no sound engine writes.
 */
bool scores_take(struct scores *s, const struct board_row *row, const float *payload);

/* The reader has everything below `cursor`: from an earlier falcond perhaps, so what is computed of it now is not kept. */
void scores_forget(struct scores *s, uint32_t cursor);

/* Positions below this may be computed: the credit. */
uint32_t scores_until(const struct scores *s);

/* The mean of all hidden states, rounded to float once: element i. */
static inline float scores_mean(const struct scores *s, uint32_t i) { return (float)(s->sum[i] / s->n_tokens); }

static inline float scores_logprob(const struct scores *s, uint32_t position) { return s->logprobs[position % s->window]; }
static inline const float *scores_logits(const struct scores *s, uint32_t position) { return s->logits[position % s->window]; }

#endif
