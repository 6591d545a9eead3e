/* SPDX-License-Identifier: Apache-2.0 */
/* Reading on by cursor, and what ends a session. A reply is a function of the log and the cursor, so it may be asked for again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/clock.h"
#include "daemon/ops.h"
#include "shm/probs.h"

enum { TOLD_MOST = 16384 }; /* ids, or likeliest tokens, of one reply */

static const char *const finishes[] = {[BOARD_STOP] = "stop", [BOARD_EOS] = "eos", [BOARD_LENGTH] = "length",
				       [BOARD_CONTEXT] = "context", [BOARD_CANCELLED] = "cancelled", [BOARD_ERROR] = "error"};

struct session *ops_lookup(struct request *q)
{
	struct server *s = q->server;
	const char *name = q->in.session.data, *colon = memchr(name, ':', q->in.session.length);
	size_t length = q->in.session.length;
	const struct owner *owner = q->owner;
	if (colon != NULL) {
		if (!q->admin)
			return NULL;
		owner = owner_get(&s->owners, strtoull(name, NULL, 10));
		length -= (size_t)(colon + 1 - name);
		name = colon + 1;
	}
	struct session *found = session_find(&s->sessions, owner, name, length);
	if (found != NULL)
		session_touch(&s->sessions, found);
	return found;
}

struct session *ops_find(struct request *q)
{
	struct session *s = ops_lookup(q);
	if (s == NULL)
		request_failf(q, IPC_NO_SESSION, "`sessions` lists yours; `generate` makes one", "there is no session \"%s\"",
			      q->in.session.data);
	return s;
}

static bool scoring(const struct session *s)
{
	return s->flags & BOARD_SCORE;
}

/* Positions below this can be told. */
static uint32_t told_until(const struct session *s)
{
	if (!scoring(s))
		return s->n_tokens;
	/* Nothing is said after the last token, unless rows are. */
	return s->finish == BOARD_LENGTH && s->scores.end + 1 >= s->n_tokens ? s->n_tokens : s->scores.end;
}

static uint32_t cursor_of(const struct request *q, const struct session *s)
{
	uint32_t least = scoring(s) ? s->scores.from : s->n_given;
	return q->in.cursor > least ? q->in.cursor : least;
}

/* Of hidden states their mean alone is told, at the end. */
static bool something_to_say(const struct request *q, const struct session *s)
{
	return !session_running(s) || (!(s->flags & BOARD_HIDDEN) && told_until(s) > cursor_of(q, s));
}

/* Adds done and, with it, finish. */
static json_t *finish_reply(json_t *r, const struct session *s, bool done)
{
	json_object_set_new(r, "done", json_boolean(done));
	if (done && s->finish)
		json_object_set_new(r, "finish", json_string(finishes[s->finish]));
	return r;
}

static json_t *logprob_json(float value)
{
	return isfinite(value) ? json_real((double)value) : json_null();
}

/* [[id, logprob], ...] of the likeliest tokens. */
static json_t *top_json(const struct prob *top, uint32_t n, uint32_t n_vocab)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < n; i++)
		if (top[i].id >= 0 && (uint32_t)top[i].id < n_vocab && isfinite(top[i].logprob))
			json_array_append_new(list, json_pack("[i,f]", (int)top[i].id, (double)top[i].logprob));
	return list;
}

/*
 * Adds what is said of n tokens, the first of which is at position `at` of the log: null of one that no sound engine wrote. A score
 * run has other logprobs already, of the same numbers.
 */
static void add_probs(const struct request *q, const struct session *s, json_t *r, uint32_t at, uint32_t n)
{
	const struct sessions *t = &q->server->sessions;
	const int32_t *log = board_log(&t->board, s->slot) + at;
	uint32_t per_token = probs_per_token(s->flags), first = at - (s->flags & BOARD_SCORE ? 1 : s->n_given);
	const struct prob *entry = probs_at(&t->board, s->slot, s->flags, first);
	json_t *logprobs = json_array(), *tops = json_array();
	for (uint32_t i = 0; i < n; i++, entry += per_token) {
		json_array_append_new(logprobs, entry->id == log[i] ? logprob_json(entry->logprob) : json_null());
		json_array_append_new(tops, top_json(entry + 1, per_token - 1, t->n_vocab));
	}
	if (!(s->flags & BOARD_SCORE))
		json_object_set(r, "logprobs", logprobs);
	if (per_token > 1)
		json_object_set(r, "top_logprobs", tops);
	json_decref(logprobs);
	json_decref(tops);
}

/* Tokens of one reply: fewer where much is told of each. */
static uint32_t tokens_that_fit(const struct session *s)
{
	uint32_t per_token = probs_per_token(s->flags);
	return per_token > 1 ? TOLD_MOST / per_token : TOLD_MOST;
}

static json_t *text_reply(struct request *q, struct session *s)
{
	struct server *server = q->server;
	const struct board *b = &server->sessions.board;
	const int32_t *log = board_log(b, s->slot);
	uint32_t from = cursor_of(q, s), most = tokens_that_fit(s), to = s->n_tokens - from > most ? from + most : s->n_tokens;
	bool done = !session_running(s) && to == s->n_tokens;
	struct buf text = {0};
	const struct stream_run run = {.r = board_record(b, s->slot), .log = log, .n_given = s->n_given, .n_tokens = s->n_tokens};
	stream_follow(&s->stream, server->store->tokenizer, &run);
	stream_text(&s->stream, from, to, done, &text);
	json_t *r = json_pack("{s:o,s:s%,s:I}", "ids", ops_ids_json(log + from, to - from), "text",
			      text.length ? text.data : "", text.length, "cursor", (json_int_t)to);
	buf_done(&text);
	if (s->flags & BOARD_LOGPROBS)
		add_probs(q, s, r, from, to - from);
	if (to == from && !done)
		json_object_set_new(r, "computed", json_integer(s->n_kv));
	if (done)
		stream_done(&s->stream); /* read to its end: made again if anybody asks */
	return finish_reply(r, s, done);
}

