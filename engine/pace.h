/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a step of so many rows takes, learned from the steps themselves. A row is one token of one session. Few rows cost
 * about what one costs, because the weights are read from memory once for all of them; many cost their arithmetic; where one
 * turns into the other depends on the machine and the model. So nothing is assumed: the measured times stand in a table by
 * rows, smoothed, and what lies between two entries is interpolated. Beyond the last one a row costs what it costs there on
 * average, which is never too little; so a new engine's first chunks are small and double as it learns. What was not measured
 * for long is forgotten, and found out again in the same way.
 *
 * A row deep in a context costs more than one at its beginning. It counts as more than one row: 1 + position / `deep`, where
 * `deep` is the depth at which a row's attention takes as long as its matrices, estimated from the model's shape.
 */
#ifndef FALCON_ENGINE_PACE_H
#define FALCON_ENGINE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/weights.h"

enum { PACE_POINTS = 32 }; /* two an octave: up to 2^16 rows */
#define PACE_BYTES 5e9f    /* a second: what memory is taken to give while nothing was measured */

struct pace {
	float pass_ns;  /* of the weights, once, at PACE_BYTES */
	float deep;     /* positions; 0: rows count the same at any depth */
	uint64_t steps; /* measured so far */
	struct pace_point {
		float rows, ns;    /* smoothed; rows 0: never measured */
		uint64_t measured; /* `steps` at its last measurement */
	} points[PACE_POINTS];
};

void pace_init(struct pace *p, const struct weights_hparams *hp, uint64_t weights); /* weights: bytes */

/* What a row at this position counts as. */
float pace_row(const struct pace *p, uint32_t position);

/* A step of so many rows took ns. */
void pace_measure(struct pace *p, float rows, uint64_t ns);

/* Expected ns of a step of so many rows; 0 while nothing was measured. */
float pace_ns(const struct pace *p, float rows);

/* The same, and while nothing was measured what is not likely to be exceeded: falcond gives up an engine by it. */
uint64_t pace_expect(const struct pace *p, float rows);

/* How many rows more a step of `rows` may have so that it takes at most ns longer; 0 while nothing was measured. */
float pace_room(const struct pace *p, float rows, float ns);

/* Whether steps of about so many rows have been measured, and not too long ago. */
bool pace_known(const struct pace *p, float rows);

#endif
