/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's step, its only loop: gather the sessions that can go on, share out the step's tokens, compute all of them in
 * one forward pass, draw their next tokens, publish. It works on mapped segments and nothing else, so that falcond's engine
 * and the benchmark run the same code.
 *
 * A run that ends, a failed session and a bad record are business of that slot alone; a step itself cannot fail.
 */
#ifndef FALCON_ENGINE_STEP_H
#define FALCON_ENGINE_STEP_H

#include "engine/segments.h"
#include "engine/threads.h"

struct step;

struct step_options {
	uint32_t threads;
	uint32_t dense; /* enum forward_dense */
	int wake;       /* eventfd that is written when falcond has something to look at; -1: none */
};

/* The segments must outlive the step; the calling thread is the one that calls all of these. 0 or -errno. */
int step_new(const struct segments *segments, const struct kernels *kernels, const struct step_options *o, struct step **ret,
	     struct err *e);
void step_free(struct step *s);

/* Reads what falcond wants. Needed at start and whenever falcond has published something. */
void step_scan(struct step *s);

/* Computes one step. False: there is nothing that could be computed now. */
bool step_run(struct step *s);

/* The pool that steps run on, for other work of the same thread between two of them. */
struct threads *step_threads(const struct step *s);

/* Whether a run was refused since the last call; then says why the last one was. */
bool step_refused(struct step *s, struct err *ret);

#endif
