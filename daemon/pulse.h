/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the engine lives. It shows life by beginning and ending steps and by taking wake-ups, so it is silent while neither
 * happens although a step is in progress or a wake-up lies there untaken. An engine with nothing to do is not silent: falcond
 * writes a wake-up (a probe) where it is not sure. A stopped process, an endless loop and a dead lock look the same from here.
 *
 * Silence is counted in looks, each of which counts no more than PULSE_LOOK_MOST_MS: where falcond itself did not run for an
 * hour (a suspended machine, a debugger, a frozen control group), the engine has not been silent for an hour.
 */
#ifndef FALCON_DAEMON_PULSE_H
#define FALCON_DAEMON_PULSE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	PULSE_LOOK_MS = 500, /* between looks */
	PULSE_LOOK_MOST_MS = 2 * PULSE_LOOK_MS,
	PULSE_START_MS = 60000,    /* an engine that starts: the weights' page tables, threads, the first wake-up */
	PULSE_STEP_MOST_MS = 3600000, /* a step, whatever the engine says that it expects */
};

struct pulse {
	uint64_t looked;    /* clock_ns of the last look */
	uint64_t step;      /* the board's, then */
	uint64_t silent_ms; /* since the last sign of life */
};

/* A new engine starts now. */
void pulse_start(struct pulse *p, uint64_t now, uint64_t step);

/* The look at `now`: the board's step, and whether a wake-up lies there untaken. */
void pulse_look(struct pulse *p, uint64_t now, uint64_t step, bool untaken);

/*
 * How long the engine may be silent, milliseconds. least: as configured; expected: what the engine expects its step to take,
 * nanoseconds, as it stands on the board; a step may take 20 times that.
 */
uint64_t pulse_deadline(const struct pulse *p, bool ready, uint64_t least, uint64_t expected);

#endif
