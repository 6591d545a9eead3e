/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request from its arrival to its reply. It may wait in between: for a session to go on, or for a thread to tokenize. It
 * came over the socket, or from another part of falcond that speaks the protocol for clients of its own (HTTP).
 */
#ifndef FALCON_DAEMON_REQUEST_H
#define FALCON_DAEMON_REQUEST_H

#include <sys/queue.h>
#include <uv.h>

#include "daemon/owner.h"
#include "ipc/endpoint.h"
#include "ipc/protocol.h"

struct server;
struct session;

/* Takes the reply and its reference; NULL: falcond stops. It is called from the middle of things and must not ask from within. */
typedef void request_answer(void *arg, json_t *reply);

struct request {
	struct server *server;
	struct endpoint_request *wire; /* NULL: answer(arg) takes the reply */
	request_answer *answer;
	void *arg;
	struct owner *owner;
	bool admin;
	bool decoded;              /* in is filled */
	struct ipc_request in;

	struct ids before;         /* the tokens that an appended prompt follows, the last of them */
	struct ids ids;            /* tokens of the prompt, once made */
	struct ipc_error error;    /* of making them */
	int result;                /* of making them, or of whatever a thread does: 0 or -1 */
	struct transfer *transfer; /* whose part it is, while a thread is at it */
	struct buf chunk;          /* that part, in base64 */
	size_t got;                /* its bytes */

	void (*work)(struct request *q); /* what a thread does, or is to do */
	void (*done)(struct request *q); /* and the loop afterwards */
	void (*begin)(struct request *q); /* once it is decoded */
	uv_work_t thread;
	bool working;              /* a thread is at it */
	struct buf text;           /* the reply, once a thread has made it; or, for those from within, */
	json_t *made;
	struct turns_queue *queue; /* in which it waits for its turn or for a thread, or NULL */
	TAILQ_ENTRY(request) queued;

	struct session *session;   /* whose waiters it is among, or NULL */
	uv_timer_t *timer;         /* ends the wait */
	TAILQ_ENTRY(request) wait; /* in session->waiters */
	TAILQ_ENTRY(request) open; /* in server->open */
};

/* Takes a message that has arrived and counts it. NULL: it has been answered already. */
struct request *request_new(struct server *s, struct endpoint_request *wire);

/* Decodes it, if it is large in a thread, and then calls `begin`; one that is no request is answered. */
void request_decode(struct request *q, void (*begin)(struct request *q));

/* Both of a request from within, whose caller knows who asks; takes the reference to json. NULL: it has been answered. */
struct request *request_from_within(struct server *s, uint64_t owner, bool admin, json_t *json, request_answer *answer, void *arg);

/* Answers and frees the request; takes the reference. */
void request_reply(struct request *q, json_t *reply);
void request_fail(struct request *q, const struct ipc_error *e);
void request_failf(struct request *q, enum ipc_code code, const char *hint, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Frees it without an answer: falcond stops, and the client asks again elsewhere. */
void request_drop(struct request *q);

/*
 * Waits for the session to go on; after `ms` (0: for ever) `late` is called, which answers. The request leaves the waiters by
 * request_unwait() or with its reply.
 */
void request_wait(struct request *q, struct session *on, uint64_t ms, void (*late)(struct request *q));
void request_unwait(struct request *q);

/*
 * Calls `work` in a thread if it is `heavy`, else here, then `done` in the loop. A request whose server stops meanwhile is
 * dropped instead. What takes longer than a millisecond is heavy: nobody else is served meanwhile.
 */
void request_work(struct request *q, bool heavy, void (*work)(struct request *q), void (*done)(struct request *q));

/* For `work`: makes the reply ready, whose text may be long, for request_send() to answer with. Takes the reference. */
void request_make(struct request *q, json_t *reply);
void request_send(struct request *q);

#endif
