/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's next token as a pure function of its logits, its parameters, its log, its seed and the position. In order:
 * logit bias, repeat penalty, presence and frequency penalties, top-k, top-p, min-p, temperature, draw. Ties go to the
 * lower id. The random number of position p comes from a counter-based generator keyed by (seed, p).
 */
#ifndef FALCON_MODEL_SAMPLER_H
#define FALCON_MODEL_SAMPLER_H

#include "kernels/kernels.h"
#include "shm/board.h"
#include "shm/probs.h"

struct sampler; /* scratch of one thread: candidates, counts; holds nothing of any session */

struct sampler *sampler_new(uint32_t n_vocab);
void sampler_free(struct sampler *s);

/*
 * The token of position n_tokens. logits: [n_vocab], changed in place. log: [n_tokens] ids, prompt included; positions from
 * r->n_given on are generated ones. r has passed board_record_check().
 */
int32_t sampler_draw(struct sampler *s, const struct kernels *k, float *logits, const struct board_record *r,
		     const int32_t *log, uint32_t n_tokens);

/*
 * What the model says of a place where `token` stands: ret is the entry of shm/probs.h, the token first, then the `top` likeliest ones,
 * the lower id first of equals.
 */
void sampler_probs(struct sampler *s, const struct kernels *k, const float *logits, int32_t token, uint32_t top, struct prob *ret);

/* The token as sampler_draw() gives it, and its entry, for a run with r->flags: of the logits before bias and penalties. */
int32_t sampler_draw_probs(struct sampler *s, const struct kernels *k, float *logits, const struct board_record *r,
			   const int32_t *log, uint32_t n_tokens, struct prob *ret);

/* The generator: uniform in [0, 1) with 24 bits, a function of (seed, position) alone (Philox 4x32-10). */
float sampler_uniform(uint64_t seed, uint64_t position);

/* ln p(token) of a row of logits. */
float sampler_logprob(const struct kernels *k, const float *logits, uint32_t n_vocab, int32_t token);

#endif
