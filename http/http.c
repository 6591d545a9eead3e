/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets, libmicrohttpd and the loop. Each address has a libmicrohttpd daemon of its own without threads; its epoll descriptor
 * stands in the loop, and its timeout in a timer. It gets a turn when one of them says so and after answers were handed out.
 */
#include "http/http.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "http/exchange.h"
#include "http/identity.h"
#include "http/listen.h"
#include "http/routes.h"

const struct http_limits http_limits = {.connections = 4096, .connections_uid = 1024, .idle_s = 60, .request_s = 120,
					.head_bytes = 64 << 10};

enum { SWEEP_MS = 1000 };

TAILQ_HEAD(peers, peer);

struct listener {
	struct http *http;
	struct MHD_Daemon *daemon;
	char *address; /* NULL: handed over */
	uv_poll_t poll;
	uv_timer_t timer;
	struct peers peers;
};

/*
 * A connection, from its beginning to its end. libmicrohttpd knows when a client was last heard of; who sends a byte now and then is
 * heard of for ever, so the time that a request takes to come is measured here.
 */
struct peer {
	int fd;
	uid_t uid;      /* (uid_t)-1: it is not told */
	uint64_t since; /* uv_now() since when a request is awaited; 0: one is being answered */
	TAILQ_ENTRY(peer) link;
};

int http_check_handed(int fd, struct err *e)
{
	return listen_check_handed(fd, e);
}

