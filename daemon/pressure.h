/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When pages run short. Pages of a session that does not run are a cache of what its token log says, so they go first, the
 * least recently used ones before others; then those of paused runs. With a state folder both are written there first. A run that cannot go on takes the pages of runs that
 * began after it, which continue later: so the oldest run always ends, and nobody waits for ever.
 */
#ifndef FALCON_DAEMON_PRESSURE_H
#define FALCON_DAEMON_PRESSURE_H

#include "daemon/session.h"

/* Sets `need` pages free for s, which runs; they come when the engine has let go of them. */
void pressure_relieve(struct sessions *t, struct session *s, uint32_t need);

/* Whether `need` pages are free; if not, asks idle and paused sessions for theirs. Takes nothing from those that run. */
bool pressure_make_room(struct sessions *t, struct session *s, uint32_t need);

/* Pages that could be had for a run of s (NULL: of a new session) without taking any from those that run. */
uint32_t pressure_available(const struct sessions *t, const struct session *s);

/* In run.c: asks the engine to let go of a session's pages; it goes on, if it ran, when there are some. */
void run_release(struct sessions *t, struct session *s);

#endif
