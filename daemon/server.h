/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server: requests from the endpoint's thread into the loop, each to its operation. What an operation needs of the rest
 * of falcond hangs here.
 */
#ifndef FALCON_DAEMON_SERVER_H
#define FALCON_DAEMON_SERVER_H

#include <pthread.h>
#include <uv.h>

#include "daemon/auth.h"
#include "daemon/config.h"
#include "daemon/metrics.h"
#include "daemon/request.h"
#include "daemon/run.h"
#include "daemon/spill.h"
#include "daemon/transfer.h"
#include "daemon/store.h"
#include "daemon/supervisor.h"
#include "daemon/upgrade.h"

TAILQ_HEAD(request_opens, request);

struct server {
	uv_loop_t *loop;
	const struct config *config;
	const struct auth *auth;
	struct store *store;
	struct supervisor *supervisor;
	struct upgrade *upgrade;
	struct arena arena;
	struct owners owners;
	struct sessions sessions;
	struct spill spill;
	struct transfers transfers;
	bool drain_spill;           /* the drain is to write all sessions */
	struct request_opens open;  /* all requests in the loop */
	struct turns turns;         /* of those that nobody has looked at yet */
	uint32_t working;           /* of them in threads */
	bool stopping;
	struct metrics metrics;

	struct endpoint *endpoint;
	uv_async_t arrived;
	uv_timer_t tick;            /* once a second: what nobody reads */
	pthread_mutex_t lock;       /* of what follows, which the endpoint's thread writes too */
	struct endpoint_request **queue;
	size_t n_queue, queue_capacity;
	bool accepting;
};

/* loop, config, auth, store and supervisor are set; the store has its arena. */
void server_init(struct server *s);

/* Opens the state folder, if there is one, and makes the sessions that it has. After server_init(). */
int server_restore(struct server *s, struct err *e);

/*
 * The server and the engine have stopped: writes all sessions to the state folder, without their pages if these are kept
 * elsewhere. server_spilled() says when it is done. Returns whether there is a folder.
 */
bool server_spill(struct server *s, bool with_pages);
static inline bool server_spilled(const struct server *s) { return !s->spill.enabled || !spill_busy(&s->spill); }

/* Opens the socket: from here on requests come. */
int server_open(struct server *s, struct err *e);

/* Closes the socket and drops all requests, then closes the handles. Sessions stay on the board. */
void server_stop(struct server *s);

/* Whether requests that threads were at are gone too. */
static inline bool server_stopped(const struct server *s) { return s->stopping && s->working == 0; }

void server_done(struct server *s);

/* Answers a request from within falcond, at once or later; see request_from_within(). */
void server_ask(struct server *s, uint64_t owner, bool admin, json_t *json, request_answer *answer, void *arg);

/* Calls for the supervisor. */
void server_scan(struct server *s);
void server_engine_gone(struct server *s);
bool server_busy(const struct server *s); /* whether the engine has something to do */
void server_fail_session(struct server *s, uint32_t slot, uint32_t run, uint32_t cause); /* the engine dies of it */

#endif
