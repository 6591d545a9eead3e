/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl upgrade: falcond becomes the program that stands at its path now; sessions go on. */
#include "client/command.h"
#include "client/console.h"

static int upgrade(const struct arguments *a)
{
	struct falcon_error e;
	const char *status;
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	/* The second answer is the new falcond's: the old one takes no request after it has said yes. */
	int rc = falcon_upgrade(f, &e) < 0 || falcon_status(f, &status, &e) < 0 ? command_fail(&e) : COMMAND_OK;
	falcon_close(f);
	return rc;
}

const struct command command_upgrade = {
	.name = "upgrade", .synopsis = "", .help = "Restarts falcond as the program that is installed now; sessions go on",
	.details = "For administrators, where falcond was not started by systemd (there `systemctl restart falcond` does the same).\n"
		   "Returns when the new falcond serves.",
	.run = upgrade};
