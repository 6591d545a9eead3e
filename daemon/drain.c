/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Draining: what is done before falcond is stopped, so that the stop itself is short. Nothing new starts, runs are paused, and all
 * sessions are written if that was asked for. Requests that only read are answered until the end.
 */
#include "daemon/ops.h"

/* A run that is still being computed. Score runs are not kept, so nobody waits for them. */
static bool is_moving(const struct sessions *t, const struct session *s)
{
	return s->published && session_running(s) && !s->releasing && !(s->state == SESSION_PAUSED && run_paused(t, s));
}

/* Whether drains can be answered; starts what they still wait for. */
static bool is_drained(struct server *s)
{
	const struct session *at;
	TAILQ_FOREACH (at, &s->sessions.active, active)
		if (is_moving(&s->sessions, at))
			return false;
	if (s->drain_spill && !s->spill.all)
		spill_all(&s->spill, true, false);
	return !spill_busy(&s->spill);
}

void drain_check(struct server *s)
{
	if (!s->sessions.draining || s->stopping || !is_drained(s))
		return;
	uint32_t n = s->sessions.n_sessions, saved = s->drain_spill ? n - spill_unsaved(&s->spill) : 0;
	for (struct request *q = TAILQ_FIRST(&s->open), *next; q != NULL; q = next) {
		next = TAILQ_NEXT(q, open);
		if (q->decoded && q->in.op == IPC_DRAIN)
			request_reply(q, json_pack("{s:I,s:I}", "sessions", (json_int_t)n, "saved", (json_int_t)saved));
	}
}

bool drain_refuses(struct request *q)
{
	enum ipc_op o = q->in.op;
	if (!q->server->sessions.draining ||
	    !(o == IPC_GENERATE || o == IPC_APPEND || o == IPC_FORK || o == IPC_SCORE || o == IPC_EMBED || o == IPC_IMPORT))
		return false;
	request_failf(q, IPC_LOADING, "ask again when it has been started anew", "falcond is about to be stopped: it starts nothing new");
	return true;
}

void op_drain(struct request *q)
{
	struct server *s = q->server;
	struct session *at;
	if (!q->admin) {
		request_failf(q, IPC_FORBIDDEN, "ask as root, or as a member of admin_group", "only administrators may drain falcond");
		return;
	}
	if (q->in.spill && !s->spill.enabled) {
		request_failf(q, IPC_UNSUPPORTED, "say `state:` in the configuration, or --state DIR", "falcond has no state folder");
		return;
	}
	s->sessions.draining = true;
	s->drain_spill |= q->in.spill;
	TAILQ_FOREACH (at, &s->sessions.active, active)
		run_pause(&s->sessions, at);
	drain_check(s);
}
