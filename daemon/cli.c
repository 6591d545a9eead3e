/* SPDX-License-Identifier: Apache-2.0 */
/* getopt's table is made of ours, whose rows are told apart by their place: a letter is a short form of its row. */
#include "daemon/cli.h"

#include <config.h>

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

enum { OPTION_CONFIG, OPTION_MODEL, OPTION_SOCKET, OPTION_STATE, OPTION_SEGMENTS, OPTION_HTTP, OPTION_THREADS, OPTION_KV, OPTION_CHECK,
       OPTION_VERSION, OPTION_HELP, OPTIONS };

/* getopt_long() returns a row's place above all letters. */
enum { ROW = 256 };

const struct cli_option cli_options[] = {
	[OPTION_CONFIG] = {"config", 'c', "FILE", CLI_NO_KEY, "the configuration; without it " CLI_DEFAULT_FILE ", if it exists"},
	[OPTION_MODEL] = {"model", 0, "PATH", CONFIG_MODEL, NULL},
	[OPTION_SOCKET] = {"socket", 0, "URL", CONFIG_SOCKET, NULL},
	[OPTION_STATE] = {"state", 0, "DIR", CONFIG_STATE, NULL},
	[OPTION_SEGMENTS] = {"segments", 0, "DIR", CONFIG_SEGMENTS, NULL},
	[OPTION_HTTP] = {"http", 0, "ADDRESSES", CONFIG_HTTP_LISTEN, NULL},
	[OPTION_THREADS] = {"threads", 0, "N", CONFIG_THREADS, NULL},
	[OPTION_KV] = {"kv", 0, "f16|f32|q8", CONFIG_KV, NULL},
	[OPTION_CHECK] = {"check", 0, NULL, CLI_NO_KEY, "check the configuration and exit"},
	[OPTION_VERSION] = {"version", 0, NULL, CLI_NO_KEY, "print the version and exit"},
	[OPTION_HELP] = {"help", 'h', NULL, CLI_NO_KEY, "print options and keys and exit"},
};
const unsigned cli_n_options = OPTIONS;

const char *cli_meaning(const struct cli_option *o)
{
	return o->help ? o->help : config_about((enum config_id)o->key).help;
}

static void print_help(void)
{
	printf("usage: falcond [-c FILE] [options]\n\n"
	       "Serves a Falcon language model from shared memory over a local socket; in the foreground, with its log on\n"
	       "standard error. SIGTERM ends it after the step in progress. Options win over the configuration.\n\n");
	for (int i = 0; i < OPTIONS; i++) {
		const struct cli_option *o = &cli_options[i];
		char left[40], letter[8] = "    ";
		if (o->letter != 0)
			snprintf(letter, sizeof letter, "-%c, ", o->letter);
		snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
		printf("  %-22s %s\n", left, cli_meaning(o));
	}
	printf("\nKeys of the configuration [defaults]:\n");
	config_help(stdout);
}

/* The row of what getopt_long() returned, or OPTIONS: it has said what is wrong. */
static int find_row(int got)
{
	if (got >= ROW)
		return got - ROW;
	for (int i = 0; i < OPTIONS; i++)
		if (cli_options[i].letter == got)
			return i;
	return OPTIONS;
}

/* -1, or the status to exit with. */
static int take(struct cli *c, int row, const char *value)
{
	switch (row) {
	case OPTION_CONFIG: c->file = value; return -1;
	case OPTION_CHECK: c->check = true; return -1;
	case OPTION_VERSION: puts("falcond " PACKAGE_VERSION); return 0;
	case OPTION_HELP: print_help(); return 0;
	case OPTIONS: return CLI_USAGE;
	}
	if (c->n_set == sizeof c->set / sizeof c->set[0]) {
		log_error("too many options");
		return CLI_USAGE;
	}
	c->set[c->n_set].key = (enum config_id)cli_options[row].key;
	c->set[c->n_set++].value = value;
	return -1;
}

int cli_parse(struct cli *c, int argc, char **argv)
{
	struct option table[OPTIONS + 1] = {0};
	char letters[2 * OPTIONS + 1];
	size_t n = 0;
	*c = (struct cli){0};
	for (int i = 0; i < OPTIONS; i++) {
		const struct cli_option *o = &cli_options[i];
		table[i] = (struct option){o->name, o->argument ? required_argument : no_argument, NULL, ROW + i};
		if (o->letter != 0)
			letters[n++] = o->letter;
		if (o->letter != 0 && o->argument != NULL)
			letters[n++] = ':';
	}
	letters[n] = '\0';
	for (int got; (got = getopt_long(argc, argv, letters, table, NULL)) != -1;) {
		int status = take(c, find_row(got), optarg);
		if (status >= 0)
			return status;
	}
	if (optind == argc)
		return -1;
	log_error("unexpected argument \"%s\"; falcond --help shows what there is", argv[optind]);
	return CLI_USAGE;
}

int cli_configure(const struct cli *c, struct config *ret, struct err *e)
{
	int r = 0;
	config_init(ret);
	if (c->file != NULL || access(CLI_DEFAULT_FILE, F_OK) == 0)
		r = config_load(ret, c->file ? c->file : CLI_DEFAULT_FILE, e);
	for (unsigned i = 0; r == 0 && i < c->n_set; i++)
		r = config_set(ret, c->set[i].key, c->set[i].value, e);
	const char *folder = getenv("STATE_DIRECTORY"); /* that systemd has made for the unit */
	if (r == 0 && folder != NULL && !config_is_set(ret, CONFIG_STATE))
		r = config_set(ret, CONFIG_STATE, folder, e);
	return r;
}
