/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl generate: a prompt in, its continuation out. However it ends (at the end, by a signal, because the reader went
 * away), nothing goes on for it on the daemon: a session without a name is dropped, a named one's run is cancelled.
 */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client/command.h"
#include "client/console.h"
#include "ipc/protocol.h"

static const struct option_info options[] = {
	{"n", "N", IPC_F_N, NULL},
	OPTIONS_SAMPLING,
	{"stop", "STR", IPC_F_STOP, "end before this string; may be given up to 8 times"},
	{"ignore-eos", NULL, IPC_F_IGNORE_EOS, NULL},
	{"session", "NAME", OPTION_NO_FIELD, "continue the session of that name, or begin it; it stays in the daemon"},
	{"template", "NAME", IPC_F_TEMPLATE, NULL},
	{"logprobs", "N", IPC_F_LOGPROBS, "--json has each token's log-probability, and those of the N likeliest in its place"},
	{"json", NULL, OPTION_NO_FIELD, "print one JSON object at the end instead of the text"},
	{"ids", NULL, OPTION_NO_FIELD, "the prompt is a JSON array of token ids, and so is the output"},
};

/* One generation from prompt to end. */
struct generation {
	struct falcon *f;
	struct falcon_request *request;
	const char *name; /* of the session, or NULL */
	bool json, ids;
	bool goes_on;     /* there is no prompt: the session continues where it is */
	struct falcon_run run;
	struct buf text;      /* with json */
	struct ids generated; /* with json or ids */
	json_t *logprobs, *top; /* with json and logprobs, else NULL */
	char finish[16];
	uint32_t n_generated;
	uint64_t asked_ns, accepted_ns, first_ns, last_ns; /* the request went, was accepted; tokens came */
};

/* What becomes of the prompt as typed: the request's prompt or ids. */
static int take_prompt(const struct arguments *a, struct generation *g)
{
	struct buf prompt = {0};
	struct ids ids = {0};
	struct falcon_error e;
	int rc = console_prompt(a->n_positional ? a->positional[0] : NULL, &prompt) < 0 ? COMMAND_FAILED : 0;
	if (rc == 0 && g->ids)
		rc = console_ids(prompt.data, prompt.length, &ids) < 0 ? COMMAND_FAILED : 0;
	g->goes_on = g->name != NULL && (g->ids ? ids.length : prompt.length) == 0;
	if (rc != 0 || g->goes_on)
		goto out;
	if (g->ids)
		falcon_set_ids(g->request, "ids", ids.data, ids.length, NULL);
	else if (falcon_set_text(g->request, "prompt", prompt.data, prompt.length, &e) < 0)
		rc = command_fail(&e);
out:
	ids_done(&ids);
	buf_done(&prompt);
	return rc;
}

int64_t command_session_length(struct falcon *f, const char *name, struct falcon_error *e)
{
	const char *text;
	if (falcon_sessions(f, &text, e) < 0)
		return -2;
	json_t *reply = json_loads(text, 0, NULL), *s;
	size_t i;
	int64_t length = -1;
	char *end;
	uint64_t uid = falcon_hello(f)->uid, other = strtoull(name, &end, 10);
	if (end != name && *end == ':') { /* an administrator names somebody else's */
		uid = other;
		name = end + 1;
	}
	json_array_foreach (json_object_get(reply, "sessions"), i, s) {
		const char *of = json_string_value(json_object_get(s, "session"));
		if (of != NULL && strcmp(of, name) == 0 && (uint64_t)json_integer_value(json_object_get(s, "uid")) == uid)
			length = json_integer_value(json_object_get(s, "n_tokens"));
	}
	json_decref(reply);
	return length;
}

static int no_session(const struct generation *g, struct falcon_error *e)
{
	snprintf(e->code, sizeof e->code, "no_session");
	snprintf(e->message, sizeof e->message, "there is no session \"%s\" to go on with, and no prompt to begin it", g->name);
	e->hint[0] = '\0';
	return -1;
}

