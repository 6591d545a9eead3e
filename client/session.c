/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions: making them, reading on by cursor, ending them. Every reply is checked before anything is taken from it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "client/connection.h"

int client_check_name(const char *session, struct falcon_error *e)
{
	json_t *name = json_string(session);
	json_decref(name);
	return name != NULL ? 0 : client_error(e, "bad_request", "the session's name is not UTF-8");
}

/* The count of that name, 0 .. 2^32-1. 0 or -1. */
static int count_of(const json_t *reply, const char *name, uint32_t *ret)
{
	const json_t *v = json_object_get(reply, name);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
		return -1;
	*ret = (uint32_t)json_integer_value(v);
	return 0;
}

static int session_of(const json_t *reply, struct falcon_run *run)
{
	const json_t *v = json_object_get(reply, "session");
	if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) >= sizeof run->session)
		return -1;
	snprintf(run->session, sizeof run->session, "%s", json_string_value(v));
	return 0;
}

static int start_run(struct falcon *f, const char *op, json_t *request, struct falcon_run *ret, struct falcon_error *e)
{
	json_t *reply;
	struct falcon_run run = {0};
	if (client_call(f, op, request, &reply, e) < 0)
		return -1;
	const json_t *seed = json_object_get(reply, "seed");
	if (session_of(reply, &run) < 0 || count_of(reply, "cursor", &run.cursor) < 0 ||
	    count_of(reply, "n_given", &run.n_given) < 0 || count_of(reply, "n_cached", &run.n_cached) < 0 || !json_is_integer(seed))
		return client_bad_reply(f, op, e);
	run.seed = (uint64_t)json_integer_value(seed);
	*ret = run;
	return 0;
}

int falcon_generate(struct falcon *f, struct falcon_request *r, struct falcon_run *ret, struct falcon_error *e)
{
	json_t *request = client_fields(r, e);
	if (request == NULL)
		return -1;
	json_object_set_new(request, "request_id", json_string(client_request_id(r)));
	return start_run(f, "generate", request, ret, e);
}

int falcon_append(struct falcon *f, const char *session, uint32_t at, struct falcon_request *r, struct falcon_run *ret,
		  struct falcon_error *e)
{
	json_t *request = client_check_name(session, e) == 0 ? client_fields(r, e) : NULL;
	if (request == NULL)
		return -1;
	json_object_set_new(request, "session", json_string(session));
	json_object_set_new(request, "at", json_integer(at));
	return start_run(f, "append", request, ret, e);
}

static int ids_of(const json_t *reply, struct ids *list)
{
	size_t n = json_array_size(reply);
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_array_get(reply, i);
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
			return -1;
		ids_add(list, (int32_t)json_integer_value(id));
	}
	return 0;
}

/* Logits of a score's reply: base64 of little-endian float32, whole rows of the vocabulary. */
static int rows_of(struct falcon *f, const json_t *rows, struct falcon_piece *piece)
{
	size_t length = json_string_length(rows), row = falcon_hello(f)->vocab * sizeof(float);
	if (!json_is_string(rows) || row == 0)
		return -1;
	uint8_t *bytes = xmalloc(length / 4 * 3 + 1);
	ptrdiff_t n = base64_decode(json_string_value(rows), length, bytes);
	if (n < 0 || (size_t)n % row != 0) {
		free(bytes);
		return -1;
	}
	for (ptrdiff_t i = 0; i < n; i += 4) {
		uint32_t bits = bytes[i] | (uint32_t)bytes[i + 1] << 8 | (uint32_t)bytes[i + 2] << 16 | (uint32_t)bytes[i + 3] << 24;
		memcpy(bytes + i, &bits, sizeof bits);
	}
	piece->rows = client_results(f)->rows = (float *)(void *)bytes;
	piece->n_rows = (size_t)n / row;
	return 0;
}

