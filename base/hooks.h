/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lets a test choose the moment at which a process dies: named places between two stores to shared memory, and sessions that
 * do harm at a position. They are there in the builds that tests make for themselves (tests/hooks, FALCON_TEST_HOOKS defined);
 * in all others they are nothing.
 *
 * Such a build maps the file that the environment's FALCON_TEST_HOOKS names, before it closes its cage. falcond and its engines
 * map the same one, so a test can arm it and disarm it while they run, and what is to happen twice happens twice, though the
 * second time in another engine.
 */
#ifndef FALCON_BASE_HOOKS_H
#define FALCON_BASE_HOOKS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { HOOKS_NAME = 64, HOOKS_HANG = 1000 };

/* The file. The test writes all of it but `stopped`, and a count of 0 first and another last. */
struct hooks {
	char place[HOOKS_NAME];  /* the stopping place that is meant */
	_Atomic uint32_t pass;   /* that it is passed without harm, still */
	_Atomic uint32_t times;  /* that `signal` is raised there after these; 0: it is not meant */
	uint32_t signal;         /* SIGSTOP, as a rule, and then SIGKILL by the test */
	_Atomic int32_t stopped; /* pid of the process that raised it last */

	char session[HOOKS_NAME]; /* the session that does harm */
	uint32_t position;        /* when this position is computed */
	uint32_t harm;            /* a signal, or HOOKS_HANG */
	_Atomic uint32_t harms;   /* so many times */
};

#ifdef FALCON_TEST_HOOKS
void stopping_place(const char *name);
/* Positions [first, first + n) of the session are about to be computed. */
void hooks_compute(const char *session, size_t length, uint32_t first, uint32_t n);
#else
#define stopping_place(name) ((void)0)
#define hooks_compute(session, length, first, n) ((void)0)
#endif

#endif
