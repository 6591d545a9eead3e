/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl chat: a conversation by the model's own chat template. On a terminal lines are edited and remembered (libedit); in
 * a pipe standard input is one message, as with generate. The conversation is a session: with --session it stays in the daemon and
 * is gone on with the next time, else it goes at the end.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/console.h"
#include "client/lines.h"
#include "ipc/protocol.h"

static const struct option_info options[] = {
	{"session", "NAME", OPTION_NO_FIELD, "go on with the session of that name, or begin it; it stays in the daemon"},
	{"system", "TEXT", OPTION_NO_FIELD, "the system message of a conversation that begins"},
	{"template", "NAME", IPC_F_TEMPLATE, "chat template; without it the model's own"},
	{"n", "N", IPC_F_N, "tokens of an answer at most; without it the context's"},
	OPTIONS_SAMPLING,
};

struct chat {
	const struct arguments *a;
	struct falcon *f;
	const char *name;      /* of the session to keep, or NULL */
	struct falcon_run run; /* session "": none yet */
	uint32_t at;           /* the session's end */
	bool told;             /* the options: they hold from the first message of ours on */
};

/* Where the lines that were typed are kept, or NULL. */
static const char *history_file(void)
{
	static char path[4096];
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	if (state != NULL && state[0] == '/')
		snprintf(path, sizeof path, "%s/falconctl-history", state);
	else if (home != NULL && home[0] == '/')
		snprintf(path, sizeof path, "%s/.falconctl-history", home);
	return path[0] ? path : NULL;
}

/* One message of the user's into the session, which is made by the first. */
static int say(struct chat *c, const char *text, size_t length)
{
	struct falcon_error e;
	struct falcon_request *r = falcon_request_new();
	const char *system = options_value(c->a, "system");
	bool first = c->run.session[0] == '\0';
	int rc = first || !c->told ? options_fields(c->a, r) : 0;
	c->told = true;
	if (first && system != NULL)
		falcon_add_message(r, "system", system, strlen(system), NULL);
	falcon_add_message(r, "user", text, length, NULL);
	if (first && c->name != NULL)
		falcon_set_text(r, "session", c->name, strlen(c->name), NULL);
	if (first && !options_has(c->a, "n"))
		falcon_set_int(r, "n", falcon_hello(c->f)->context, NULL);
	if (!first && options_has(c->a, "template"))
		falcon_set_text(r, "template", options_value(c->a, "template"), strlen(options_value(c->a, "template")), NULL);
	if (rc == 0 && (first ? falcon_generate(c->f, r, &c->run, &e) : falcon_append(c->f, c->run.session, c->at, r, &c->run, &e)) < 0)
		rc = command_fail(&e);
	falcon_request_free(r);
	if (rc != 0)
		return rc;
	rc = command_stream(c->f, &c->run);
	c->at = c->run.cursor;
	return rc;
}

/* Finds the session that is to be gone on with. */
static int resume(struct chat *c)
{
	struct falcon_error e;
	int64_t length = c->name ? command_session_length(c->f, c->name, &e) : -1;
	if (length == -2)
		return command_fail(&e);
	if (length < 0)
		return COMMAND_OK;
	snprintf(c->run.session, sizeof c->run.session, "%s", c->name);
	c->at = (uint32_t)length;
	return COMMAND_OK;
}

static void forget(struct chat *c)
{
	if (c->run.session[0] != '\0')
		falcon_drop(c->f, c->run.session, NULL, NULL);
	c->run = (struct falcon_run){0};
}

static const char help_text[] = "/new drops the conversation and begins anew, /quit or Ctrl-D ends, Ctrl-C stops an answer. A line that ends with \\ goes on.\n";

/* A message from the terminal: lines joined where they end with a backslash. NULL: the end. */
static char *read_message(struct lines *lines)
{
	struct buf message = {0};
	char *line;
	while ((line = lines_read(lines, message.length ? "… " : "> ")) != NULL) {
		size_t n = strlen(line);
		bool more = n > 0 && line[n - 1] == '\\';
		buf_add(&message, line, more ? n - 1 : n);
		free(line);
		if (!more)
			return message.data;
		buf_add(&message, "\n", 1);
	}
	buf_done(&message);
	return NULL;
}

/* False: it was no command. */
static bool obey(struct chat *c, const char *line, bool *ret_end)
{
	if (line[0] != '/')
		return false;
	*ret_end = strcmp(line, "/quit") == 0;
	if (strcmp(line, "/new") == 0)
		forget(c);
	else if (!*ret_end)
		console_write(help_text, sizeof help_text - 1);
	return true;
}

static int converse(struct chat *c)
{
	struct lines *lines = lines_open(history_file());
	bool end = false;
	int rc = COMMAND_OK;
	if (lines == NULL) {
		console_say("lines cannot be edited on this terminal; give the message as an argument or on standard input");
		return COMMAND_FAILED;
	}
	while (!end) {
		char *line = read_message(lines);
		if (line == NULL)
			break;
		if (line[0] != '\0')
			lines_remember(lines, line);
		if (line[0] != '\0' && !obey(c, line, &end)) {
			rc = say(c, line, strlen(line));
			console_end_line();
			if (rc == COMMAND_SIGNAL + SIGINT) { /* the answer was stopped; the conversation goes on */
				console_forget();
				rc = COMMAND_OK;
			}
			end = rc > COMMAND_SIGNAL || rc == COMMAND_NO_DAEMON || console_broken();
		}
		free(line);
	}
	lines_close(lines);
	return console_signal() ? COMMAND_SIGNAL + console_signal() : rc;
}

static int chat(const struct arguments *a)
{
	struct chat c = {.a = a, .name = options_value(a, "session")};
	const char *argument = a->n_positional ? a->positional[0] : NULL;
	struct buf prompt = {0};
	bool talks = argument == NULL && isatty(STDIN_FILENO);
	if (!talks && console_prompt(argument, &prompt) < 0)
		return COMMAND_FAILED;
	c.f = command_connect(a);
	int rc = c.f == NULL ? COMMAND_NO_DAEMON : resume(&c);
	if (rc == COMMAND_OK && talks)
		rc = converse(&c);
	else if (rc == COMMAND_OK)
		rc = say(&c, prompt.data, prompt.length);
	console_end_line();
	if (c.f != NULL) {
		falcon_watch(c.f, -1, 0);
		if (c.name == NULL)
			forget(&c);
	}
	falcon_close(c.f);
	buf_done(&prompt);
	return rc;
}

const struct command command_chat = {
	.name = "chat",
	.synopsis = "[MESSAGE]",
	.help = "Talks with the model by its chat template",
	.details = "On a terminal, a conversation with line editing and a history: /new drops it and begins anew, /quit or Ctrl-D ends,\n"
		   "Ctrl-C stops an answer. With a message as argument or on standard input, one answer.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.max_positional = 1,
	.run = chat,
};
