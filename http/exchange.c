/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmicrohttpd calls back for bytes; falcond answers whenever it can. Between the two a connection is suspended: from the end
 * of the request until there is a response, and in a stream whenever all that is there was sent. A reader of bytes suspends
 * the connection before it says that there are none, and after every resumption libmicrohttpd gets a turn, else it waits for ever.
 *
 * While a connection is suspended libmicrohttpd does not look at it, so its end is watched here: a client that goes away must not
 * keep the engine busy.
 */
#include "http/exchange.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "http/openai.h"
#include "ipc/protocol.h"

static void on_watch_closed(uv_handle_t *handle)
{
	struct http *h = handle->data;
	h->closing--;
	free(handle);
}

static void unwatch(struct exchange *x)
{
	if (x->watch == NULL)
		return;
	uv_poll_stop(x->watch); /* at once: the descriptor is libmicrohttpd's, which closes it when it likes */
	x->watch->data = x->http;
	x->http->closing++;
	uv_close((uv_handle_t *)x->watch, on_watch_closed);
	x->watch = NULL;
}

void exchange_resume(struct exchange *x)
{
	unwatch(x);
	if (!x->suspended)
		return;
	x->suspended = false;
	MHD_resume_connection(x->connection);
	uv_async_send(&x->http->wake);
}

static void on_hangup(uv_poll_t *watch, int status, int events)
{
	struct exchange *x = watch->data;
	if (status == 0 && !(events & UV_DISCONNECT))
		return;
	x->gone = true;
	exchange_resume(x);
}

static void watch(struct exchange *x)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (x->watch != NULL || info == NULL)
		return;
	x->watch = xcalloc(1, sizeof *x->watch);
	x->watch->data = x;
	if (uv_poll_init(x->http->options.loop, x->watch, info->connect_fd) < 0) {
		free(x->watch);
		x->watch = NULL;
		return;
	}
	uv_poll_start(x->watch, UV_DISCONNECT, on_hangup);
}

static void suspend(struct exchange *x)
{
	x->suspended = true;
	MHD_suspend_connection(x->connection);
	watch(x);
}

void exchange_wait(struct exchange *x)
{
	suspend(x);
}

static void free_exchange(struct exchange *x)
{
	if (x->end != NULL)
		x->end(x);
	TAILQ_REMOVE(&x->http->all, x, link);
	buf_done(&x->body);
	buf_done(&x->out);
	free(x);
}

void exchange_leave(struct exchange *x)
{
	unwatch(x);
	x->gone = true;
	x->connection = NULL;
	x->suspended = false;
	if (x->left != NULL)
		x->left(x);
	if (x->asked == 0)
		free_exchange(x);
}

static void on_answer(void *arg, json_t *reply)
{
	struct ask *a = arg;
	a->reply = reply;
	TAILQ_INSERT_TAIL(&a->x->http->answered, a, answered);
	uv_async_send(&a->x->http->wake);
}

void exchange_ask(struct exchange *x, json_t *request, exchange_then *then, void *arg)
{
	struct ask *a = xcalloc(1, sizeof *a);
	CHECK(request != NULL);
	*a = (struct ask){.x = x, .then = then, .arg = arg};
	x->asked++;
	x->http->options.ask(x->http->options.arg, x->owner, x->admin, request, on_answer, a);
}

static void ignore(struct exchange *x, void *arg, const json_t *reply)
{
	(void)x;
	(void)arg;
	(void)reply;
}

void exchange_drop(struct exchange *x, json_t **session)
{
	if (*session != NULL)
		exchange_ask(x, json_pack("{s:s,s:o}", "op", "drop", "session", *session), ignore, NULL);
	*session = NULL;
}

void exchange_take_session(json_t **session, const json_t *reply)
{
	json_t *made = json_object_get(reply, "session");
	if (made != NULL)
		*session = json_incref(made);
}

json_t *exchange_not_computed(const char *what)
{
	char message[64];
	snprintf(message, sizeof message, "this %s could not be computed", what);
	return json_pack("{s:{s:s,s:s,s:s}}", "error", "code", "engine_failed", "message", message, "hint", "");
}

void exchange_draw_id(const char *prefix, char ret_id[32])
{
	uint64_t random;
	CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
	snprintf(ret_id, 32, "%s-%016llx", prefix, (unsigned long long)random);
}

void exchange_answered(struct ask *a)
{
	struct exchange *x = a->x;
	a->then(x, a->arg, a->reply);
	json_decref(a->reply);
	free(a);
	x->asked--;
	if (x->asked == 0 && x->connection == NULL)
		free_exchange(x);
}

void exchange_reply(struct exchange *x, unsigned status, const char *type, struct buf *body)
{
	if (x->status != 0 || x->gone) {
		buf_done(body);
		return;
	}
	x->status = status;
	x->type = type;
	x->out = *body;
	*body = (struct buf){0};
	exchange_resume(x);
}

