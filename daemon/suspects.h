/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which session makes the engine crash. Before each step the engine writes on the board who is in it; when it dies of a step,
 * one of these may be the cause. This is the search for it, as a state machine that knows no board and no processes:
 *
 *	crash of a batch, nobody suspected    all of it are suspects; the same batch is computed again
 *	another, before they got on           half of the suspects go on trial: they are computed and nobody else
 *	crash of a trial                      the culprit is on trial; half of those are tried
 *	trial passed                          these are cleared; the rest is halved and tried, the last one alone
 *	crash of one session alone, twice     guilty
 *
 * A suspect has passed once its run is further than it was at the crash, or cannot be judged, being over or paused. So with n
 * in the batch the engine dies at most log2(n) + 3 times of one session, and nobody else is failed: guilt takes two crashes of a
 * step in which nobody else was. Two culprits are found one after the other. A crash by SIGKILL never comes here.
 */
#ifndef FALCON_DAEMON_SUSPECTS_H
#define FALCON_DAEMON_SUSPECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/board.h"

struct suspect {
	uint32_t slot, run;
	uint64_t progress; /* the board's, when the engine died */
};

struct suspects {
	struct suspect of[BOARD_BATCH]; /* [n]: the culprit is thought to be among these */
	uint32_t n;     /* 0: nobody is suspected */
	uint32_t tried; /* the first so many are on trial and nobody else may be computed; 0: everybody may */
	uint32_t alone; /* crashes in a row of the one suspect that is left, alone in its step */
};

enum suspects_verdict {
	SUSPECTS_RETRY,  /* everybody is computed again */
	SUSPECTS_TRIAL,  /* of[0 .. tried) are */
	SUSPECTS_GUILTY, /* *ret_guilty is; nobody is suspected any more */
};

/* The engine died, by something that counts, of a step with this batch of n: sessions that run, each once. n > 0. */
enum suspects_verdict suspects_crash(struct suspects *s, const struct suspect *batch, uint32_t n, struct suspect *ret_guilty);

/*
 * Clears those that have passed, of those on trial or, without one, of all. True: the trial has changed, or ended (tried is 0),
 * and who may be computed with it.
 */
bool suspects_clear(struct suspects *s, bool (*passed)(void *arg, const struct suspect *x), void *arg);

/* Gives the search up: nobody is suspected. True: there was a trial. */
bool suspects_forget(struct suspects *s);

#endif