/* Rows whose base64 fits a message, at least one. */
static uint32_t rows_that_fit(const struct request *q, const struct session *s)
{
	uint64_t n = q->server->config->limits.message * 3 / 4 / ((uint64_t)s->scores.n_vocab * sizeof(float));
	return n > 2 ? (uint32_t)n - 1 : 1; /* room for the rest of the reply */
}

static json_t *score_reply(struct request *q, struct session *s)
{
	uint32_t from = cursor_of(q, s), until = told_until(s), most = s->scores.rows ? rows_that_fit(q, s) : tokens_that_fit(s);
	uint32_t to = until < from ? from : until - from > most ? from + most : until;
	json_t *logprobs = json_array(), *r = json_object();
	for (uint32_t p = from; p < to && p + 1 < s->n_tokens; p++)
		json_array_append_new(logprobs, logprob_json(scores_logprob(&s->scores, p)));
	json_object_set_new(r, "logprobs", logprobs);
	if (s->flags & BOARD_LOGPROBS)
		add_probs(q, s, r, from + 1, (uint32_t)json_array_size(logprobs));
	if (s->scores.rows) {
		struct buf rows = {0}, text = {0};
		for (uint32_t p = from; p < to; p++)
			buf_add(&rows, scores_logits(&s->scores, p), s->scores.n_vocab * sizeof(float));
		if (rows.length > 0)
			base64_encode(rows.data, rows.length, &text);
		json_object_set_new(r, "rows", json_stringn(text.length ? text.data : "", text.length));
		buf_done(&rows);
		buf_done(&text);
	}
	json_object_set_new(r, "cursor", json_integer(to));
	return finish_reply(r, s, !session_running(s) && to == until);
}

static json_t *embed_reply(const struct session *s)
{
	bool done = !session_running(s), whole = done && s->finish == BOARD_LENGTH && s->scores.end == s->n_tokens;
	json_t *embedding = json_array(), *r = json_pack("{s:I}", "cursor", (json_int_t)s->scores.end);
	for (uint32_t i = 0; whole && i < s->scores.n_embd; i++)
		json_array_append_new(embedding, json_real((double)scores_mean(&s->scores, i)));
	if (whole)
		json_object_set(r, "embedding", embedding);
	else if (!done)
		json_object_set_new(r, "computed", json_integer(s->n_kv));
	json_decref(embedding);
	return finish_reply(r, s, done);
}

void ops_refuse_failed(struct request *q, const struct session *s)
{
	char what[SESSION_FAILURE];
	session_failure(s, what);
	request_failf(q, IPC_ENGINE_FAILED, "its tokens can be read; fork it, or generate anew", "the session \"%s\" has been ended: %s",
		      s->name, what);
}

static void answer_next(struct request *q, struct session *s)
{
	if (s->failed && !session_running(s) && told_until(s) <= cursor_of(q, s))
		ops_refuse_failed(q, s);
	else
		request_reply(q, s->flags & BOARD_HIDDEN ? embed_reply(s) : scoring(s) ? score_reply(q, s) : text_reply(q, s));
}

static void next_late(struct request *q)
{
	struct session *s = ops_find(q);
	if (s != NULL)
		answer_next(q, s);
}

void op_next(struct request *q)
{
	struct session *s = ops_find(q);
	if (s == NULL)
		return;
	if (q->in.cursor > s->n_tokens) {
		request_failf(q, IPC_BAD_REQUEST, "a cursor is what the last reply said", "field `cursor`: %u, the session has %u tokens",
			      q->in.cursor, s->n_tokens);
		return;
	}
	s->read_at = clock_ns();
	if (scoring(s))
		run_credit(&q->server->sessions, s, q->in.cursor);
	run_resume(&q->server->sessions, s);
	if (something_to_say(q, s) || q->in.wait_ms == 0)
		answer_next(q, s);
	else
		request_wait(q, s, q->in.wait_ms, next_late);
}

static void answer_cancel(struct request *q, const struct session *s)
{
	request_reply(q, json_pack("{s:I}", "cursor", (json_int_t)s->n_tokens));
}

void op_cancel(struct request *q)
{
	struct session *s = ops_find(q);
	if (s == NULL)
		return;
	run_cancel(&q->server->sessions, s);
	if (session_running(s))
		request_wait(q, s, 0, NULL);
	else
		answer_cancel(q, s);
}

void op_drop(struct request *q)
{
	struct session *s = ops_lookup(q);
	if (s != NULL)
		run_drop(&q->server->sessions, s);
	request_reply(q, json_pack("{s:b}", "dropped", s != NULL));
}

void ops_session_changed(struct server *server, struct session *s)
{
	(void)server;
	for (struct request *q = TAILQ_FIRST(&s->waiters), *next; q != NULL; q = next) {
		next = TAILQ_NEXT(q, wait);
		s->read_at = clock_ns();
		if (q->in.op == IPC_CANCEL && !session_running(s))
			answer_cancel(q, s);
		else if (q->in.op == IPC_NEXT && something_to_say(q, s))
			answer_next(q, s);
	}
}

void ops_session_gone(struct server *server, struct session *s)
{
	(void)server;
	for (struct request *q; (q = TAILQ_FIRST(&s->waiters)) != NULL;)
		request_failf(q, IPC_NO_SESSION, "it was dropped while you waited", "there is no session \"%s\" any more", s->name);
}
