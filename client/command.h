/* SPDX-License-Identifier: Apache-2.0 */
/* What the subcommands of falconctl share: each is a row of a table in falconctl.c and a file of its own. */
#ifndef FALCON_CLIENT_COMMAND_H
#define FALCON_CLIENT_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/mem.h"
#include "client/falcon.h"

enum command_exit { COMMAND_OK = 0, COMMAND_FAILED = 1, COMMAND_USAGE = 2, COMMAND_NO_DAEMON = 3, COMMAND_SIGNAL = 128 };

enum { OPTION_NO_FIELD = -1 };

/* An option: -n if its name is one letter, --name otherwise. */
struct option_info {
	const char *name;
	const char *argument; /* what stands for its value in help, or NULL: it has none */
	int field;            /* enum ipc_field that it fills (its type, bounds, default and help), or OPTION_NO_FIELD */
	const char *help;     /* NULL: the field's */
};

/* How tokens are drawn: rows of the options of whatever generates. */
#define OPTIONS_SAMPLING                                     \
	{"temp", "T", IPC_F_TEMP, NULL},                     \
	{"top-k", "K", IPC_F_TOP_K, NULL},                   \
	{"top-p", "P", IPC_F_TOP_P, NULL},                   \
	{"min-p", "P", IPC_F_MIN_P, NULL},                   \
	{"repeat-penalty", "R", IPC_F_REPEAT_PENALTY, NULL}, \
	{"seed", "S", IPC_F_SEED, NULL}

struct option_given {
	const struct option_info *info;
	const char *value;
};

/* What was typed. Texts point into argv. */
struct arguments {
	struct option_given given[64];
	unsigned n_given;
	const char *positional[4];
	unsigned n_positional;
	const char *url;
	uint32_t wait_ms;
};

struct command {
	const char *name;
	const char *synopsis; /* positional arguments, as help shows them */
	const char *help;     /* one line */
	const char *details;  /* paragraphs, or NULL */
	const struct option_info *options;
	unsigned n_options, min_positional, max_positional;
	int (*run)(const struct arguments *a); /* an enum command_exit, or COMMAND_SIGNAL + signal */
};

extern const struct command *const commands[];
extern const unsigned n_commands;
const struct command *command_named(const char *name); /* NULL: there is none */
void command_usage(void);                              /* prints the commands */

/* One a file. */
extern const struct command command_generate, command_chat, command_run, command_tokenize, command_detokenize, command_score,
	command_embed, command_sessions, command_fork, command_drop, command_export, command_import, command_status, command_top,
	command_pack, command_drain, command_upgrade, command_completion, command_help;

/* options.c. Options common to all commands may stand before the command, too: then c is NULL, and parsing stops at the command. */
int options_parse(const struct command *c, int argc, char **argv, struct arguments *a, int *ret_used);
bool options_has(const struct arguments *a, const char *name);
const char *options_value(const struct arguments *a, const char *name); /* NULL: not given */
int options_fields(const struct arguments *a, struct falcon_request *r); /* those that fill a field; 0 or COMMAND_USAGE */
int options_count(const struct arguments *a, const char *name, uint32_t low, uint32_t high, uint32_t *ret); /* absent: untouched */
void options_help(const struct command *c);
const char *options_meaning(const struct option_info *o); /* its help, or its field's */
const char *options_default(const struct option_info *o); /* its field's; NULL: none, or its own help says what holds without it */
int options_refuse(const char *format, ...) __attribute__((format(printf, 1, 2))); /* says so; COMMAND_USAGE */
extern const struct option_info common_options[];
extern const unsigned n_common_options;

/* Connects, or says why not and returns NULL: the caller exits with COMMAND_NO_DAEMON. */
struct falcon *command_connect(const struct arguments *a);

/*
 * While a run has no token yet, how far its prompt is read is shown on a terminal: how long to wait for the next piece, and what to
 * show of it.
 */
uint32_t command_wait_ms(uint32_t n_generated);
void command_reading(const struct falcon_piece *p, uint32_t n_given);

/* The number of tokens of the session of that name, -1: there is none, -2 and *e: the daemon did not say. generate.c */
int64_t command_session_length(struct falcon *f, const char *name, struct falcon_error *e);

/* Prints what a run generates until its end; Ctrl-C cancels the run and no more. COMMAND_OK, or how it ended. */
int command_stream(struct falcon *f, struct falcon_run *run);

/* The path of another of our programs: beside this one, or in the folder where it is installed. 0, or -1 and it has been said. */
int command_find(const char *program, const char *folder, char *ret_path, unsigned size);

/* Tells the error; COMMAND_FAILED (COMMAND_NO_DAEMON if that is what it is). */
int command_fail(const struct falcon_error *e);

/*
 * Asks the daemon for a JSON object and prints it: as it is with --json, else by `show`, which appends text for people. An enum
 * command_exit.
 */
int command_show(const struct arguments *a, int (*ask)(struct falcon *f, const char **ret_json, struct falcon_error *e),
		 void (*show)(json_t *reply, struct buf *out));

#endif
