/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl fork: a second session with the same tokens. */
#include <string.h>

#include "client/command.h"
#include "ipc/protocol.h"

static const struct option_info options[] = {{"seed", "S", IPC_F_SEED, "seed of the new session; without it the old one's"}};

static int fork_session(const struct arguments *a)
{
	struct falcon_error e;
	struct falcon_run run;
	struct falcon_request *r = falcon_request_new();
	struct falcon *f = NULL;
	int rc = options_fields(a, r);
	if (rc == COMMAND_OK && (f = command_connect(a)) == NULL)
		rc = COMMAND_NO_DAEMON;
	falcon_set_text(r, "new", a->positional[1], strlen(a->positional[1]), NULL);
	if (rc == COMMAND_OK && falcon_fork(f, a->positional[0], r, &run, &e) < 0)
		rc = command_fail(&e);
	falcon_close(f);
	falcon_request_free(r);
	return rc;
}

const struct command command_fork = {
	.name = "fork",
	.synopsis = "NAME NEW",
	.help = "Makes a second session NEW with the tokens of NAME",
	.options = options,
	.n_options = 1,
	.min_positional = 2,
	.max_positional = 2,
	.run = fork_session,
};
