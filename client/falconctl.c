/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands of falconctl share, and the table of them, from which its help, completions and manual come. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/spawn.h"
#include "client/command.h"
#include "client/console.h"

const struct command *const commands[] = {
	&command_generate, &command_chat, &command_run, &command_tokenize, &command_detokenize, &command_score, &command_embed, &command_sessions,
	&command_fork, &command_drop, &command_export, &command_import, &command_status, &command_top, &command_pack, &command_drain,
	&command_upgrade, &command_completion, &command_help,
};
const unsigned n_commands = sizeof commands / sizeof *commands;

const struct command *command_named(const char *name)
{
	for (unsigned i = 0; i < n_commands; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

void command_usage(void)
{
	printf("falconctl [-s URL] [--wait S] COMMAND [ARGUMENT]...\n\nTalks to falcond, which serves a Falcon language model.\n\n");
	for (unsigned i = 0; i < n_commands; i++)
		printf("  %-12s %s\n", commands[i]->name, commands[i]->help);
	printf("\n'falconctl help COMMAND' shows its options. Exit status: 0, 1 failed, 2 usage, 3 no daemon, 130 interrupted.\n");
}

static int help(const struct arguments *a)
{
	if (a->n_positional == 0) {
		command_usage();
		return COMMAND_OK;
	}
	const struct command *c = command_named(a->positional[0]);
	if (c == NULL)
		return options_refuse("no command '%s'; see 'falconctl help'", a->positional[0]);
	options_help(c);
	return COMMAND_OK;
}

const struct command command_help = {
	.name = "help", .synopsis = "[COMMAND]", .help = "Shows the commands, or the options of one", .max_positional = 1, .run = help};

struct falcon *command_connect(const struct arguments *a)
{
	struct falcon_error e;
	struct falcon *f = falcon_open(a->url, a->wait_ms, &e);
	if (f == NULL)
		command_fail(&e);
	return f;
}

int command_fail(const struct falcon_error *e)
{
	console_say("%s%s%s%s", e->message, e->hint[0] ? " (" : "", e->hint, e->hint[0] ? ")" : "");
	return strcmp(e->code, "no_daemon") == 0 ? COMMAND_NO_DAEMON : COMMAND_FAILED;
}

int command_find(const char *program, const char *folder, char *ret_path, unsigned size)
{
	struct err e;
	if (spawn_sibling(program, ret_path, size, &e) == 0 && access(ret_path, X_OK) == 0)
		return 0;
	if ((unsigned)snprintf(ret_path, size, "%s/%s", folder, program) < size && access(ret_path, X_OK) == 0)
		return 0;
	console_say("no %s beside this program or in %s", program, folder);
	return -1;
}

uint32_t command_wait_ms(uint32_t n_generated)
{
	return n_generated == 0 && isatty(STDERR_FILENO) ? 300 : 30000;
}

void command_reading(const struct falcon_piece *p, uint32_t n_given)
{
	if (p->n_ids == 0 && !p->done && p->computed < n_given)
		console_progress("reading the prompt: %u of %u tokens", p->computed, n_given);
	else
		console_progress(NULL);
}

int command_stream(struct falcon *f, struct falcon_run *run)
{
	struct falcon_error e = {0};
	struct falcon_piece piece = {0};
	uint32_t n = 0;
	bool written = true;
	console_watch(f);
	while (written && !piece.done) {
		if (falcon_next(f, run->session, &run->cursor, command_wait_ms(n), &piece, &e) < 0)
			break;
		n += (uint32_t)piece.n_ids;
		command_reading(&piece, run->n_given);
		written = console_write(piece.text, piece.text_length) == 0;
	}
	if (written && piece.done)
		return strcmp(piece.finish, "error") == 0 ? COMMAND_FAILED : COMMAND_OK;
	console_progress(NULL);
	falcon_watch(f, -1, 0);
	falcon_cancel(f, run->session, &run->cursor, NULL);
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	if (console_broken())
		return COMMAND_OK;
	return e.code[0] ? command_fail(&e) : COMMAND_FAILED; /* it has been said why nothing can be written */
}

int command_show(const struct arguments *a, int (*ask)(struct falcon *f, const char **ret_json, struct falcon_error *e),
		 void (*show)(json_t *reply, struct buf *out))
{
	struct falcon_error e;
	const char *text;
	struct buf out = {0};
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = COMMAND_OK;
	if (ask(f, &text, &e) < 0) {
		rc = command_fail(&e);
	} else if (options_has(a, "json")) {
		buf_printf(&out, "%s\n", text);
	} else {
		json_t *reply = json_loads(text, 0, NULL);
		show(reply, &out);
		json_decref(reply);
	}
	if (console_write(out.data, out.length) < 0 && !console_broken())
		rc = COMMAND_FAILED;
	buf_done(&out);
	falcon_close(f);
	return rc;
}
