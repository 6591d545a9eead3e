/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps one engine over the segments. Engines may die at any time: the board has all that the next one needs, so a death
 * costs the step in progress. The next is started at once, but one that ended before its first step is waited for a little,
 * longer each time (100 ms doubling to 5 s), since it would likely end again.
 */
#ifndef FALCON_DAEMON_SUPERVISOR_H
#define FALCON_DAEMON_SUPERVISOR_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/store.h"

struct supervisor {
	uv_loop_t *loop;
	struct store *store;
	char engine[4096];
	unsigned threads;
	bool openblas;
	int wake_engine, wake_falcond; /* eventfds */
	int lifeline[2];
	void (*ready)(void *arg);            /* an engine is ready that was not before */
	void (*scan)(void *arg);             /* the engine has published something */
	void (*reaped)(void *arg);           /* the engine is gone; the next is not started yet */
	void (*failed)(void *arg, const struct err *e); /* no engine was ever ready, and one more try is no use */
	void *arg;

	uv_process_t process;
	uv_poll_t poll;
	uv_timer_t backoff;
	bool running, is_ready, was_ready, stopping;
	unsigned tries;       /* engines in a row that ended before their first step */
	unsigned restarts;    /* engines started after the first */
	uint64_t first_step;  /* the board's step when the engine was started */
};

/* Makes eventfds and the lifeline and starts the first engine. loop, store, engine, threads, openblas and the calls are set. */
int supervisor_start(struct supervisor *s, struct err *e);

/* Lets the engine finish its step and end; supervisor_stopped() says when it has. No other is started. */
void supervisor_stop(struct supervisor *s);
static inline bool supervisor_stopped(const struct supervisor *s) { return s->stopping && !s->running; }

/* Frees what is left; the loop has run since the handles were closed by supervisor_stop(). */
void supervisor_done(struct supervisor *s);

#endif
