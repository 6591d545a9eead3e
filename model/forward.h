/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One forward pass over a batch: some tokens of some sessions, each attending to its own pages. The batch's make-up changes
 * no bit of any session's result. No allocation happens after forward_new().
 */
#ifndef FALCON_MODEL_FORWARD_H
#define FALCON_MODEL_FORWARD_H

#include "base/team.h"
#include "model/model.h"

/* Consecutive positions of one session. */
struct forward_span {
	const int32_t *ids;    /* [n] tokens of positions first .. first + n */
	uint32_t first, n;
	void *const *pages;    /* payloads of pages 0 .. (first + n - 1) / 32; positions below first are complete */
	uint32_t logits;       /* rows wanted: 0 none, 1 the last position's, 2 every position's; 3 every position's hidden state instead */
	float *logits_out;     /* [rows wanted][n_vocab], filled by forward_run */
	float *hidden_out;     /* [n][n_embd] the same: after the output norm, what the head multiplies */
	bool failed;           /* set if a number was not finite: the session cannot go on */
};
enum { FORWARD_NONE = 0, FORWARD_LAST = 1, FORWARD_ALL = 2, FORWARD_HIDDEN = 3 };

struct forward;

enum forward_dense { FORWARD_EXACT = 0, FORWARD_OPENBLAS = 1 };

struct forward_options {
	uint32_t kv;          /* enum pages_kv */
	uint32_t max_tokens;  /* of all spans of one batch */
	uint32_t max_spans;
	uint32_t max_logits;  /* rows of all spans of one batch */
	uint32_t max_context; /* positions of one session */
	uint32_t threads;     /* members of the team that will call forward_run */
	uint32_t dense;       /* enum forward_dense */
};

int forward_new(const struct model *m, const struct kernels *k, const struct forward_options *o, struct forward **ret,
		struct err *e);
void forward_free(struct forward *f);

/*
 * Computes the batch. Every member of the team calls it with the same arguments and its own number; all return after the
 * last barrier, when keys, values and logits are complete. ids must be below n_vocab (checked by the caller).
 */
void forward_run(struct forward *f, struct team *team, uint32_t member, struct forward_span *spans, uint32_t n_spans);

#endif
