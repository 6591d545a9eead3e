/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl drop: ends a session. */
#include "client/command.h"
#include "client/console.h"

static int drop(const struct arguments *a)
{
	struct falcon_error e;
	bool dropped = false;
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = COMMAND_OK;
	if (falcon_drop(f, a->positional[0], &dropped, &e) < 0)
		rc = command_fail(&e);
	else if (!dropped) {
		console_say("no session %s", a->positional[0]);
		rc = COMMAND_FAILED;
	}
	falcon_close(f);
	return rc;
}

const struct command command_drop = {
	.name = "drop", .synopsis = "NAME", .help = "Ends a session", .min_positional = 1, .max_positional = 1, .run = drop};