/* An array of numbers, and null where there is none. */
static int logprobs_of(struct falcon *f, const json_t *logprobs, struct falcon_piece *piece)
{
	if (!json_is_array(logprobs))
		return -1;
	size_t n = json_array_size(logprobs);
	double *values = client_results(f)->logprobs = xcalloc(n + 1, sizeof *values);
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_array_get(logprobs, i);
		if (!json_is_number(v) && !json_is_null(v))
			return -1;
		values[i] = json_is_number(v) ? json_number_value(v) : (double)NAN;
	}
	piece->logprobs = values;
	piece->n_logprobs = n;
	return 0;
}

/* What a score's reply has beside the cursor. */
static int scores_of(struct falcon *f, const json_t *reply, struct falcon_piece *piece)
{
	const json_t *rows = json_object_get(reply, "rows");
	if (logprobs_of(f, json_object_get(reply, "logprobs"), piece) < 0)
		return -1;
	return rows == NULL || json_is_null(rows) ? 0 : rows_of(f, rows, piece);
}

/* [[[id, logprob], ...], ...], a list a token; the longest one says how many there are of each. */
static int top_of(struct falcon *f, const json_t *lists, struct falcon_piece *piece)
{
	size_t n = json_array_size(lists), most = 0, i, j;
	json_t *list, *pair;
	json_array_foreach (lists, i, list)
		most = json_array_size(list) > most ? json_array_size(list) : most;
	if (!json_is_array(lists) || n != piece->n_ids || most > 1 << 16)
		return -1;
	struct falcon_likely *top = client_results(f)->top = xcalloc(n * most + 1, sizeof *top);
	for (i = 0; i < n * most; i++)
		top[i].id = -1;
	json_array_foreach (lists, i, list)
		json_array_foreach (list, j, pair) {
			const json_t *id = json_array_get(pair, 0), *logprob = json_array_get(pair, 1);
			if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX || !json_is_number(logprob))
				return -1;
			top[i * most + j] = (struct falcon_likely){.id = (int32_t)json_integer_value(id), .logprob = json_number_value(logprob)};
		}
	piece->top = top;
	piece->n_top = most;
	return 0;
}

/* What a generating run's reply has beside the cursor. */
static int tokens_of(struct falcon *f, const json_t *reply, struct falcon_piece *piece)
{
	const json_t *text = json_object_get(reply, "text"), *logprobs = json_object_get(reply, "logprobs");
	const json_t *top = json_object_get(reply, "top_logprobs");
	struct ids *list = &client_results(f)->ids;
	if (!json_is_string(text) || ids_of(json_object_get(reply, "ids"), list) < 0)
		return -1;
	piece->text = json_string_value(text);
	piece->text_length = json_string_length(text);
	piece->ids = list->data;
	piece->n_ids = list->length;
	if (logprobs != NULL && (logprobs_of(f, logprobs, piece) < 0 || piece->n_logprobs != piece->n_ids))
		return -1;
	return top == NULL ? 0 : top_of(f, top, piece);
}

int falcon_next(struct falcon *f, const char *session, uint32_t *cursor, uint32_t wait_ms, struct falcon_piece *ret,
		struct falcon_error *e)
{
	struct falcon_piece piece = {.text = "", .first = *cursor};
	uint32_t behind;
	json_t *reply;
	if (client_check_name(session, e) < 0)
		return -1;
	if (client_call(f, "next", json_pack("{s:s,s:I,s:I}", "session", session, "cursor", (json_int_t)*cursor, "wait_ms",
					     (json_int_t)wait_ms), &reply, e) < 0)
		return -1;
	const json_t *done = json_object_get(reply, "done"), *finish = json_object_get(reply, "finish");
	bool generates = json_is_array(json_object_get(reply, "ids"));
	if (count_of(reply, "cursor", &behind) < 0 || !json_is_boolean(done))
		return client_bad_reply(f, "next", e);
	if (generates ? tokens_of(f, reply, &piece) < 0 : scores_of(f, reply, &piece) < 0)
		return client_bad_reply(f, "next", e);
	piece.computed = (uint32_t)json_integer_value(json_object_get(reply, "computed"));
	piece.done = json_is_true(done);
	if (json_is_string(finish))
		snprintf(piece.finish, sizeof piece.finish, "%s", json_string_value(finish));
	*cursor = behind;
	*ret = piece;
	return 0;
}

