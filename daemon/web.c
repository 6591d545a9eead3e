/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/web.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "daemon/keep.h"

enum { HOLD_MS = 30000 }; /* what most clients wait for an answer at least */

static const char could_not_start[] = "falcond could not start; its log says why";

static void metrics(void *arg, struct buf *out)
{
	const struct web *w = arg;
	metrics_write(w->server, out);
}

static bool is_admin(void *arg, uid_t uid)
{
	const struct web *w = arg;
	return auth_admin(w->auth, uid);
}

static void ask(void *arg, uint64_t owner, bool admin, json_t *request, http_answer *answer, void *answer_arg)
{
	const struct web *w = arg;
	server_ask(w->server, owner, admin, request, answer, answer_arg);
}

static const char *token(void *arg, int32_t id, size_t *ret_length, bool *ret_is_text)
{
	const struct web *w = arg;
	const struct tokenizer *t = w->server->store->tokenizer;
	*ret_is_text = t != NULL && tokenizer_kind(t, id) != WEIGHTS_TOKEN_CONTROL;
	return t != NULL ? tokenizer_bytes(t, id, ret_length) : NULL;
}

/* What was inherited for HTTP into fds, of which there is room for all. How many, or -errno for a socket that must not be served. */
static int find_handed(const struct inherited *in, int *fds, struct err *e)
{
	int n = 0;
	for (size_t i = 0; i < in->n; i++) {
		const struct inherited_fd *at = &in->list[i];
		int r = keep_owns(at->name) ? -ENOTSOCK : http_check_handed(at->fd, e);
		if (r == 0)
			fds[n++] = at->fd;
		else if (r != -ENOTSOCK)
			return r;
		else if (!keep_owns(at->name))
			log_warning("descriptor %d, \"%.40s\", is none of mine: left alone", at->fd, at->name);
	}
	return n;
}

int web_open(struct web *w, struct err *e)
{
	const struct config *c = w->config;
	int *fds = xcalloc(w->inherited->n + 1, sizeof *fds);
	int n = find_handed(w->inherited, fds, e), r = n < 0 ? n : 0;
	struct http_options o = {.loop = w->loop, .listen = c->http.listen, .keys = c->http.keys, .mode = w->auth->socket_mode,
				 .group = w->auth->socket_group, .handed = fds, .n_handed = n > 0 ? (unsigned)n : 0, .hold_ms = HOLD_MS,
				 .unready = "the model is being loaded; ask again", .max_bytes = c->limits.message, .limits = http_limits,
				 .admin = is_admin,
				 .ask = ask, .metrics = metrics, .token = token, .arg = w};
	if (n > 0 || (n == 0 && c->http.listen != NULL))
		r = http_open(&o, &w->http, e);
	free(fds);
	return r;
}

void web_ready(struct web *w)
{
	const struct store *s = w->server->store;
	if (w->http != NULL)
		http_ready(w->http, s->model, s->board.n_context);
}

void web_tell(struct web *w, const char *what)
{
	if (w->http != NULL)
		http_tell(w->http, what);
}

void web_stop(struct web *w, bool failed)
{
	http_stop(w->http, failed ? could_not_start : "falcond is stopping; ask again");
}

bool web_stopped(const struct web *w)
{
	return http_stopped(w->http);
}

void web_done(struct web *w)
{
	http_free(w->http);
}

void web_hand_over(const struct web *w, struct inherited *out)
{
	for (size_t i = 0; i < w->inherited->n; i++)
		if (!keep_owns(w->inherited->list[i].name))
			inherited_add(out, w->inherited->list[i].name, w->inherited->list[i].fd);
}

static bool nobody(void *arg, uid_t uid)
{
	(void)arg;
	(void)uid;
	return false;
}

static void on_pause(uv_timer_t *timer)
{
	http_stop(timer->data, could_not_start);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

void web_pause(const struct inherited *in, unsigned ms)
{
	uv_loop_t loop;
	uv_timer_t timer;
	struct http *h = NULL;
	struct err e;
	int *fds = xcalloc(in->n + 1, sizeof *fds);
	int n = find_handed(in, fds, &e);
	uv_loop_init(&loop);
	struct http_options o = {.loop = &loop, .handed = fds, .n_handed = n > 0 ? (unsigned)n : 0, .max_bytes = 1 << 20,
				 .limits = http_limits, .admin = nobody,
				 .unready = could_not_start};
	if (http_open(&o, &h, &e) < 0)
		log_error("%s", e.what);
	uv_timer_init(&loop, &timer);
	timer.data = h;
	uv_timer_start(&timer, on_pause, ms, 0);
	while (!http_stopped(h))
		uv_run(&loop, UV_RUN_ONCE);
	uv_walk(&loop, close_handle, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	http_free(h);
	free(fds);
}
