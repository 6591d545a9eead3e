/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the forward pass share: models of random weights, sessions whose pages start as NaNs (so that reading a
 * token that was never written shows), and a team of threads for one step.
 */
#ifndef FALCON_TESTS_SUPPORT_LAB_H
#define FALCON_TESTS_SUPPORT_LAB_H

#include "model/forward.h"

/* An image of random weights in memory. types[] says the type of each matrix role, 0 (WEIGHTS_F32) where unset. */
struct lab_image {
	uint8_t *data;
	uint64_t size;
};
struct lab_image lab_image_new(const struct weights_hparams *hp, const uint32_t types[WEIGHTS_ROLES], uint64_t seed);
void lab_image_free(struct lab_image *i);

/* A model, a forward pass over it, and how many threads run it. */
struct lab {
	const struct model *model;
	struct forward *forward;
	uint32_t threads, kv, context;
};
void lab_init(struct lab *l, const struct model *m, const struct kernels *k, struct forward_options o);
void lab_done(struct lab *l);

struct lab_session {
	void **pages; /* payloads for the lab's whole context */
	uint32_t n_pages, n_kv;
	uint32_t n_borrowed; /* of the first pages: another session's */
};
struct lab_session *lab_session_new(const struct lab *l);
void lab_session_free(struct lab_session *s);

/* Gives a new session the first n pages of another one, which is past them and is freed later. */
void lab_borrow(struct lab_session *s, const struct lab_session *from, uint32_t n);

/* The next n tokens of a session as a span of a batch. */
struct forward_span lab_span(const struct lab_session *s, const int32_t *ids, uint32_t n, uint32_t logits, float *out);

/* Runs a batch on the lab's threads. */
void lab_run(struct lab *l, struct forward_span *spans, uint32_t n_spans);

/* Feeds n tokens to one session in chunks and stores the logits of every position in out[n][n_vocab]. */
void lab_feed(struct lab *l, struct lab_session *s, const int32_t *ids, uint32_t n, uint32_t chunk, float *out);

#endif
