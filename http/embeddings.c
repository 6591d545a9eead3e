/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /v1/embeddings in OpenAI's shape (platform.openai.com/docs/api-reference/embeddings): each input becomes an `embed`, a `next` and a
 * `drop`. A few of a request's inputs are under way at a time, so that a long list leaves its user the sessions and tokens that others
 * of his requests need. Vectors are as the protocol has them: means of hidden states, not scaled to length one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "http/openai.h"
#include "http/routes.h"

enum {
	INPUTS = 2048, /* of one request, as OpenAI has it */
	AT_A_TIME = 8,
	WAIT_MS = 30000,
};

struct embeddings;

struct input {
	struct embeddings *e;
	unsigned index;
	json_t *session; /* its name; NULL before and after */
};

struct embeddings {
	struct exchange *x;
	bool base64;
	bool failed;     /* the response is an error: nothing more is asked for */
	char id[32];
	json_t *texts;   /* [n] strings or arrays of ids */
	json_t *data;    /* [n] what is answered; null: not there yet */
	unsigned n, begun, over;
	uint64_t tokens;
	struct input inputs[]; /* [n] */
};

static void accepted(struct exchange *x, void *arg, const json_t *reply);
static void advanced(struct exchange *x, void *arg, const json_t *reply);

static void drop_all(struct embeddings *e)
{
	for (unsigned i = 0; i < e->begun; i++)
		exchange_drop(e->x, &e->inputs[i].session);
}

/* Asks for the next input, if there is one. */
static void begin(struct embeddings *e)
{
	char request[64];
	if (e->begun == e->n || e->failed)
		return;
	struct input *k = &e->inputs[e->begun++];
	json_t *text = json_array_get(e->texts, k->index);
	snprintf(request, sizeof request, "%s-%u", e->id, k->index);
	const char *field = json_is_string(text) ? "prompt" : "ids";
	exchange_ask(e->x, json_pack("{s:s,s:s,s:O}", "op", "embed", "request_id", request, field, text), accepted, k);
}

/* Whether there is nothing to go on with: an error, or nobody who waits. */
static bool failed(struct input *k, const json_t *reply)
{
	struct embeddings *e = k->e;
	bool bad = reply == NULL || json_object_get(reply, "error") != NULL;
	if (!bad && !e->failed && !e->x->gone)
		return false;
	if (bad && !e->failed) {
		json_t *error = openai_error(reply, "input");
		exchange_fail_reply(e->x, error);
		json_decref(error);
	}
	e->failed = true;
	drop_all(e);
	return true;
}

static void ask_next(struct input *k)
{
	json_t *next = json_pack("{s:s,s:O,s:i,s:i}", "op", "next", "session", k->session, "cursor", 0, "wait_ms", WAIT_MS);
	exchange_ask(k->e->x, next, advanced, k);
}

static void accepted(struct exchange *x, void *arg, const json_t *reply)
{
	struct input *k = arg;
	(void)x;
	exchange_take_session(&k->session, reply);
	if (failed(k, reply))
		return;
	k->e->tokens += (uint64_t)json_integer_value(json_object_get(reply, "n_tokens"));
	ask_next(k);
}

/* The vector as it is asked for: numbers, or base64 of float32, little endian. */
static json_t *vector_of(const struct embeddings *e, json_t *embedding)
{
	if (!e->base64)
		return json_incref(embedding);
	size_t n = json_array_size(embedding);
	struct buf bytes = {0}, text = {0};
	for (size_t i = 0; i < n; i++) {
		float value = (float)json_number_value(json_array_get(embedding, i));
		buf_add(&bytes, &value, sizeof value);
	}
	base64_encode(bytes.data, bytes.length, &text);
	json_t *string = json_stringn(text.data, text.length);
	buf_done(&bytes);
	buf_done(&text);
	return string;
}

static void finish(struct embeddings *e)
{
	json_t *usage = json_pack("{s:I,s:I}", "prompt_tokens", (json_int_t)e->tokens, "total_tokens", (json_int_t)e->tokens);
	exchange_reply_json(e->x, 200, json_pack("{s:s,s:O,s:s,s:o}", "object", "list", "data", e->data, "model", e->x->http->model,
						 "usage", usage));
}

