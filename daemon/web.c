/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/web.h"

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

int web_open(struct web *w, struct err *e)
{
	const struct config *c = w->config;
	if (c->http.listen == NULL)
		return 0;
	struct http_options o = {.loop = w->loop, .listen = c->http.listen, .keys = c->http.keys, .mode = w->auth->socket_mode,
				 .group = w->auth->socket_group, .handed = -1, .max_bytes = c->limits.message, .admin = is_admin,
				 .ask = ask, .metrics = metrics, .token = token, .arg = w};
	return http_open(&o, &w->http, e);
}

void web_ready(struct web *w)
{
	const struct store *s = w->server->store;
	if (w->http != NULL)
		http_ready(w->http, s->model, s->board.header->n_context);
}

void web_tell(struct web *w, const char *what)
{
	if (w->http != NULL)
		http_tell(w->http, what);
}

void web_stop(struct web *w)
{
	http_stop(w->http);
}

bool web_stopped(const struct web *w)
{
	return http_stopped(w->http);
}

void web_done(struct web *w)
{
	http_free(w->http);
}
