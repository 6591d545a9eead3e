/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step is expected to take, told to falcond before the step so that it knows when to give an engine up. A step is one
 * pass over the weights and something more for every token of a prompt; both are smoothed from the steps so far. As long as the
 * second is not known a token is taken for a pass of its own, which is never less, and as long as nothing is known the memory is
 * taken to give PACE_BYTES a second.
 */
#ifndef FALCON_ENGINE_PACE_H
#define FALCON_ENGINE_PACE_H

#include <stdint.h>

#define PACE_BYTES UINT64_C(5000000000) /* a second */

struct pace {
	uint64_t weights;  /* bytes */
	uint64_t pass_ns;  /* of a step without prompts; 0: not measured yet */
	uint64_t token_ns; /* of each token of a prompt besides; 0: not measured yet */
};

/* Nanoseconds that a step of `tokens` tokens, `prompt` of them of prompts, will take. */
uint64_t pace_expect(const struct pace *p, uint32_t prompt, uint32_t tokens);

/* Such a step took ns. */
void pace_measure(struct pace *p, uint32_t prompt, uint64_t ns);

#endif
