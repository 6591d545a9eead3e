/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl export: a session as a file on standard output. */
#include <unistd.h>

#include "client/command.h"
#include "client/console.h"

static const struct option_info options[] = {
	{"no-pages", NULL, OPTION_NO_FIELD, "without keys and values: a few KiB; who imports it computes them again"}};

static int take(void *arg, const void *bytes, size_t n)
{
	(void)arg;
	return console_write(bytes, n) < 0 ? 1 : 0;
}

static int export(const struct arguments *a)
{
	struct falcon_error e;
	if (isatty(STDOUT_FILENO))
		return options_refuse("export: standard output is a terminal; write `falconctl export %s > FILE`", a->positional[0]);
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	console_watch(f);
	int rc = falcon_export(f, a->positional[0], !options_has(a, "no-pages"), take, NULL, &e);
	falcon_close(f);
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	return rc == 0 ? COMMAND_OK : rc < 0 ? command_fail(&e) : console_broken() ? COMMAND_OK : COMMAND_FAILED;
}

const struct command command_export = {
	.name = "export",
	.synopsis = "NAME",
	.help = "Writes a session to standard output, for `import`",
	.details = "The file has all that the session is. The daemon that imports it, here or on another machine, goes on with the same\n"
		   "bytes, if it serves the same model.",
	.options = options,
	.n_options = 1,
	.min_positional = 1,
	.max_positional = 1,
	.run = export,
};
