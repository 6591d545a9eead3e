/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: once a second, and at once when something happens to the engine, falcond publishes what `status` tells an
 * administrator, with `event` and `time` besides. Nobody is waited for and nothing is sent again: what counts is never an event.
 *
 * `events:` opens an nng PUB socket for them. Its file is for root, falcond's user and the admin group alone, since
 * subscribers of a PUB socket filter on their own side. HTTP passes the moment on to those who watch there.
 */
#ifndef FALCON_DAEMON_EVENTS_H
#define FALCON_DAEMON_EVENTS_H

#include <uv.h>

#include "daemon/server.h"
#include "daemon/web.h"

struct events {
	struct server *server;
	struct web *web;
	const char *url;  /* NULL: no PUB socket */
	struct pub *pub;
	uv_timer_t tick;
};

/* server, web and url are set. 0 or -errno. */
int events_open(struct events *v, struct err *e);

/* Something happened: "tick", "engine_ready", "engine_gone". A constant. */
void events_tell(struct events *v, const char *what);

void events_close(struct events *v);

#endif