void exchange_reply_json(struct exchange *x, unsigned status, json_t *json)
{
	struct buf body = {0};
	ipc_encode(json, &body);
	buf_add(&body, "\n", 1);
	exchange_reply(x, status, "application/json", &body);
}

static json_t *error_json(unsigned status, const char *code, const char *message)
{
	const char *type = status == 401 ? "authentication_error" : status == 403 ? "permission_error" : status == 429 ? "rate_limit_error"
			 : status >= 500 ? "server_error" : "invalid_request_error";
	size_t length;
	const char *field = openai_error_field(message, &length);
	json_t *param = field ? json_stringn(field, length) : json_null();
	return json_pack("{s:{s:s,s:s,s:o,s:s}}", "error", "message", message, "type", type, "param", param, "code", code);
}

void exchange_fail(struct exchange *x, unsigned status, const char *code, const char *format, ...)
{
	char message[512];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	for (char *c = message; *c != '\0'; c++)
		if ((unsigned char)*c > 0x7e) /* vsnprintf may have cut a character in two */
			*c = '?';
	exchange_reply_json(x, status, error_json(status, code, message));
}

static unsigned status_of(const char *code)
{
	static const struct { const char *code; unsigned status; } table[] = {
		{"too_large", 413}, {"too_many", 429}, {"no_session", 404}, {"exists", 409}, {"busy", 409}, {"at_mismatch", 409},
		{"no_memory", 503}, {"loading", 503}, {"forbidden", 403}, {"engine_failed", 500},
	};
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (strcmp(code, table[i].code) == 0)
			return table[i].status;
	return 400;
}

json_t *exchange_error_json(const json_t *reply, unsigned *ret_status)
{
	const json_t *e = json_object_get(reply, "error");
	const char *code = json_string_value(json_object_get(e, "code")), *what = json_string_value(json_object_get(e, "message"));
	const char *hint = json_string_value(json_object_get(e, "hint"));
	if (code == NULL || what == NULL) {
		*ret_status = 503;
		return error_json(503, "stopping", "falcond is stopping; ask again");
	}
	struct buf message = {0};
	buf_printf(&message, "%s%s%s", what, hint && hint[0] ? "; " : "", hint ? hint : "");
	*ret_status = status_of(code);
	json_t *json = error_json(*ret_status, strcmp(code, "context_full") == 0 ? "context_length_exceeded" : code, message.data);
	buf_done(&message);
	return json;
}

void exchange_fail_reply(struct exchange *x, const json_t *reply)
{
	unsigned status;
	json_t *json = exchange_error_json(reply, &status);
	exchange_reply_json(x, status, json);
}

void exchange_begin(struct exchange *x, const char *type)
{
	if (x->status != 0 || x->gone)
		return;
	x->status = 200;
	x->type = type;
	x->stream = true;
	exchange_resume(x);
}

void exchange_send(struct exchange *x, const void *bytes, size_t length)
{
	if (x->gone || length == 0)
		return;
	buf_add(&x->out, bytes, length);
	exchange_resume(x);
}

void exchange_send_event(struct exchange *x, json_t *event)
{
	struct buf line = {0};
	buf_printf(&line, "data: ");
	ipc_encode(event, &line);
	buf_printf(&line, "\n\n");
	exchange_send(x, line.data, line.length);
	buf_done(&line);
}

void exchange_finish(struct exchange *x)
{
	x->finished = true;
	if (!x->gone)
		exchange_resume(x);
}

/* libmicrohttpd wants bytes of a stream. */
static ssize_t read_stream(void *arg, uint64_t at, char *to, size_t room)
{
	struct exchange *x = arg;
	size_t n = exchange_unsent(x) < room ? exchange_unsent(x) : room;
	(void)at;
	if (x->gone)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (n == 0 && x->finished)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (n == 0) {
		suspend(x);
		return 0;
	}
	memcpy(to, x->out.data + x->sent, n);
	x->sent += n;
	if (x->sent == x->out.length) {
		x->sent = x->out.length = 0;
		if (x->drained != NULL)
			x->drained(x);
	}
	return (ssize_t)n;
}

enum MHD_Result exchange_respond(struct exchange *x)
{
	enum { BLOCK = 16 << 10 };
	struct MHD_Response *r = x->stream ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, x, NULL)
					   : MHD_create_response_from_buffer(x->out.length, x->out.data, MHD_RESPMEM_PERSISTENT);
	if (r == NULL)
		return MHD_NO;
	MHD_add_response_header(r, "Content-Type", x->type);
	MHD_add_response_header(r, "Cache-Control", "no-store");
	MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(r, "Content-Security-Policy",
				"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
				"frame-ancestors 'none'");
	if (x->status == 401)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
	if (x->status == 429 || x->status == 503)
		MHD_add_response_header(r, "Retry-After", x->http->model != NULL ? "1" : "5");
	enum MHD_Result queued = MHD_queue_response(x->connection, x->status, r);
	MHD_destroy_response(r);
	return queued;
}