/* An operation that has a session's name and nothing else. */
static int call_on(struct falcon *f, const char *op, const char *session, json_t **ret, struct falcon_error *e)
{
	if (client_check_name(session, e) < 0)
		return -1;
	return client_call(f, op, json_pack("{s:s}", "session", session), ret, e);
}

int falcon_cancel(struct falcon *f, const char *session, uint32_t *ret_cursor, struct falcon_error *e)
{
	json_t *reply;
	uint32_t cursor;
	if (call_on(f, "cancel", session, &reply, e) < 0)
		return -1;
	if (count_of(reply, "cursor", &cursor) < 0)
		return client_bad_reply(f, "cancel", e);
	if (ret_cursor != NULL)
		*ret_cursor = cursor;
	return 0;
}

int falcon_drop(struct falcon *f, const char *session, bool *ret_dropped, struct falcon_error *e)
{
	json_t *reply;
	if (call_on(f, "drop", session, &reply, e) < 0)
		return -1;
	const json_t *dropped = json_object_get(reply, "dropped");
	if (!json_is_boolean(dropped))
		return client_bad_reply(f, "drop", e);
	if (ret_dropped != NULL)
		*ret_dropped = json_is_true(dropped);
	return 0;
}

int falcon_fork(struct falcon *f, const char *session, struct falcon_request *r, struct falcon_run *ret, struct falcon_error *e)
{
	json_t *reply, *request = client_check_name(session, e) == 0 ? client_fields(r, e) : NULL;
	struct falcon_run run = {0};
	if (request == NULL)
		return -1;
	json_object_set_new(request, "session", json_string(session));
	json_object_set_new(request, "request_id", json_string(client_request_id(r)));
	if (client_call(f, "fork", request, &reply, e) < 0)
		return -1;
	if (session_of(reply, &run) < 0 || count_of(reply, "cursor", &run.cursor) < 0)
		return client_bad_reply(f, "fork", e);
	*ret = run;
	return 0;
}

/* Asks for what is computed of a whole text and then read: op is "score" or "embed". */
static int start_reading(struct falcon *f, const char *op, struct falcon_request *r, struct falcon_run *ret, uint32_t *ret_n_tokens,
			 struct falcon_error *e)
{
	json_t *reply, *request = client_fields(r, e);
	struct falcon_run run = {0};
	uint32_t n_tokens;
	if (request == NULL)
		return -1;
	json_object_set_new(request, "request_id", json_string(client_request_id(r)));
	if (client_call(f, op, request, &reply, e) < 0)
		return -1;
	if (session_of(reply, &run) < 0 || count_of(reply, "n_tokens", &n_tokens) < 0)
		return client_bad_reply(f, op, e);
	*ret = run;
	*ret_n_tokens = n_tokens;
	return 0;
}

int falcon_score(struct falcon *f, struct falcon_request *r, struct falcon_run *ret, uint32_t *ret_n_tokens, struct falcon_error *e)
{
	return start_reading(f, "score", r, ret, ret_n_tokens, e);
}

static int floats_of(const json_t *list, float *out)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		if (!json_is_number(json_array_get(list, i)))
			return -1;
		out[i] = (float)json_number_value(json_array_get(list, i));
	}
	return 0;
}

