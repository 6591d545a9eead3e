/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl: the command line. Text on standard output and nothing else; messages on standard error; exit 0, 1 failed,
 * 2 usage, 3 no daemon, 130 interrupted.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "client/command.h"
#include "config.h"

int main(int argc, char **argv)
{
	struct arguments a = {0};
	int used = 0;
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("falconctl %s\n", PACKAGE_VERSION);
		return COMMAND_OK;
	}
	int rc = options_parse(NULL, argc - 1, argv + 1, &a, &used);
	if (rc != 0)
		return rc;
	if (options_has(&a, "help")) {
		command_usage();
		return COMMAND_OK;
	}
	if (used == argc - 1)
		return options_refuse("expected a command; see 'falconctl help'");
	const struct command *c = command_named(argv[1 + used]);
	if (c == NULL)
		return options_refuse("no command '%s'; see 'falconctl help'", argv[1 + used]);
	int rest = 2 + used;
	rc = options_parse(c, argc - rest, argv + rest, &a, &used);
	if (rc != 0)
		return rc;
	if (options_has(&a, "help")) {
		options_help(c);
		return COMMAND_OK;
	}
	return c->run(&a);
}
