/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl drain: before a stop. */
#include "client/command.h"
#include "client/console.h"

static const struct option_info options[] = {
	{"spill", NULL, OPTION_NO_FIELD, "write all sessions to the state folder, so that they outlive the stop"}};

static int drain(const struct arguments *a)
{
	struct falcon_error e;
	uint32_t sessions, saved;
	bool spill = options_has(a, "spill");
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	console_watch(f);
	int rc = falcon_drain(f, spill, &sessions, &saved, &e);
	falcon_close(f);
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	if (rc < 0)
		return command_fail(&e);
	if (!spill || saved == sessions)
		return COMMAND_OK;
	console_say("%u of %u sessions were not saved; `falconctl status --json` says why", sessions - saved, sessions);
	return COMMAND_FAILED;
}

const struct command command_drain = {
	.name = "drain",
	.synopsis = "",
	.help = "Pauses all runs and starts no new ones, before the daemon is stopped",
	.details = "For administrators. Returns when nothing moves any more and, with --spill, everything is saved. It cannot be undone but\n"
		   "by starting the daemon anew; runs then go on.",
	.options = options,
	.n_options = 1,
	.run = drain,
};