/* Waits for the embedding of a session; *ret, the caller's, has *ret_n numbers. */
static int read_embedding(struct falcon *f, const char *session, float **ret, size_t *ret_n, struct falcon_error *e)
{
	enum { WAIT_MS = 30000 };
	json_t *reply;
	do {
		json_t *request = json_pack("{s:s,s:i,s:i}", "session", session, "cursor", 0, "wait_ms", WAIT_MS);
		if (client_call(f, "next", request, &reply, e) < 0)
			return -1;
		if (!json_is_boolean(json_object_get(reply, "done")))
			return client_bad_reply(f, "next", e);
	} while (!json_is_true(json_object_get(reply, "done")));
	const json_t *embedding = json_object_get(reply, "embedding");
	if (embedding == NULL)
		return client_error(e, "engine_failed", "the text could not be computed");
	size_t n = json_array_size(embedding);
	float *values = xcalloc(n + 1, sizeof *values);
	if (n == 0 || floats_of(embedding, values) < 0) {
		free(values);
		return client_bad_reply(f, "next", e);
	}
	*ret = values;
	*ret_n = n;
	return 0;
}

int falcon_embed(struct falcon *f, struct falcon_request *r, const float **ret_embedding, size_t *ret_n, uint32_t *ret_n_tokens,
		 struct falcon_error *e)
{
	struct falcon_run run;
	uint32_t n_tokens;
	float *values = NULL;
	if (start_reading(f, "embed", r, &run, &n_tokens, e) < 0)
		return -1;
	int rc = read_embedding(f, run.session, &values, ret_n, e);
	falcon_drop(f, run.session, NULL, NULL);
	if (rc < 0)
		return -1;
	client_results(f)->rows = values; /* the drop's reply has emptied the results */
	*ret_embedding = values;
	if (ret_n_tokens != NULL)
		*ret_n_tokens = n_tokens;
	return 0;
}

int falcon_tokenize(struct falcon *f, const char *text, size_t length, bool special, const int32_t **ret_ids, size_t *ret_n,
		    struct falcon_error *e)
{
	json_t *reply, *string = json_stringn(text, length);
	if (string == NULL) {
		client_error(e, "bad_request", "the text is not UTF-8");
		client_hint(e, "convert it first, with iconv for instance");
		return -1;
	}
	if (client_call(f, "tokenize", json_pack("{s:o,s:b}", "text", string, "special", special), &reply, e) < 0)
		return -1;
	struct ids *list = &client_results(f)->ids;
	const json_t *ids = json_object_get(reply, "ids");
	if (!json_is_array(ids) || ids_of(ids, list) < 0)
		return client_bad_reply(f, "tokenize", e);
	*ret_ids = list->data;
	*ret_n = list->length;
	return 0;
}

int falcon_detokenize(struct falcon *f, const int32_t *ids, size_t n, const char **ret_text, size_t *ret_length,
		      struct falcon_error *e)
{
	json_t *reply, *array = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_integer(ids[i]));
	if (client_call(f, "detokenize", json_pack("{s:o}", "ids", array), &reply, e) < 0)
		return -1;
	const json_t *text = json_object_get(reply, "text");
	if (!json_is_string(text))
		return client_bad_reply(f, "detokenize", e);
	*ret_text = json_string_value(text);
	*ret_length = json_string_length(text);
	return 0;
}

/* The reply to an operation without fields, as text. */
static int call_for_text(struct falcon *f, const char *op, const char **ret, struct falcon_error *e)
{
	json_t *reply;
	if (client_call(f, op, json_object(), &reply, e) < 0)
		return -1;
	struct buf *text = &client_results(f)->text;
	char *json = json_dumps(reply, JSON_COMPACT);
	if (json == NULL)
		return client_bad_reply(f, op, e);
	buf_add(text, json, strlen(json));
	free(json);
	*ret = text->data;
	return 0;
}

int falcon_sessions(struct falcon *f, const char **ret_json, struct falcon_error *e)
{
	return call_for_text(f, "sessions", ret_json, e);
}

int falcon_status(struct falcon *f, const char **ret_json, struct falcon_error *e)
{
	return call_for_text(f, "status", ret_json, e);
}

int falcon_upgrade(struct falcon *f, struct falcon_error *e)
{
	const char *reply;
	return call_for_text(f, "upgrade", &reply, e);
}
