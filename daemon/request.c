/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "daemon/server.h"

enum { HEAVY_BYTES = 8 << 10 }; /* of JSON that is decoded in a thread: jansson takes 100 ns a number */

/* What is left of a request once it was answered or dropped. */
static void request_free(struct request *q)
{
	request_unwait(q);
	turns_leave(q);
	TAILQ_REMOVE(&q->server->open, q, open);
	q->owner->requests--;
	ipc_request_done(&q->in); /* zeroes, if it was not decoded */
	ids_done(&q->ids);
	ids_done(&q->before);
	buf_done(&q->chunk);
	buf_done(&q->text);
	json_decref(q->made);
	if (q->transfer != NULL)
		q->transfer->users--;
	free(q);
}

void request_make(struct request *q, json_t *reply)
{
	if (q->wire == NULL)
		q->made = reply;
	else
		ipc_encode(reply, &q->text);
}

void request_send(struct request *q)
{
	if (q->wire == NULL)
		q->answer(q->arg, q->made);
	else
		endpoint_reply(q->wire, q->text.data, q->text.length);
	q->made = NULL;
	request_free(q);
}

void request_reply(struct request *q, json_t *reply)
{
	request_make(q, reply);
	request_send(q);
}

void request_fail(struct request *q, const struct ipc_error *e)
{
	q->server->metrics.refused[e->code]++;
	request_reply(q, ipc_error_json(e));
}

void request_failf(struct request *q, enum ipc_code code, const char *hint, const char *format, ...)
{
	struct ipc_error e;
	char what[256];
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	ipc_error_set(&e, code, "%s", what);
	if (hint != NULL)
		err_hint(&e.err, "%s", hint);
	request_fail(q, &e);
}

void request_drop(struct request *q)
{
	if (q->wire == NULL)
		q->answer(q->arg, NULL);
	else
		endpoint_reply(q->wire, NULL, 0);
	request_free(q);
}

static struct request *open_request(struct server *s, uint64_t owner)
{
	struct request *q = xcalloc(1, sizeof *q);
	q->server = s;
	q->owner = owner_get(&s->owners, owner);
	q->owner->requests++;
	s->metrics.requests++;
	TAILQ_INSERT_TAIL(&s->open, q, open);
	return q;
}

/* Whether its owner may have one more open; otherwise it has been answered. */
static bool admit(struct request *q)
{
	uint64_t most = q->server->config->limits.requests;
	if (q->owner->requests <= most)
		return true;
	request_failf(q, IPC_TOO_MANY, "wait for replies before you ask for more", "you have %u open requests, the limit is %llu",
		      q->owner->requests, (unsigned long long)most);
	return false;
}

struct request *request_new(struct server *s, struct endpoint_request *wire)
{
	uid_t uid = endpoint_uid(wire);
	struct request *q = open_request(s, uid);
	size_t length;
	endpoint_bytes(wire, &length);
	q->wire = wire;
	if (!auth_known(uid)) {
		request_failf(q, IPC_FORBIDDEN, "connect as a user of this machine, outside of a user namespace",
			      "the kernel does not say who you are");
		return NULL;
	}
	q->admin = auth_admin(s->auth, uid);
	if (!admit(q))
		return NULL;
	if (length > s->config->limits.message) {
		request_failf(q, IPC_TOO_LARGE, "send the text in parts, by append", "the message has %zu bytes, the limit is %llu", length,
			      (unsigned long long)s->config->limits.message);
		return NULL;
	}
	return q;
}

static void decode(struct request *q)
{
	size_t length;
	const char *bytes = endpoint_bytes(q->wire, &length);
	q->result = ipc_decode(bytes, length, &q->in, &q->error);
}

static void decoded(struct request *q)
{
	q->decoded = q->result == 0;
	if (q->decoded)
		q->begin(q);
	else
		request_fail(q, &q->error);
}

void request_decode(struct request *q, void (*begin)(struct request *q))
{
	size_t length;
	endpoint_bytes(q->wire, &length);
	q->begin = begin;
	request_work(q, length > HEAVY_BYTES, decode, decoded);
}

struct request *request_from_within(struct server *s, uint64_t owner, bool admin, json_t *json, request_answer *answer, void *arg)
{
	struct request *q = open_request(s, owner);
	struct ipc_error e;
	q->admin = admin;
	q->answer = answer;
	q->arg = arg;
	if (!admit(q)) {
		json_decref(json);
		return NULL;
	}
	if (ipc_decode_json(json, &q->in, &e) < 0) {
		request_fail(q, &e);
		return NULL;
	}
	q->decoded = true;
	return q;
}

static void on_timer_closed(uv_handle_t *handle)
{
	free(handle);
}

struct waiting {
	uv_timer_t timer;
	struct request *request;
	void (*late)(struct request *q);
};

static void on_late(uv_timer_t *timer)
{
	struct waiting *w = (struct waiting *)timer;
	struct request *q = w->request;
	void (*late)(struct request *) = w->late;
	request_unwait(q);
	late(q);
}

void request_wait(struct request *q, struct session *on, uint64_t ms, void (*late)(struct request *q))
{
	CHECK(q->session == NULL);
	q->session = on;
	TAILQ_INSERT_TAIL(&on->waiters, q, wait);
	if (ms == 0)
		return;
	struct waiting *w = xcalloc(1, sizeof *w);
	w->request = q;
	w->late = late;
	q->timer = &w->timer;
	uv_timer_init(q->server->loop, q->timer);
	uv_timer_start(q->timer, on_late, ms, 0);
}

void request_unwait(struct request *q)
{
	if (q->session != NULL)
		TAILQ_REMOVE(&q->session->waiters, q, wait);
	q->session = NULL;
	if (q->timer != NULL)
		uv_close((uv_handle_t *)q->timer, on_timer_closed);
	q->timer = NULL;
}

static void on_work(uv_work_t *thread)
{
	struct request *q = thread->data;
	q->work(q);
}

static void on_worked(uv_work_t *thread, int status);

static void start_thread(struct request *q)
{
	q->thread.data = q;
	q->working = true;
	q->server->working++;
	CHECK(uv_queue_work(q->server->loop, &q->thread, on_work, on_worked) == 0);
}

static void on_worked(uv_work_t *thread, int status)
{
	struct request *q = thread->data, *next;
	struct server *s = q->server;
	struct owner *o = q->owner;
	CHECK(status == 0);
	q->working = false;
	s->working--;
	if (s->stopping)
		request_drop(q);
	else
		q->done(q);
	if ((next = turns_end_thread(o)) != NULL)
		start_thread(next);
}

void request_work(struct request *q, bool heavy, void (*work)(struct request *q), void (*done)(struct request *q))
{
	q->work = work;
	q->done = done;
	if (!heavy) {
		work(q);
		done(q);
	} else if (turns_begin_thread(q)) {
		start_thread(q);
	}
}
