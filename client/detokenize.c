/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl detokenize: a JSON array of ids to the text, with nothing added. */
#include "client/command.h"
#include "client/console.h"

static int detokenize(const struct arguments *a)
{
	struct buf input = {0};
	struct ids ids = {0};
	struct falcon_error e;
	const char *text;
	size_t length;
	int rc = console_read(&input) < 0 || console_ids(input.data, input.length, &ids) < 0 ? COMMAND_FAILED : COMMAND_OK;
	struct falcon *f = rc == COMMAND_OK ? command_connect(a) : NULL;
	if (rc == COMMAND_OK && f == NULL)
		rc = COMMAND_NO_DAEMON;
	if (rc == COMMAND_OK && falcon_detokenize(f, ids.data, ids.length, &text, &length, &e) < 0)
		rc = command_fail(&e);
	if (rc == COMMAND_OK && console_write(text, length) < 0 && !console_broken())
		rc = COMMAND_FAILED;
	falcon_close(f);
	ids_done(&ids);
	buf_done(&input);
	return rc;
}

const struct command command_detokenize = {
	.name = "detokenize",
	.synopsis = "",
	.help = "Prints the text of the token ids on standard input, a JSON array",
	.run = detokenize,
};
