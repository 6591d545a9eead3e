/* SPDX-License-Identifier: Apache-2.0 */
/* The table of paths, and the routes that are one question and one answer. */
#include "http/routes.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "http/openai.h"

static void get_health(struct exchange *x, const char *rest)
{
	(void)rest;
	bool ready = x->http->model != NULL;
	exchange_reply_json(x, ready ? 200 : 503, json_pack("{s:s}", "status", ready ? "ok" : "loading"));
}

static void get_metrics(struct exchange *x, const char *rest)
{
	struct buf text = {0};
	(void)rest;
	if (!x->admin) {
		exchange_fail(x, 403, "forbidden", "metrics are of all users together: for administrators");
		return;
	}
	x->http->options.metrics(x->http->options.arg, &text);
	exchange_reply(x, 200, "text/plain; version=0.0.4", &text);
}

static json_t *model_json(const struct http *h)
{
	return json_pack("{s:s,s:s,s:I,s:s,s:I}", "id", h->model, "object", "model", "created", (json_int_t)time(NULL), "owned_by",
			 "falcond", "max_model_len", (json_int_t)h->context);
}

static void get_models(struct exchange *x, const char *rest)
{
	(void)rest;
	exchange_reply_json(x, 200, json_pack("{s:s,s:[o]}", "object", "list", "data", model_json(x->http)));
}

static void get_model(struct exchange *x, const char *rest)
{
	if (strcmp(rest, x->http->model) == 0)
		exchange_reply_json(x, 200, model_json(x->http));
	else
		exchange_fail(x, 404, "model_not_found", "the model here is %s", x->http->model);
}

/* The body as a JSON object, or NULL and the error is the response. */
json_t *routes_body(struct exchange *x)
{
	json_error_t at;
	json_t *body = json_loadb(x->body.length ? x->body.data : "", x->body.length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
	if (json_is_object(body))
		return body;
	if (body == NULL)
		exchange_fail(x, 400, "bad_request", "the body is no JSON: byte %d: %s", at.position, at.text);
	else
		exchange_fail(x, 400, "bad_request", "the body is not a JSON object");
	json_decref(body);
	return NULL;
}

/* text: what the body calls the protocol's `text` or `ids`. */
static bool failed(struct exchange *x, const json_t *reply, const char *text)
{
	if (reply != NULL && json_object_get(reply, "error") == NULL)
		return false;
	json_t *error = openai_error(reply, text);
	exchange_fail_reply(x, error);
	json_decref(error);
	return true;
}

static void tokenized(struct exchange *x, void *arg, const json_t *reply)
{
	if (failed(x, reply, arg))
		return;
	json_t *ids = json_object_get(reply, "ids");
	exchange_reply_json(x, 200, json_pack("{s:O,s:I}", "tokens", ids, "count", (json_int_t)json_array_size(ids)));
}

/* {"content": text} as llama-server has it, or {"prompt": text} as vLLM. */
static void post_tokenize(struct exchange *x, const char *rest)
{
	json_t *body = routes_body(x);
	(void)rest;
	if (body == NULL)
		return;
	const char *name = json_object_get(body, "content") != NULL || json_object_get(body, "prompt") == NULL ? "content" : "prompt";
	json_t *text = json_object_get(body, name);
	if (json_is_string(text))
		exchange_ask(x, json_pack("{s:s,s:O}", "op", "tokenize", "text", text), tokenized, (void *)name);
	else
		exchange_fail(x, 400, "bad_request", "field `%s`: expected a string", name);
	json_decref(body);
}

static void detokenized(struct exchange *x, void *arg, const json_t *reply)
{
	if (failed(x, reply, arg))
		return;
	json_t *text = json_object_get(reply, "text");
	exchange_reply_json(x, 200, json_pack("{s:O,s:O}", "content", text, "prompt", text));
}

static void post_detokenize(struct exchange *x, const char *rest)
{
	json_t *body = routes_body(x);
	(void)rest;
	if (body == NULL)
		return;
	json_t *tokens = json_object_get(body, "tokens");
	if (json_is_array(tokens))
		exchange_ask(x, json_pack("{s:s,s:O}", "op", "detokenize", "ids", tokens), detokenized, (void *)"tokens");
	else
		exchange_fail(x, 400, "bad_request", "field `tokens`: expected an array of token ids");
	json_decref(body);
}

static void passed(struct exchange *x, void *arg, const json_t *reply)
{
	(void)arg;
	if (reply == NULL || json_object_get(reply, "error") != NULL)
		exchange_fail_reply(x, reply); /* its fields are the body's */
	else
		exchange_reply_json(x, 200, json_deep_copy(reply));
}

/* Any operation of the protocol: the path names it, the body has its fields. */
static void post_op(struct exchange *x, const char *rest)
{
	json_t *body = x->body.length ? routes_body(x) : json_object();
	if (body == NULL)
		return;
	json_object_set_new(body, "op", json_string(rest));
	exchange_ask(x, body, passed, NULL);
}

static const struct route routes[] = {
	{"GET", "/", page_get, true},
	{"GET", "/health", get_health, true},
	{"GET", "/metrics", get_metrics, false},
	{"GET", "/falcon/events", events_watch, false},
	{"GET", "/v1/models", get_models, false},
	{"GET", "/v1/models/", get_model, false},
	{"POST", "/v1/completions", completions_text, false},
	{"POST", "/v1/chat/completions", completions_chat, false},
	{"POST", "/v1/embeddings", embeddings_post, false},
	{"POST", "/tokenize", post_tokenize, false},
	{"POST", "/detokenize", post_detokenize, false},
	{"POST", "/falcon/", post_op, false},
};

const struct route *routes_find(const char *method, const char *path, const char **ret_rest, const char **ret_allowed)
{
	*ret_allowed = NULL;
	if (strcmp(method, "HEAD") == 0)
		method = "GET";
	for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
		const struct route *r = &routes[i];
		size_t n = strlen(r->path);
		bool prefix = n > 1 && r->path[n - 1] == '/';
		if (prefix ? strncmp(path, r->path, n) != 0 || path[n] == '\0' : strcmp(path, r->path) != 0)
			continue;
		*ret_rest = path + n;
		if (strcmp(method, r->method) == 0)
			return r;
		*ret_allowed = r->method;
	}
	return NULL;
}
