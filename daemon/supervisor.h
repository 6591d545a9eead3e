/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps one engine over the segments. Engines may die at any time: the board has all that the next one needs, so a death costs
 * the step in progress and the start of another. Three questions are decided here.
 *
 * When does the next start? At once, after SIGKILL, after the first crash, and after a session was found guilty of them. Engines
 * that die in a row without having done anything, or of crash after crash, are waited for a little, longer each time (100 ms
 * doubling to 5 s), since the next would likely die as well.
 *
 * Whose fault is it? SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS and a missed deadline count against the sessions of the
 * step (daemon/trial.h). SIGKILL never does: it is the operator's or the kernel's for want of memory.
 *
 * Is it alive? An engine that is silent for too long (daemon/pulse.h) is killed, which counts as a missed deadline.
 */
#ifndef FALCON_DAEMON_SUPERVISOR_H
#define FALCON_DAEMON_SUPERVISOR_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/pulse.h"
#include "daemon/store.h"
#include "daemon/trial.h"

struct supervisor {
	uv_loop_t *loop;
	struct store *store;
	char engine[4096];
	unsigned threads;
	bool openblas;
	uint64_t step_deadline_ms;           /* the least that a step has */
	int wake_engine, wake_falcond; /* eventfds */
	int lifeline[2];
	void (*ready)(void *arg);            /* an engine is ready that was not before */
	void (*scan)(void *arg);             /* the engine has published something */
	void (*reaped)(void *arg);           /* the engine is gone; the next is not started yet */
	bool (*busy)(void *arg);             /* whether the engine has something to do */
	void (*guilty)(void *arg, uint32_t slot, uint32_t run, uint32_t cause); /* fail this; cause: the signal, or BOARD_FAILED_LATE */
	void (*failed)(void *arg, const struct err *e); /* no engine was ever ready, and one more try is no use */
	void *arg;

	uv_process_t process;
	uv_poll_t poll;
	uv_timer_t backoff, look;
	bool running, is_ready, was_ready, stopping;
	char isa[sizeof((struct board_header *)0)->isa + 1]; /* the instruction set that the engine computes with */
	unsigned waits;       /* in a row, since an engine did something */
	bool forgiven;        /* one death since then was no reason to wait */
	unsigned wait_ms;     /* until the next is started */
	uint64_t started;     /* clock_ns */
	uint64_t first_step;  /* the board's step when the engine was started, even */

	struct trial trial;
	unsigned idle_looks;  /* in a row, while there is a trial */
	struct pulse pulse;
	uint64_t late_at;     /* clock_ns when it was killed for its silence, or 0 */

	unsigned restarts;    /* engines started after the first */
	unsigned crashes;     /* that counted */
	unsigned guilties;    /* sessions found guilty */
};

/* Makes eventfds and the lifeline. loop, store, engine, threads, openblas, step_deadline_ms and the calls are set. */
int supervisor_open(struct supervisor *s, struct err *e);

/* Starts the first engine: the board is as it shall find it. */
int supervisor_start(struct supervisor *s, struct err *e);

/*
 * For a watchdog: the engine gets on, is idle, or another is on its way. False: it is stuck, and not even SIGKILL ended it.
 */
bool supervisor_alive(const struct supervisor *s);

/* Lets the engine finish its step and end; supervisor_stopped() says when it has. No other is started. */
void supervisor_stop(struct supervisor *s);
static inline bool supervisor_stopped(const struct supervisor *s) { return s->stopping && !s->running; }

/* Frees what is left; the loop has run since the handles were closed by supervisor_stop(). */
void supervisor_done(struct supervisor *s);

#endif
