/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a falcond that starts over an existing board may take from it. Everything on the board is input here: the survey reads
 * it, changes nothing, and either refuses it or says of each session what it is and how far, and of each page how many page
 * tables hold it, in terms that daemon/run.h can go on with. Neither side may be writing meanwhile: no engine holds the board.
 *
 * How a session stands follows from four words, which falcond stores in this order: `ready` (there is such a run to do), `want`
 * (the engine may do it), `over` (it is done); and the engine's `is`. ready = R, want = {W, verb}:
 *
 *	R = 0                            no session: half made, or dropped
 *	over = {R, reason}               it rests
 *	W < R                            it is to be published as run R; pages stay unless verb is CLOSE
 *	W = R, RUN, PAUSE or CANCEL      published
 *	W = R, CLOSE or NONE             its pages were taken in mid-run: it waits
 */
#ifndef FALCON_SHM_SURVEY_H
#define FALCON_SHM_SURVEY_H

#include "shm/board.h"

struct survey_session {
	uint32_t slot;
	uint32_t n_tokens, n_kv;
	uint32_t n_pages;    /* entries of its page table that hold pages */
	uint32_t verb;       /* what is asked for: enum board_want; BOARD_NONE: it rests */
	uint32_t finish;     /* of one that rests: enum board_reason, or 0 */
	bool published;      /* the engine may hold the run that `want` names, or has answered DONE to it */
	bool releasing;      /* its pages are to be given back */
};

struct survey {
	struct survey_session *sessions; /* [n], by time of last use */
	uint32_t n;
	uint32_t *refs;                  /* [n_pages] page tables that hold the page */
};

/*
 * Surveys an opened board (board_open) for an arena of n_pages pages and a vocabulary of n_vocab tokens. 0, or -EINVAL with the
 * first thing that cannot be; *ret is freed by survey_done() and untouched on failure.
 */
int survey(const struct board *b, uint32_t n_pages, uint32_t n_vocab, struct survey *ret, struct err *e);
void survey_done(struct survey *s);

/* A name that clients can write: 1 to 64 bytes [A-Za-z0-9._-], or ~ and digits. */
bool survey_name_good(const char *name, uint32_t length);

#endif
