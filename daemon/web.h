/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP (http/http.h) as a part of falcond: what it is told of the configuration, and its way to the operations. */
#ifndef FALCON_DAEMON_WEB_H
#define FALCON_DAEMON_WEB_H

#include "daemon/server.h"
#include "http/http.h"

struct web {
	uv_loop_t *loop;
	const struct config *config;
	const struct auth *auth;
	struct server *server;
	struct http *http; /* NULL: nothing is configured */
};

/* Opens what is configured; requests are answered with 503 until web_ready(). loop, config, auth and server are set. */
int web_open(struct web *w, struct err *e);
void web_ready(struct web *w);

/* Passes an event on to those who watch; a constant. */
void web_tell(struct web *w, const char *what);

/* Before server_stop(), which answers what is still asked; web_done() when web_stopped() and all handles are closed. */
void web_stop(struct web *w);
bool web_stopped(const struct web *w);
void web_done(struct web *w);

#endif
