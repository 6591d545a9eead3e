/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP request and its response. A route answers at once, or asks falcond and answers when it has replied, whole or as a
 * stream. Its client may go away at any time; what was asked is still answered to the route, which sees `gone` then.
 */
#ifndef FALCON_HTTP_EXCHANGE_H
#define FALCON_HTTP_EXCHANGE_H

#include <jansson.h>
#include <microhttpd.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/mem.h"
#include "http/http.h"

struct exchange;

/* Takes what falcond replied; the reply is freed afterwards. NULL: falcond stops. */
typedef void exchange_then(struct exchange *x, void *arg, const json_t *reply);

/* An answer that is waited for. */
struct ask {
	struct exchange *x;
	exchange_then *then;
	void *arg;
	json_t *reply;
	TAILQ_ENTRY(ask) answered;
};

TAILQ_HEAD(asks, ask);
TAILQ_HEAD(exchanges, exchange);

struct http {
	struct http_options options;
	struct identity_keys *keys;
	struct listener *listeners; /* [n_listeners] */
	unsigned n_listeners;
	char *model;                /* NULL: not ready */
	uint32_t context;
	uv_timer_t sweep;           /* now and then, for clients that never end their request */
	uv_timer_t held;            /* for the first that has waited too long */
	uv_async_t wake;            /* answers wait, or libmicrohttpd has something to do */
	struct asks answered;
	struct exchanges all;
	bool stopping;
	unsigned closing;           /* handles of ours that are not closed yet */
};

struct exchange {
	struct http *http;
	struct MHD_Connection *connection; /* NULL once the client has gone */
	uint64_t owner;
	bool admin;
	struct buf body;           /* of the request */
	uint64_t held_until;       /* uv_now() until which it waits for a model; 0: it never did */
	bool taken;                /* the route has it */

	unsigned status;           /* 0: no response yet */
	const char *type;
	struct buf out;            /* what is to be sent; [sent, length) in a stream */
	size_t sent;
	bool stream, finished;     /* finished: nothing follows in a stream */
	bool suspended, gone;
	bool watches;              /* events.c's: it wants events */
	uv_poll_t *watch;          /* for the client's end while it waits */

	unsigned asked;            /* answers that are still to come */
	void *task;                /* the route's */
	void (*drained)(struct exchange *x); /* everything in a stream was sent; or NULL */
	void (*left)(struct exchange *x);    /* the client has gone, or has everything; or NULL */
	void (*end)(struct exchange *x);     /* frees task; or NULL */
	TAILQ_ENTRY(exchange) link;
};

/* Asks falcond as the client; takes the reference to the request. */
void exchange_ask(struct exchange *x, json_t *request, exchange_then *then, void *arg);

/* Drops the session of that name and waits for no answer. *session becomes NULL, and may be NULL already. */
void exchange_drop(struct exchange *x, json_t **session);

/* Puts the name of the session that a reply has made, if it has, into a place that holds none: a new reference. */
void exchange_take_session(json_t **session, const json_t *reply);

/* What falcond says of a session that cannot be computed, a new reference; what: "answer", "input". */
json_t *exchange_not_computed(const char *what);

/* "PREFIX-", and 16 digits that nobody guesses: OpenAI's name of a response, and ours of its requests. */
void exchange_draw_id(const char *prefix, char ret_id[32]);

/* The whole response. The bytes of body are taken. type is a constant. */
void exchange_reply(struct exchange *x, unsigned status, const char *type, struct buf *body);
void exchange_reply_json(struct exchange *x, unsigned status, json_t *body); /* takes the reference */

/* An error in OpenAI's shape, as the whole response. */
void exchange_fail(struct exchange *x, unsigned status, const char *code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* What falcond said was wrong, the same way. reply NULL: falcond stops. */
void exchange_fail_reply(struct exchange *x, const json_t *reply);
/* {"error":{...}} in OpenAI's shape, for streams that have begun; ret_status as a whole response would have. */
json_t *exchange_error_json(const json_t *reply, unsigned *ret_status);

/* A response in pieces: begin, any number of sends, finish. */
void exchange_begin(struct exchange *x, const char *type);
void exchange_send(struct exchange *x, const void *bytes, size_t length);
void exchange_send_event(struct exchange *x, json_t *event); /* of text/event-stream; takes the reference */
void exchange_finish(struct exchange *x);

/* Bytes of a stream that wait for the client to take them. */
static inline size_t exchange_unsent(const struct exchange *x) { return x->out.length - x->sent; }

/* http.c's: what became of a request, for libmicrohttpd. */
enum MHD_Result exchange_respond(struct exchange *x); /* queues the response that stands */
void exchange_wait(struct exchange *x);               /* suspends the connection until there is one */
void exchange_resume(struct exchange *x);             /* has libmicrohttpd ask for it again */
void exchange_leave(struct exchange *x);              /* the client has gone, or has everything; may free x */
void exchange_answered(struct ask *a);                /* hands an answer to its route; may free x */

#endif
