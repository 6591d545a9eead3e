/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl import: a session from standard input. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/console.h"

/* n bytes of standard input, fewer at its end. */
static ptrdiff_t give(void *arg, void *bytes, size_t n)
{
	int *failed = arg;
	size_t have = 0;
	while (have < n) {
		ssize_t got = read(STDIN_FILENO, (char *)bytes + have, n - have);
		if (got < 0 && errno == EINTR && !console_signal())
			continue;
		if (got < 0) {
			*failed = errno;
			return -1;
		}
		if (got == 0)
			break;
		have += (size_t)got;
	}
	return (ptrdiff_t)have;
}

static int import(const struct arguments *a)
{
	struct falcon_error e;
	char session[96];
	int failed = 0;
	if (isatty(STDIN_FILENO))
		return options_refuse("import: standard input is a terminal; write `falconctl import < FILE`");
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	console_watch(f);
	int rc = falcon_import(f, a->n_positional ? a->positional[0] : NULL, give, &failed, session, NULL, &e);
	falcon_close(f);
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	if (failed != 0) {
		console_say("standard input: %s", strerror(failed));
		return COMMAND_FAILED;
	}
	if (rc < 0)
		return command_fail(&e);
	console_write(session, strlen(session));
	console_write("\n", 1);
	return COMMAND_OK;
}

const struct command command_import = {
	.name = "import",
	.synopsis = "[NAME]",
	.help = "Makes a session from a file that `export` wrote, on standard input",
	.details = "It has the name that it had, or NAME, and is yours. Prints its name. The keys and values of a file are taken from\n"
		   "administrators alone; for others they are computed again when the session goes on.",
	.max_positional = 1,
	.run = import,
};
