/* SPDX-License-Identifier: Apache-2.0 */
/* What administrators may do with falcond itself. */
#include "daemon/ops.h"

static void upgrade_decided(void *arg, const struct err *e)
{
	struct request *q = arg;
	q->working = false;
	q->server->working--;
	if (q->server->stopping)
		request_drop(q);
	else if (e != NULL)
		request_failf(q, IPC_UNSUPPORTED, e->hint, "%s", e->what);
	else
		request_reply(q, json_pack("{s:b}", "upgrading", 1));
}

void op_upgrade(struct request *q)
{
	struct err e;
	if (!q->admin) {
		request_failf(q, IPC_FORBIDDEN, "ask root, or a member of the group `admin_group`", "only administrators upgrade falcond");
		return;
	}
	/* As a thread's, the request stays until it is decided. */
	q->working = true;
	q->server->working++;
	if (upgrade_check(q->server->upgrade, upgrade_decided, q, &e) < 0)
		upgrade_decided(q, &e);
}
