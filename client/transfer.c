/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions as files: export, import, and the drain that comes before a stop. Each part may be sent twice. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "client/connection.h"

enum { BUSY_MS = 50, BUSY_TRIES = 1200 };

/* Calls; while the daemon makes the file ready it is asked again. Takes the reference to request. */
static int call_when_ready(struct falcon *f, const char *op, json_t *request, json_t **ret, struct falcon_error *e)
{
	struct falcon_error error;
	int rc = -1;
	for (int i = 0; i < BUSY_TRIES; i++) {
		rc = client_call(f, op, json_copy(request), ret, &error);
		if (rc == 0 || strcmp(error.code, "busy") != 0)
			break;
		poll(NULL, 0, BUSY_MS);
	}
	json_decref(request);
	if (rc < 0 && e != NULL)
		*e = error;
	return rc;
}

int falcon_export(struct falcon *f, const char *session, bool pages, int (*take)(void *arg, const void *bytes, size_t n), void *arg,
		  struct falcon_error *e)
{
	struct falcon_request *r = falcon_request_new();
	json_int_t offset = 0;
	int rc = client_check_name(session, e);
	for (bool last = false; rc == 0 && !last;) {
		json_t *reply;
		rc = call_when_ready(f, "export", json_pack("{s:s,s:s,s:I,s:b}", "session", session, "request_id", client_request_id(r),
							    "offset", offset, "pages", pages), &reply, e);
		if (rc < 0)
			break;
		const json_t *data = json_object_get(reply, "data"), *is_last = json_object_get(reply, "last");
		size_t length = json_string_length(data);
		uint8_t *bytes = xmalloc(length / 4 * 3 + 1);
		ptrdiff_t n = json_is_string(data) ? base64_decode(json_string_value(data), length, bytes) : -1;
		last = json_is_true(is_last);
		if (n < 0 || (n == 0 && !last) || !json_is_boolean(is_last))
			rc = client_bad_reply(f, "export", e);
		else
			rc = take(arg, bytes, (size_t)n);
		offset += n;
		free(bytes);
	}
	falcon_request_free(r);
	return rc;
}

/* The last part's reply: the session that was made. */
static int take_session(struct falcon *f, const json_t *reply, char ret_session[96], uint32_t *ret_n_tokens, struct falcon_error *e)
{
	const json_t *name = json_object_get(reply, "session"), *n = json_object_get(reply, "n_tokens");
	if (!json_is_string(name) || json_string_length(name) >= 96 || !json_is_integer(n) || json_integer_value(n) < 0 ||
	    json_integer_value(n) > UINT32_MAX)
		return client_bad_reply(f, "import", e);
	if (ret_session != NULL)
		memcpy(ret_session, json_string_value(name), json_string_length(name) + 1);
	if (ret_n_tokens != NULL)
		*ret_n_tokens = (uint32_t)json_integer_value(n);
	return 0;
}

int falcon_import(struct falcon *f, const char *session, ptrdiff_t (*give)(void *arg, void *bytes, size_t n), void *arg,
		  char ret_session[96], uint32_t *ret_n_tokens, struct falcon_error *e)
{
	struct falcon_request *r = falcon_request_new();
	size_t most = (falcon_hello(f)->message - 1024) / 4 * 3;
	uint8_t *bytes = xmalloc(most);
	json_int_t offset = 0;
	int rc = session ? client_check_name(session, e) : 0;
	for (bool last = false; rc == 0 && !last;) {
		ptrdiff_t n = give(arg, bytes, most);
		struct buf text = {0};
		json_t *reply;
		if (n < 0) {
			rc = client_error(e, "interrupted", "the file cannot be read");
			break;
		}
		last = n == 0;
		base64_encode(bytes, (size_t)n, &text);
		json_t *request = json_pack("{s:s,s:I,s:s%,s:b}", "request_id", client_request_id(r), "offset", offset, "data",
					    text.length ? text.data : "", text.length, "last", last);
		if (session != NULL)
			json_object_set_new(request, "session", json_string(session));
		rc = call_when_ready(f, "import", request, &reply, e);
		if (rc == 0 && last)
			rc = take_session(f, reply, ret_session, ret_n_tokens, e);
		offset += n;
		buf_done(&text);
	}
	free(bytes);
	falcon_request_free(r);
	return rc;
}

int falcon_drain(struct falcon *f, bool spill, uint32_t *ret_sessions, uint32_t *ret_saved, struct falcon_error *e)
{
	json_t *reply;
	json_int_t sessions, saved;
	if (client_call(f, "drain", json_pack("{s:b}", "spill", spill), &reply, e) < 0)
		return -1;
	if (json_unpack(reply, "{s:I,s:I}", "sessions", &sessions, "saved", &saved) < 0)
		return client_bad_reply(f, "drain", e);
	*ret_sessions = (uint32_t)sessions;
	*ret_saved = (uint32_t)saved;
	return 0;
}
