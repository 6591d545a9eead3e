/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A falcond and engines whose moment of death the test chooses (base/hooks.h): the builds of tests/hooks, armed through a file
 * that all of them map.
 */
#ifndef FALCON_TESTS_SUPPORT_HOOKS_H
#define FALCON_TESTS_SUPPORT_HOOKS_H

#include "base/hooks.h"
#include "tests/support/daemon.h"

/* As daemon_start(), with tests/hooks/falcond; nothing is armed. */
struct hooks *hooks_start(struct daemon *d, const char *yaml);
/* As daemon_prepare(): the folder and the file; daemon_launch() and daemon_expect() are the caller's. */
struct hooks *hooks_prepare(struct daemon *d);
void hooks_done(struct hooks *h);

/* After `pass` more passes of the place the next `times` ones raise the signal. */
void hooks_arm(struct hooks *h, const char *place, uint32_t pass, uint32_t times, int signal);
void hooks_disarm(struct hooks *h);
/* Waits until a process has stopped (SIGSTOP) at the armed place: its pid, or 0 if none does within timeout_ms. */
pid_t hooks_await_stopped(struct hooks *h, int timeout_ms);

/* Computing this position of the session raises a signal, or hangs (HOOKS_HANG), so many times (UINT32_MAX: always). */
void hooks_poison(struct hooks *h, const char *session, uint32_t position, uint32_t harm, uint32_t times);

/*
 * The stopping places that the sources of a folder name, in no order: a NULL-terminated array, and the texts, in one piece of
 * memory that the caller frees.
 */
char **hooks_places(const char *folder);

#endif