static void advanced(struct exchange *x, void *arg, const json_t *reply)
{
	struct input *k = arg;
	struct embeddings *e = k->e;
	(void)x;
	if (failed(k, reply))
		return;
	if (!json_is_true(json_object_get(reply, "done"))) {
		ask_next(k);
		return;
	}
	json_t *embedding = json_object_get(reply, "embedding");
	if (embedding == NULL) {
		json_t *error = exchange_not_computed("input");
		failed(k, error);
		json_decref(error);
		return;
	}
	json_array_set_new(e->data, k->index, json_pack("{s:s,s:i,s:o}", "object", "embedding", "index", (int)k->index, "embedding",
							vector_of(e, embedding)));
	exchange_drop(e->x, &k->session);
	if (++e->over == e->n)
		finish(e);
	else
		begin(e);
}

static void left(struct exchange *x)
{
	struct embeddings *e = x->task;
	e->failed = true;
	drop_all(e);
}

static void end(struct exchange *x)
{
	struct embeddings *e = x->task;
	json_decref(e->texts);
	json_decref(e->data);
	free(e);
}

/* The inputs of a body as an array, a new reference: a string, ids, or several of either. NULL and the error is the response. */
static json_t *read_inputs(struct exchange *x, const json_t *body)
{
	json_t *input = json_object_get(body, "input"), *first = json_array_get(input, 0), *text;
	bool several = json_is_string(first) || json_is_array(first);
	json_t *texts = several ? json_incref(input) : input != NULL ? json_pack("[O]", input) : json_array();
	size_t n = json_array_size(texts), i;
	bool good = n > 0 && n <= INPUTS;
	json_array_foreach (texts, i, text)
		good &= json_is_string(text) ? json_string_length(text) > 0 : json_array_size(text) > 0;
	if (good)
		return texts;
	exchange_fail(x, 400, "bad_request",
		      "field `input`: expected a string, an array of token ids, or an array of 1 to %d of these, none empty", INPUTS);
	json_decref(texts);
	return NULL;
}

/* Whether all options are ones that are served; false and the error is the response. */
static bool read_options(struct exchange *x, const json_t *body, bool *ret_base64)
{
	const json_t *format = json_object_get(body, "encoding_format"), *dimensions = json_object_get(body, "dimensions");
	bool given = format != NULL && !json_is_null(format);
	*ret_base64 = given && json_is_string(format) && strcmp(json_string_value(format), "base64") == 0;
	if (given && !*ret_base64 && !(json_is_string(format) && strcmp(json_string_value(format), "float") == 0))
		exchange_fail(x, 400, "bad_request", "field `encoding_format`: expected float or base64");
	else if (dimensions != NULL && !json_is_null(dimensions))
		exchange_fail(x, 400, "unsupported", "field `dimensions` is not supported: vectors have the model's own length");
	else
		return true;
	return false;
}

static void start(struct exchange *x, json_t *texts, bool base64)
{
	unsigned n = (unsigned)json_array_size(texts);
	struct embeddings *e = xcalloc(1, sizeof *e + n * sizeof e->inputs[0]);
	e->x = x;
	e->base64 = base64;
	e->n = n;
	e->texts = texts;
	e->data = json_array();
	exchange_draw_id("embd", e->id);
	for (unsigned i = 0; i < n; i++) {
		e->inputs[i] = (struct input){.e = e, .index = i};
		json_array_append_new(e->data, json_null());
	}
	x->task = e;
	x->end = end;
	x->left = left;
	for (unsigned i = 0; i < AT_A_TIME; i++)
		begin(e);
}

void embeddings_post(struct exchange *x, const char *rest)
{
	json_t *body = routes_body(x), *texts;
	bool base64;
	(void)rest;
	if (body == NULL)
		return;
	if (read_options(x, body, &base64) && (texts = read_inputs(x, body)) != NULL)
		start(x, texts, base64);
	json_decref(body);
}
