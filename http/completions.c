/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An OpenAI request becomes a session for each answer: `generate`, `next` until it is done, `drop`. The pages of a dropped session
 * are kept while there is room, so the same conversation sent again with one more message computes only that message. A client
 * that goes away has its sessions dropped, which ends their runs.
 *
 * What a prompt's own tokens are told as (`echo` with `logprobs`) a score run of the prompt says before.
 *
 * A client that reads slowly is waited for: no more is asked for while much is unsent, and a run that nobody asks about is
 * paused by falcond itself.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "http/logprobs.h"
#include "http/openai.h"
#include "http/routes.h"

enum {
	WAIT_MS = 10000,        /* of one `next`; with nothing new, a stream gets a comment so that nobody between gives it up */
	UNSENT_MOST = 256 << 10,
};

struct choice {
	struct completion *c;
	unsigned index;
	json_t *session;        /* its name; NULL before and after */
	json_int_t cursor;
	uint64_t given, cached, generated;
	struct buf text;        /* of a whole answer */
	json_t *logprobs;       /* of a whole answer, or NULL */
	json_t *echo;           /* the prompt's text, if it is told before the answer */
	json_t *prompt;         /* {ids, logprobs, top_logprobs} of the prompt, if they are told */
	uint64_t told;          /* characters of the tokens so far, where log-probabilities are asked for */
	const char *finish;     /* NULL: not over */
	bool waiting;           /* for the client to take what was sent */
};

struct completion {
	struct exchange *x;
	struct openai o;
	char id[32];
	int64_t created;
	unsigned n, over;
	struct choice choices[]; /* [n] */
};

static void generated(struct exchange *x, void *arg, const json_t *reply);
static void advanced(struct exchange *x, void *arg, const json_t *reply);

static struct openai_head head_of(const struct completion *c)
{
	return (struct openai_head){.id = c->id, .model = c->x->http->model, .created = c->created};
}

static void ask(struct choice *k, exchange_then *then)
{
	json_t *next = json_pack("{s:s,s:O,s:I,s:i}", "op", "next", "session", k->session, "cursor", k->cursor, "wait_ms", WAIT_MS);
	exchange_ask(k->c->x, next, then, k);
}

static void ask_next(struct choice *k)
{
	ask(k, advanced);
}

static void drop(struct choice *k)
{
	exchange_drop(k->c->x, &k->session);
}

static json_t *usage_of(const struct completion *c)
{
	uint64_t given = 0, cached = 0, made = 0;
	for (unsigned i = 0; i < c->n; i++) {
		const struct choice *k = &c->choices[i];
		made += k->generated;
		if (i % c->o.n == 0) { /* the prompt of several answers counts once */
			given += k->given;
			cached += k->cached;
		}
	}
	return openai_usage(given, cached, made);
}

/* All answers are there. */
static void finish(struct completion *c)
{
	struct openai_head head = head_of(c);
	if (c->o.stream) {
		static const char last[] = "data: [DONE]\n\n";
		if (c->o.include_usage)
			exchange_send_event(c->x, openai_answer(&c->o, &head, NULL, usage_of(c)));
		exchange_send(c->x, last, sizeof last - 1);
		exchange_finish(c->x);
		return;
	}
	json_t *choices = json_array();
	for (unsigned i = 0; i < c->n; i++) {
		struct choice *k = &c->choices[i];
		json_array_append_new(choices, openai_choice(&c->o, i, k->text.data, k->text.length, k->logprobs, k->finish));
		k->logprobs = NULL;
	}
	exchange_reply_json(c->x, 200, openai_answer(&c->o, &head, choices, usage_of(c)));
}

/* The first error is the response, or the last event of a stream that has begun; the other answers are given up. */
static void fail(struct completion *c, const json_t *reply)
{
	for (unsigned i = 0; i < c->n; i++)
		drop(&c->choices[i]);
	json_t *error = openai_error(reply, "prompt");
	if (c->x->status == 0) {
		exchange_fail_reply(c->x, error);
	} else if (!c->x->finished) {
		unsigned status;
		exchange_send_event(c->x, exchange_error_json(error, &status));
		exchange_finish(c->x);
	}
	json_decref(error);
}

static bool failed(struct choice *k, const json_t *reply)
{
	struct completion *c = k->c;
	if (c->x->gone || c->x->finished || (c->x->status != 0 && !c->x->stream)) { /* nobody wants it any more */
		drop(k);
		return true;
	}
	if (reply != NULL && json_object_get(reply, "error") == NULL)
		return false;
	fail(c, reply);
	return true;
}

