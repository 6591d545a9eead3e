/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcond's command line: one table of options, from which the parser, `falcond --help` and falcond(8) come. An option that sets
 * a key of the configuration has its meaning from the table of keys.
 */
#ifndef FALCON_DAEMON_CLI_H
#define FALCON_DAEMON_CLI_H

#include "daemon/config.h"

enum { CLI_USAGE = 2, CLI_NO_KEY = -1 };
#define CLI_DEFAULT_FILE "/etc/falcond/falcond.yaml"

struct cli_option {
	const char *name;
	char letter;          /* the short form, or 0 */
	const char *argument; /* what stands for its value in help, or NULL: it has none */
	int key;              /* enum config_id that it sets, or CLI_NO_KEY */
	const char *help;     /* NULL: the key's */
};
extern const struct cli_option cli_options[];
extern const unsigned cli_n_options;

/* What the command line says. Texts point into argv. */
struct cli {
	const char *file; /* NULL: none was named */
	struct { enum config_id key; const char *value; } set[16];
	unsigned n_set;
	bool check;
};

/* -1, or the status to exit with: what was asked for is printed, or what is wrong is logged. */
int cli_parse(struct cli *c, int argc, char **argv);

/* The configuration: defaults, the file, and what the command line and systemd say. 0 or -errno. */
int cli_configure(const struct cli *c, struct config *ret, struct err *e);

const char *cli_meaning(const struct cli_option *o);

#endif
