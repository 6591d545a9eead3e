/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP (http/http.h) as a part of falcond: what it is told of the configuration, and its way to the operations. */
#ifndef FALCON_DAEMON_WEB_H
#define FALCON_DAEMON_WEB_H

#include "daemon/inherit.h"
#include "daemon/server.h"
#include "http/http.h"

struct web {
	uv_loop_t *loop;
	const struct config *config;
	const struct auth *auth;
	struct server *server;
	const struct inherited *inherited; /* all but keep.c's is for HTTP */
	struct http *http; /* NULL: nothing is configured */
};

/*
 * Opens what is configured and what systemd has opened. Until web_ready() requests are answered with 503, at a socket of systemd's
 * after they have waited for a while. loop, config, auth, server and inherited are set.
 */
int web_open(struct web *w, struct err *e);
void web_ready(struct web *w);

/* Passes an event on to those who watch; a constant. */
void web_tell(struct web *w, const char *what);

/*
 * Before server_stop(), which answers what is still asked; web_done() when web_stopped() and all handles are closed. failed: since
 * falcond cannot go on.
 */
void web_stop(struct web *w, bool failed);
bool web_stopped(const struct web *w);
void web_done(struct web *w);

/* The sockets that the next falcond of this process is to have too. */
void web_hand_over(const struct web *w, struct inherited *out);

/* Lets time pass after a start that failed. Whoever has asked at a socket of systemd's is told of it, so that he waits no longer. */
void web_pause(const struct inherited *in, unsigned ms);

#endif