/* Whether a session was made that is still wanted. */
static bool accepted(struct choice *k, const json_t *reply)
{
	exchange_take_session(&k->session, reply);
	return !failed(k, reply);
}

/* Log-probabilities of the tokens in a reply, or of a prompt; or NULL. */
static json_t *logprobs_of(struct choice *k, const json_t *reply)
{
	const struct http_options *o = &k->c->x->http->options;
	const struct logprobs_shape shape = {.chat = k->c->o.chat, .all = reply == k->prompt, .token = o->token, .arg = o->arg};
	return logprobs_piece(&shape, reply, &k->told);
}

/* Tells the client what is new of an answer; the reference to logprobs (or NULL) is taken. */
static void tell(struct choice *k, bool first, const char *text, size_t length, json_t *logprobs)
{
	struct completion *c = k->c;
	struct openai_head head = head_of(c);
	if (!c->o.stream) {
		buf_add(&k->text, text ? text : "", length);
		k->logprobs = logprobs_join(k->logprobs, logprobs);
	} else if (first || length > 0 || logprobs != NULL) {
		exchange_send_event(c->x, openai_chunk(&c->o, &head, k->index, first, text, length, logprobs, NULL));
	}
	if (c->o.stream && k->finish != NULL)
		exchange_send_event(c->x, openai_chunk(&c->o, &head, k->index, false, NULL, 0, NULL, k->finish));
}

static json_t *prompt_of(const struct choice *k)
{
	return json_array_get(k->c->o.prompts, k->index / k->c->o.n);
}

/* What comes before the answer: the role in a chat, the prompt where it is echoed. */
static void tell_prompt(struct choice *k)
{
	json_t *logprobs = k->prompt ? logprobs_of(k, k->prompt) : NULL;
	if (k->c->o.stream)
		exchange_begin(k->c->x, "text/event-stream");
	if (k->c->o.chat || k->echo != NULL)
		tell(k, k->c->o.chat, k->echo ? json_string_value(k->echo) : "", json_string_length(k->echo), logprobs);
}

static void generated(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	(void)x;
	if (!accepted(k, reply))
		return;
	k->cursor = json_integer_value(json_object_get(reply, "cursor"));
	k->given = (uint64_t)json_integer_value(json_object_get(reply, "n_given"));
	k->cached = (uint64_t)json_integer_value(json_object_get(reply, "n_cached"));
	tell_prompt(k);
	ask_next(k);
}

static void ask_generate(struct choice *k)
{
	char request[48];
	snprintf(request, sizeof request, "%s-%u", k->c->id, k->index);
	exchange_ask(k->c->x, openai_generate(&k->c->o, k->index, request), generated, k);
}

static void end_choice(struct choice *k)
{
	drop(k);
	if (++k->c->over == k->c->n)
		finish(k->c);
}

static void fail_computing(struct choice *k)
{
	json_t *e = exchange_not_computed("answer");
	fail(k->c, e);
	json_decref(e);
}

/* What a score run says of the prompt: nothing of the first token, for which there is null. */
static void prompt_read(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	const char *finished = json_string_value(json_object_get(reply, "finish"));
	(void)x;
	if (failed(k, reply))
		return;
	if (finished != NULL && strcmp(finished, "error") == 0) {
		fail_computing(k);
		return;
	}
	json_array_extend(json_object_get(k->prompt, "logprobs"), json_object_get(reply, "logprobs"));
	json_array_extend(json_object_get(k->prompt, "top_logprobs"), json_object_get(reply, "top_logprobs"));
	k->cursor = json_integer_value(json_object_get(reply, "cursor"));
	if (finished == NULL) {
		ask(k, prompt_read);
		return;
	}
	drop(k);
	if (!k->c->o.prompt_alone) {
		ask_generate(k);
		return;
	}
	k->finish = "length";
	tell_prompt(k);
	end_choice(k);
}

static void prompt_accepted(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	(void)x;
	if (!accepted(k, reply))
		return;
	k->given = (uint64_t)json_integer_value(json_object_get(reply, "n_tokens"));
	ask(k, prompt_read);
}

/* The prompt is there as text and as ids: its log-probabilities come first, if they are asked for. */
static void begin_echo(struct choice *k, json_t *ids)
{
	char request[64];
	json_t *top = json_object_get(k->c->o.sampling, "logprobs");
	if (top == NULL) {
		ask_generate(k);
		return;
	}
	k->prompt = json_pack("{s:O,s:[n],s:[n]}", "ids", ids, "logprobs", "top_logprobs");
	snprintf(request, sizeof request, "%s-%u-prompt", k->c->id, k->index);
	exchange_ask(k->c->x, json_pack("{s:s,s:s,s:O,s:O}", "op", "score", "request_id", request, "ids", ids, "logprobs", top),
		     prompt_accepted, k);
}