int http_check(const char *list, struct err *e)
{
	for (struct listen_at a; (a = listen_next(&list)).length > 0;) {
		int r = listen_check(a, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static void turn(struct listener *l);

static void on_time(uv_timer_t *timer)
{
	turn(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	turn(poll->data);
}

static void turn(struct listener *l)
{
	MHD_UNSIGNED_LONG_LONG ms;
	if (l->daemon == NULL)
		return;
	MHD_run(l->daemon);
	if (MHD_get_timeout(l->daemon, &ms) == MHD_YES)
		uv_timer_start(&l->timer, on_time, ms, 0);
	else
		uv_timer_stop(&l->timer);
}

static void on_wake(uv_async_t *async)
{
	struct http *h = async->data;
	for (struct ask *a; (a = TAILQ_FIRST(&h->answered)) != NULL;) {
		TAILQ_REMOVE(&h->answered, a, answered);
		exchange_answered(a);
	}
	for (unsigned i = 0; i < h->n_listeners; i++)
		turn(&h->listeners[i]);
}

static void shut(const struct peer *p)
{
	shutdown(p->fd, SHUT_RDWR); /* libmicrohttpd sees its end and closes it */
}

static void on_sweep(uv_timer_t *timer)
{
	struct http *h = timer->data;
	uint64_t now = uv_now(h->options.loop), most = h->options.limits.request_s * UINT64_C(1000);
	for (unsigned i = 0; i < h->n_listeners; i++) {
		const struct peer *p;
		TAILQ_FOREACH (p, &h->listeners[i].peers, link)
			if (p->since != 0 && now - p->since >= most)
				shut(p);
	}
}

static void peer_begins(struct listener *l, struct MHD_Connection *connection, void **ret)
{
	const struct http *h = l->http;
	struct peer *p = xcalloc(1, sizeof *p), *other;
	unsigned n = 0;
	p->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	p->since = uv_now(h->options.loop);
	p->uid = identity_of_socket(p->fd);
	TAILQ_FOREACH (other, &l->peers, link)
		n += other->uid == p->uid;
	if (p->uid != (uid_t)-1 && n >= h->options.limits.connections_uid)
		shut(p);
	TAILQ_INSERT_TAIL(&l->peers, p, link);
	*ret = p;
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **of_socket, enum MHD_ConnectionNotificationCode what)
{
	struct listener *l = arg;
	struct peer *p = *of_socket;
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		peer_begins(l, connection, of_socket);
	} else if (p != NULL) {
		TAILQ_REMOVE(&l->peers, p, link);
		free(p);
		*of_socket = NULL;
		uv_async_send(&l->http->wake); /* at its limit libmicrohttpd does not listen: a turn more, and it does again */
	}
}

static struct peer *peer_of(struct MHD_Connection *connection)
{
	return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* Finds out who asks. False: a response says why not. */
static bool identify(struct exchange *x)
{
	struct http *h = x->http;
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	const char *key = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Authorization");
	const char *host = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Host");
	const char *origin = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Origin");
	bool tcp;
	uid_t uid = identity_of_peer(info->connect_fd, &tcp);
	if (tcp && !identity_is_local(host, origin)) {
		exchange_fail(x, 403, "forbidden", "falcond answers to this machine's own names and its own page alone");
		return false;
	}
	if (tcp && h->keys->n > 0) {
		x->owner = identity_of_key(h->keys, key, &x->admin);
		if (x->owner != 0)
			return true;
		exchange_fail(x, 401, "invalid_api_key", "this address needs an API key: Authorization: Bearer KEY");
		return false;
	}
	x->owner = uid;
	x->admin = h->options.admin(h->options.arg, uid);
	if (uid != (uid_t)-1 && uid != 65534) /* the overflow uid stands for many */
		return true;
	exchange_fail(x, 403, "forbidden", "the kernel does not say who you are");
	return false;
}

static void refuse_unready(struct exchange *x)
{
	const struct http *h = x->http;
	exchange_fail(x, 503, h->stopping ? "stopping" : "loading", "%s", h->options.unready);
}

static void on_held(uv_timer_t *timer)
{
	struct http *h = timer->data;
	uint64_t now = uv_now(h->options.loop), next = 0;
	struct exchange *x;
	TAILQ_FOREACH (x, &h->all, link) {
		if (x->held_until == 0 || x->status != 0)
			continue;
		if (x->held_until <= now)
			refuse_unready(x);
		else if (next == 0 || x->held_until < next)
			next = x->held_until;
	}
	if (next != 0)
		uv_timer_start(timer, on_held, next - now, 0);
}

/*
 * A request that came before there is a model. Who asks at a socket that systemd opened has started falcond by it, and waits as long
 * as people wait for an answer; after that he is told to ask again, which clients of the API do by themselves.
 */
static void hold(struct exchange *x)
{
	struct http *h = x->http;
	x->held_until = uv_now(h->options.loop) + h->options.hold_ms;
	if (!uv_is_active((uv_handle_t *)&h->held))
		uv_timer_start(&h->held, on_held, h->options.hold_ms, 0);
	exchange_wait(x);
}

/* The head of a request has come: refuses it here, before its body, or finds its route. */
static enum MHD_Result begin(struct listener *l, struct MHD_Connection *connection, const char *method, const char *path, void **ret)
{
	struct http *h = l->http;
	bool holds = l->address == NULL && h->options.hold_ms > 0 && !h->stopping;
	const char *rest, *allowed, *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Length");
	const struct route *route = routes_find(method, path, &rest, &allowed);
	struct exchange *x = xcalloc(1, sizeof *x);
	x->http = h;
	x->connection = connection;
	TAILQ_INSERT_TAIL(&h->all, x, link);
	*ret = x;
	if (route == NULL && allowed != NULL)
		exchange_fail(x, 405, "method_not_allowed", "%s takes %s", path, allowed);
	else if (route == NULL)
		exchange_fail(x, 404, "not_found", "there is nothing at %s", path);
	else if (length != NULL && strtoull(length, NULL, 10) > h->options.max_bytes)
		exchange_fail(x, 413, "too_large", "the body has %s bytes, the limit is %llu", length, (unsigned long long)h->options.max_bytes);
	else if (!route->open && identify(x) && h->model == NULL && !holds)
		refuse_unready(x);
	return x->status ? exchange_respond(x) : MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path, const char *method,
				  const char *version, const char *body, size_t *n, void **con_cls)
{
	struct http *h = ((struct listener *)arg)->http;
	struct exchange *x = *con_cls;
	(void)version;
	if (x == NULL)
		return begin(arg, connection, method, path, con_cls);
	if (x->gone)
		return MHD_NO;
	if (*n > 0) {
		if (x->body.length + *n > h->options.max_bytes)
			return MHD_NO; /* chunks without a length: the connection ends */
		buf_add(&x->body, body, *n);
		*n = 0;
		return MHD_YES;
	}
	if (!x->taken && x->status == 0) {
		const char *rest, *allowed;
		const struct route *route = routes_find(method, path, &rest, &allowed);
		if (h->model == NULL && !route->open) {
			peer_of(connection)->since = 0;
			hold(x);
			return MHD_YES;
		}
		x->taken = true;
		peer_of(connection)->since = 0;
		route->handle(x, rest);
	}
	if (x->status != 0)
		return exchange_respond(x);
	exchange_wait(x);
	return MHD_YES;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **con_cls, enum MHD_RequestTerminationCode why)
{
	struct listener *l = arg;
	struct exchange *x = *con_cls;
	(void)why;
	*con_cls = NULL;
	peer_of(connection)->since = uv_now(l->http->options.loop);
	if (x != NULL)
		exchange_leave(x);
}

static void no_log(void *arg, const char *format, va_list args)
{
	(void)arg;
	(void)format;
	(void)args; /* about clients that broke off, for the most part */
}

/* Serves a listening socket, which is taken. */
static int serve(struct http *h, int fd, struct listen_at a, struct err *e)
{
	struct listener *l = &h->listeners[h->n_listeners];
	const struct http_limits *limits = &h->options.limits;
	l->http = h;
	TAILQ_INIT(&l->peers);
	l->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, l,
				     MHD_OPTION_EXTERNAL_LOGGER, no_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
				     on_completed, l, MHD_OPTION_NOTIFY_CONNECTION, on_connection, l, MHD_OPTION_CONNECTION_LIMIT,
				     limits->connections, MHD_OPTION_CONNECTION_TIMEOUT, limits->idle_s,
				     MHD_OPTION_CONNECTION_MEMORY_LIMIT, limits->head_bytes, MHD_OPTION_END);
	if (l->daemon == NULL) {
		close(fd);
		return err_set(e, -EIO, "http: libmicrohttpd cannot serve %.*s", (int)a.length, a.length ? a.text : "");
	}
	h->n_listeners++;
	l->address = a.length ? xstrndup(a.text, a.length) : NULL;
	uv_poll_init(h->options.loop, &l->poll, MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
	uv_timer_init(h->options.loop, &l->timer);
	l->poll.data = l->timer.data = l;
	uv_poll_start(&l->poll, UV_READABLE, on_poll);
	return 0;
}

static int open_all(struct http *h, struct err *e)
{
	const char *list = h->options.listen ? h->options.listen : "";
	unsigned n = h->options.n_handed;
	for (const char *at = list; listen_next(&at).length > 0;)
		n++;
	h->listeners = xcalloc(n + 1, sizeof *h->listeners);
	int r = 0;
	for (unsigned i = 0; r == 0 && i < h->options.n_handed; i++) {
		int fd = listen_duplicate(h->options.handed[i], e);
		r = fd < 0 ? fd : serve(h, fd, (struct listen_at){0}, e);
	}
	for (struct listen_at a; r == 0 && (a = listen_next(&list)).length > 0;) {
		int fd = listen_open(a, h->options.mode, h->options.group, e);
		r = fd < 0 ? fd : serve(h, fd, a, e);
	}
	return r;
}

int http_open(const struct http_options *o, struct http **ret, struct err *e)
{
	struct http *h = xcalloc(1, sizeof *h);
	h->options = *o;
	h->keys = xcalloc(1, sizeof *h->keys);
	TAILQ_INIT(&h->answered);
	TAILQ_INIT(&h->all);
	uv_async_init(o->loop, &h->wake, on_wake);
	uv_timer_init(o->loop, &h->held);
	uv_timer_init(o->loop, &h->sweep);
	uv_timer_start(&h->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
	h->wake.data = h->held.data = h->sweep.data = h;
	*ret = h; /* a failure in the middle is ended like everything else */
	int r = identity_load(h->keys, o->keys, e);
	if (r == 0)
		r = open_all(h, e);
	h->options.handed = NULL; /* the caller's array */
	return r;
}

void http_ready(struct http *h, const char *model, uint32_t context)
{
	struct exchange *x;
	h->model = xstrdup(model);
	h->context = context;
	TAILQ_FOREACH (x, &h->all, link)
		if (x->held_until != 0)
			exchange_resume(x);
}

static void on_closed(uv_handle_t *handle)
{
	struct http *h = handle->data;
	h->closing--;
}

static void close_handle(struct http *h, uv_handle_t *handle)
{
	handle->data = h;
	h->closing++;
	uv_close(handle, on_closed);
}

void http_stop(struct http *h, const char *why)
{
	struct exchange *x;
	if (h == NULL || h->stopping)
		return;
	h->stopping = true;
	h->options.unready = why;
	uv_timer_stop(&h->sweep);
	TAILQ_FOREACH (x, &h->all, link)
		if (x->held_until != 0 && !x->taken && x->status == 0)
			refuse_unready(x);
	for (unsigned i = 0; i < 2 * h->n_listeners; i++) /* two turns: one takes the response, one sends it */
		turn(&h->listeners[i / 2]);
	TAILQ_FOREACH (x, &h->all, link) {
		x->gone = true;
		if (x->suspended)
			MHD_resume_connection(x->connection); /* libmicrohttpd does not stop with suspended ones */
		x->suspended = false;
	}
	for (unsigned i = 0; i < h->n_listeners; i++) {
		struct listener *l = &h->listeners[i];
		uv_poll_stop(&l->poll);
		MHD_stop_daemon(l->daemon);
		l->daemon = NULL;
		if (l->address != NULL)
			listen_remove((struct listen_at){l->address, strlen(l->address)});
		close_handle(h, (uv_handle_t *)&l->poll);
		close_handle(h, (uv_handle_t *)&l->timer);
	}
}

bool http_stopped(const struct http *h)
{
	return h == NULL || (h->stopping && TAILQ_EMPTY(&h->all) && h->closing == 0);
}

void http_free(struct http *h)
{
	if (h == NULL)
		return;
	CHECK(TAILQ_EMPTY(&h->all));
	for (unsigned i = 0; i < h->n_listeners; i++)
		free(h->listeners[i].address);
	identity_done(h->keys);
	free(h->keys);
	free(h->listeners);
	free(h->model);
	free(h);
}
