/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of sessions on the board: publishing, pausing, cancelling and closing them, and the look at how far they are. Every
 * change wakes the engine; the caller looks (run_scan) when the engine's eventfd fires and when an engine has been reaped.
 */
#ifndef FALCON_DAEMON_RUN_H
#define FALCON_DAEMON_RUN_H

#include "daemon/session.h"

/*
 * Starts a run of a session whose record and log are written: n_given, n_end, n_tokens, n_kv and flags of s say what the run
 * begins with. It is published at once, or as soon as its pages are free again.
 */
void run_start(struct sessions *t, struct session *s);

/* A new session whose record and log are written rests, as one whose run is over: from here on it is there. */
void run_rest(struct sessions *t, struct session *s);

/*
 * Puts a session that session_adopt() made into the state that the board says; there is no engine, and the arena has the pages
 * that were found. What is asked of the engine is still asked; look at the board (run_scan) once all sessions are adopted.
 */
void run_adopt(struct sessions *t, struct session *s, const struct survey_session *found);

/* The same of a session that session_restore() made: it rests, or its run goes on from the end of its log. */
void run_restore(struct sessions *t, struct session *s, bool running);

/* Ends the run, if there is one, with finish BOARD_CANCELLED, once the engine has seen it. */
void run_cancel(struct sessions *t, struct session *s);

void run_pause(struct sessions *t, struct session *s);
void run_resume(struct sessions *t, struct session *s);

/* Drops the session: its name is free at once, its slot and pages when the engine has let go of them. s may be freed here. */
void run_drop(struct sessions *t, struct session *s);

/* Whether the engine has answered that it lets the paused run be. */
bool run_paused(const struct sessions *t, const struct session *s);

/* A restored session's run was not over: it waits for somebody who reads it, as a paused one does. */
void run_hold(struct sessions *t, struct session *s);

/*
 * Takes pages for n_kv positions of a session that has none, to be filled from a file: it is `loading` until run_loaded(). False:
 * not as many are free.
 */
bool run_take_pages(struct sessions *t, struct session *s, uint32_t n_kv);

/* They have been filled, up to n_kv. */
void run_loaded(struct sessions *t, struct session *s, uint32_t n_kv);

/* Pages have become free by other ways than the board: looks who needs some. */
void run_settle(struct sessions *t);

/* Looks at the board: progress and ends of runs, entries of the rows ring; grants pages. Calls t->changed. */
void run_scan(struct sessions *t);

/* There is no engine: everything that waits for one to let go has what it waits for. */
void run_engine_gone(struct sessions *t);

/*
 * The engine dies of this session's run: it ends with finish BOARD_ERROR, and nothing can be appended to it. cause: the signal,
 * or BOARD_FAILED_LATE.
 */
void run_fail(struct sessions *t, struct session *s, uint32_t cause);

/* The reader of a score run has everything below cursor: its credit grows. */
void run_credit(struct sessions *t, struct session *s, uint32_t cursor);

/*
 * dst, new and without pages, gets the pages of src that are complete: full ones shared, the tail copied. Sets n_kv and
 * n_pages of dst.
 */
void run_share_pages(struct sessions *t, struct session *dst, const struct session *src);

/* Pages of n tokens. */
static inline uint32_t run_pages(uint32_t n_tokens) { return (n_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

#endif