static void prompt_tokenized(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	(void)x;
	if (!failed(k, reply))
		begin_echo(k, json_object_get(reply, "ids"));
}

static void prompt_detokenized(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	(void)x;
	if (failed(k, reply))
		return;
	k->echo = json_incref(json_object_get(reply, "text"));
	begin_echo(k, prompt_of(k));
}

static void begin(struct choice *k)
{
	json_t *prompt = prompt_of(k);
	if (!k->c->o.echo) {
		ask_generate(k);
	} else if (json_is_string(prompt)) {
		k->echo = json_incref(prompt);
		if (json_object_get(k->c->o.sampling, "logprobs") == NULL)
			ask_generate(k);
		else
			exchange_ask(k->c->x, json_pack("{s:s,s:O}", "op", "tokenize", "text", prompt), prompt_tokenized, k);
	} else {
		exchange_ask(k->c->x, json_pack("{s:s,s:O}", "op", "detokenize", "ids", prompt), prompt_detokenized, k);
	}
}

static void advanced(struct exchange *x, void *arg, const json_t *reply)
{
	struct choice *k = arg;
	if (failed(k, reply))
		return;
	const json_t *text = json_object_get(reply, "text"), *ids = json_object_get(reply, "ids");
	const char *finished = json_string_value(json_object_get(reply, "finish"));
	if (finished != NULL && strcmp(finished, "error") == 0) {
		fail_computing(k);
		return;
	}
	k->cursor = json_integer_value(json_object_get(reply, "cursor"));
	k->generated += json_array_size(ids);
	k->finish = finished ? openai_finish(finished) : NULL;
	tell(k, false, json_string_value(text), json_string_length(text), logprobs_of(k, reply));
	if (k->finish != NULL) {
		end_choice(k);
		return;
	}
	if (x->stream && json_array_size(ids) == 0)
		exchange_send(x, ": still there\n\n", 15);
	k->waiting = exchange_unsent(x) > UNSENT_MOST;
	if (!k->waiting)
		ask_next(k);
}

static void drained(struct exchange *x)
{
	struct completion *c = x->task;
	for (unsigned i = 0; i < c->n; i++) {
		struct choice *k = &c->choices[i];
		if (k->waiting && k->session != NULL)
			ask_next(k);
		k->waiting = false;
	}
}

/* What is not over ends here: the runs with their sessions. */
static void left(struct exchange *x)
{
	struct completion *c = x->task;
	for (unsigned i = 0; i < c->n; i++)
		drop(&c->choices[i]);
}

static void end(struct exchange *x)
{
	struct completion *c = x->task;
	for (unsigned i = 0; i < c->n; i++) {
		buf_done(&c->choices[i].text);
		json_decref(c->choices[i].logprobs);
		json_decref(c->choices[i].echo);
		json_decref(c->choices[i].prompt);
	}
	openai_done(&c->o);
	free(c);
}

static void start(struct exchange *x, const struct openai *o)
{
	unsigned n = o->n * (unsigned)json_array_size(o->prompts);
	struct completion *c = xcalloc(1, sizeof *c + n * sizeof c->choices[0]);
	c->x = x;
	c->o = *o;
	c->n = n;
	c->created = time(NULL);
	exchange_draw_id(o->chat ? "chatcmpl" : "cmpl", c->id);
	x->task = c;
	x->end = end;
	x->drained = drained;
	x->left = left;
	for (unsigned i = 0; i < n; i++) {
		c->choices[i] = (struct choice){.c = c, .index = i};
		begin(&c->choices[i]);
	}
}

static void complete(struct exchange *x, bool chat)
{
	json_t *body = routes_body(x);
	struct openai o;
	struct err e;
	if (body == NULL)
		return;
	int r = openai_read(body, chat, x->http->context, &o, &e);
	json_decref(body);
	if (r == 0) {
		start(x, &o);
		return;
	}
	exchange_fail(x, 400, r == -ENOTSUP ? "unsupported" : "bad_request", "%s", e.what);
	openai_done(&o);
}

void completions_text(struct exchange *x, const char *rest)
{
	(void)rest;
	complete(x, false);
}

void completions_chat(struct exchange *x, const char *rest)
{
	(void)rest;
	complete(x, true);
}
