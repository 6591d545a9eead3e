/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search for a session that ends the engine (daemon/suspects.h), on the board: who was in the step that the engine died of,
 * who got on since, and whom the next engine may compute. What stands there may have been written by an engine gone mad: slots
 * out of range, that run nothing, or twice, are not suspects.
 */
#ifndef FALCON_DAEMON_TRIAL_H
#define FALCON_DAEMON_TRIAL_H

#include "daemon/suspects.h"

struct trial {
	const struct board *board;
	struct suspects suspects;
	uint32_t number; /* of the trial begun last */
};

/* Nobody is suspected, and everybody is computed. */
void trial_init(struct trial *t, const struct board *board);

/*
 * An engine that died by what counts has been reaped; no other runs yet. True: a session is guilty. n_suspects says who could
 * have been: 0 if it was not within a step.
 */
bool trial_crash(struct trial *t, struct suspect *ret_guilty, uint32_t *ret_suspects);

/* Looks who got on. True: who may be computed has changed, and the engine should be woken. */
bool trial_scan(struct trial *t);

/* Whether only some may be computed now. */
static inline bool trial_open(const struct trial *t) { return t->suspects.tried != 0; }

/* Gives the search up: what is on trial cannot go on, so nothing is to be learnt. The engine should be woken. */
void trial_forget(struct trial *t);

#endif