static int start(struct generation *g, struct falcon_error *e)
{
	int64_t at = -1;
	if (g->name != NULL) {
		at = command_session_length(g->f, g->name, e);
		if (at == -2)
			return -1;
		if (at == -1 && g->goes_on)
			return no_session(g, e);
	}
	g->asked_ns = clock_ns();
	if (at >= 0) {
		if (falcon_append(g->f, g->name, (uint32_t)at, g->request, &g->run, e) < 0)
			return -1;
	} else {
		if (g->name != NULL)
			falcon_set_text(g->request, "session", g->name, strlen(g->name), NULL);
		if (falcon_generate(g->f, g->request, &g->run, e) < 0)
			return -1;
	}
	g->accepted_ns = clock_ns();
	return 0;
}

static json_t *real_or_null(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static void take_logprobs(struct generation *g, const struct falcon_piece *p)
{
	for (size_t i = 0; i < p->n_logprobs; i++) {
		json_t *list = json_array();
		for (size_t j = i * p->n_top; j < (i + 1) * p->n_top; j++)
			if (p->top[j].id >= 0)
				json_array_append_new(list, json_pack("[i,f]", (int)p->top[j].id, p->top[j].logprob));
		json_array_append_new(g->logprobs, real_or_null(p->logprobs[i]));
		json_array_append_new(g->top, list);
	}
}

/* Takes over one reply. 0, or -1: it cannot be written. */
static int take_piece(struct generation *g, const struct falcon_piece *p)
{
	if (p->n_ids > 0) {
		g->last_ns = clock_ns();
		if (g->n_generated == 0)
			g->first_ns = g->last_ns;
		g->n_generated += (uint32_t)p->n_ids;
	}
	if (g->json || g->ids)
		for (size_t i = 0; i < p->n_ids; i++)
			ids_add(&g->generated, p->ids[i]);
	if (g->logprobs != NULL)
		take_logprobs(g, p);
	if (g->json)
		buf_add(&g->text, p->text, p->text_length);
	else if (!g->ids)
		return console_write(p->text, p->text_length);
	return 0;
}

/* Ends what goes on for this generation on the daemon. */
static void stop_on_daemon(struct generation *g, bool finished)
{
	falcon_watch(g->f, -1, 0);
	if (g->name != NULL) {
		if (!finished)
			falcon_cancel(g->f, g->name, NULL, NULL);
		return;
	}
	/* Interrupted before the daemon told the session's name: the same request tells it. */
	if (g->run.session[0] == '\0' && falcon_generate(g->f, g->request, &g->run, NULL) < 0)
		return;
	falcon_drop(g->f, g->run.session, NULL, NULL);
}

static double ms_between(uint64_t from, uint64_t to)
{
	return from == 0 || to < from ? 0 : (double)((to - from) / 1000) / 1000;
}

static int print_object(struct generation *g)
{
	json_t *ids = json_array();
	for (size_t i = 0; i < g->generated.length; i++)
		json_array_append_new(ids, json_integer(g->generated.data[i]));
	json_t *object = json_pack("{s:s,s:o,s:o,s:I,s:I,s:I,s:s,s:I,s:f,s:f,s:f}", "session", g->run.session, "text",
				   json_stringn(g->text.data ? g->text.data : "", g->text.length), "ids", ids, "n_prompt",
				   (json_int_t)g->run.n_given, "n_cached", (json_int_t)g->run.n_cached, "n_generated",
				   (json_int_t)g->n_generated, "finish", g->finish, "seed", (json_int_t)g->run.seed, "prefill_ms",
				   ms_between(g->accepted_ns, g->first_ns), "decode_ms", ms_between(g->first_ns, g->last_ns), "ttft_ms",
				   ms_between(g->asked_ns, g->first_ns));
	if (g->logprobs != NULL) {
		json_object_set(object, "logprobs", g->logprobs);
		json_object_set(object, "top_logprobs", g->top);
	}
	struct buf out = {0};
	ipc_encode(object, &out);
	buf_add(&out, "\n", 1);
	int rc = console_write(out.data, out.length);
	buf_done(&out);
	return rc;
}

/* The run's end has come: what is left to print, and how it is judged. */
static int conclude(struct generation *g)
{
	int rc = 0;
	if (g->json)
		rc = print_object(g);
	else if (g->ids)
		rc = console_write_ids(g->generated.data, g->generated.length);
	else
		console_end_line();
	if (rc < 0 && !console_broken())
		return COMMAND_FAILED;
	if (strcmp(g->finish, "context") == 0)
		console_say("the model's context of %u tokens is full", falcon_hello(g->f)->context);
	if (strcmp(g->finish, "error") != 0 && strcmp(g->finish, "cancelled") != 0)
		return COMMAND_OK;
	struct falcon_error e;
	struct falcon_piece none;
	bool error = strcmp(g->finish, "error") == 0;
	if (error && falcon_next(g->f, g->run.session, &g->run.cursor, 0, &none, &e) < 0)
		return command_fail(&e); /* asked for more, the daemon says what happened */
	console_say(error ? "the generation failed in the daemon" : "the generation was cancelled");
	return COMMAND_FAILED;
}

/* Runs until the end, a signal or an error, and tidies up on the daemon. */
static int stream(struct generation *g)
{
	struct falcon_error e = {0};
	struct falcon_piece piece = {0};
	console_watch(g->f);
	bool started = start(g, &e) == 0, good = started, written = true;
	while (good && written && !piece.done) {
		good = falcon_next(g->f, g->run.session, &g->run.cursor, command_wait_ms(g->n_generated), &piece, &e) == 0;
		command_reading(&piece, g->run.n_given);
		written = good && take_piece(g, &piece) == 0;
	}
	if (good && written) {
		snprintf(g->finish, sizeof g->finish, "%s", piece.finish);
		int rc = conclude(g);
		stop_on_daemon(g, true);
		return rc;
	}
	bool interrupted = !good && strcmp(e.code, "interrupted") == 0;
	if (started || interrupted)
		stop_on_daemon(g, false);
	console_end_line();
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	if (console_broken())
		return COMMAND_OK; /* the reader has all it wanted */
	return good ? COMMAND_FAILED : command_fail(&e);
}

static int generate(const struct arguments *a)
{
	struct generation g = {.name = options_value(a, "session"), .json = options_has(a, "json"), .ids = options_has(a, "ids")};
	if (options_has(a, "logprobs") && !g.json)
		return options_refuse("--logprobs is told by --json alone");
	if (options_has(a, "logprobs")) {
		g.logprobs = json_array();
		g.top = json_array();
	}
	g.request = falcon_request_new();
	int rc = options_fields(a, g.request);
	if (rc == 0)
		rc = take_prompt(a, &g);
	if (rc == 0) {
		g.f = command_connect(a);
		rc = g.f == NULL ? COMMAND_NO_DAEMON : stream(&g);
	}
	falcon_close(g.f);
	falcon_request_free(g.request);
	buf_done(&g.text);
	ids_done(&g.generated);
	json_decref(g.logprobs);
	json_decref(g.top);
	return rc;
}

const struct command command_generate = {
	.name = "generate",
	.synopsis = "[PROMPT]",
	.help = "Continues a text",
	.details = "The prompt is the argument, standard input, or both: the argument first, joined by a newline. One trailing newline\n"
		   "of standard input is removed. Only the continuation is printed, as it comes. An empty prompt lets the session of\n"
		   "--session go on where it ended.\n\n"
		   "--json prints {session, text, ids, n_prompt, n_cached, n_generated, finish, seed, prefill_ms, decode_ms, ttft_ms}:\n"
		   "with --logprobs also {logprobs: [number, ...], top_logprobs: [[[id, number], ...], ...]}, one for each id.\n"
		   "prefill_ms from the request's acceptance to the first token, decode_ms from there to the last one, ttft_ms from the\n"
		   "request to the first token, all as seen from here.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.max_positional = 1,
	.run = generate,
};
