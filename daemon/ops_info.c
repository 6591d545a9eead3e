/* SPDX-License-Identifier: Apache-2.0 */
#include <config.h>

#include "base/clock.h"
#include "daemon/ops.h"

void op_hello(struct request *q)
{
	const struct server *s = q->server;
	const struct config *c = s->config;
	json_t *limits = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "message", (json_int_t)c->limits.message, "requests",
				   (json_int_t)c->limits.requests, "sessions", (json_int_t)c->limits.sessions, "pages",
				   (json_int_t)c->limits.pages, "queued_tokens", (json_int_t)c->limits.queued_tokens, "logprobs",
				   (json_int_t)c->limits.logprobs);
	request_reply(q, json_pack("{s:i,s:s,s:s,s:I,s:I,s:o,s:I,s:b}", "protocol", IPC_VERSION, "version", PACKAGE_VERSION, "model",
				   s->store->model, "context", (json_int_t)s->store->board.n_context, "vocab",
				   (json_int_t)s->store->hp.n_vocab, "limits", limits, "uid", (json_int_t)q->owner->id, "admin", q->admin));
}

static json_t *tokens_json(const struct server *s, const struct owner *o, bool admin)
{
	const struct board_header *h = s->store->board.header;
	uint64_t prefill = o->prefill, cached = o->cached, decode = o->decode;
	if (admin) {
		prefill = atomic_load_explicit(&h->tokens_prefill, memory_order_relaxed);
		decode = atomic_load_explicit(&h->tokens_decode, memory_order_relaxed);
		cached = s->sessions.cached;
	}
	return json_pack("{s:I,s:I,s:I}", "prefill", (json_int_t)prefill, "cached", (json_int_t)cached, "decode", (json_int_t)decode);
}

/* Sessions by state: the owner's, or everybody's. */
static json_t *states_json(const struct server *s, const struct owner *o, bool admin)
{
	uint32_t n[SESSION_STATES] = {0};
	const struct session *at;
	TAILQ_FOREACH (at, &s->sessions.active, active)
		if (!at->dropped && (admin || at->owner == o))
			n[at->state]++;
	uint32_t all = admin ? s->sessions.n_sessions : o->sessions, waiting = n[SESSION_WAITING] + n[SESSION_FOLLOWING],
		 busy = n[SESSION_RUNNING] + n[SESSION_PAUSED] + waiting;
	return json_pack("{s:I,s:I,s:I,s:I}", "running", (json_int_t)n[SESSION_RUNNING], "waiting", (json_int_t)waiting, "paused",
			 (json_int_t)n[SESSION_PAUSED], "idle", (json_int_t)(all > busy ? all - busy : 0));
}

json_t *ops_status_json(const struct server *s, const struct owner *o, bool admin)
{
	const struct board_header *h = s->store->board.header;
	bool ready = s->supervisor->is_ready;
	json_t *r = json_pack("{s:b,s:s,s:I,s:s,s:I,s:s,s:b,s:f,s:o,s:I,s:o}", "ready", ready, "model", s->store->model, "context",
			      (json_int_t)s->store->board.n_context, "isa", ready ? s->supervisor->isa : "", "threads", (json_int_t)s->supervisor->threads, "kv",
			      pages_kv_name(s->store->arena.kv), "batch_invariant", !s->supervisor->openblas, "huge_share",
			      s->store->huge_share, "tokens", tokens_json(s, o, admin), "sessions",
			      (json_int_t)(admin ? s->sessions.n_sessions : o->sessions), "states", states_json(s, o, admin));
	if (admin) {
		const struct supervisor *v = s->supervisor;
		uint32_t batch = atomic_load_explicit(&h->n_suspects, memory_order_relaxed);
		json_object_set_new(r, "engine", json_pack("{s:i,s:I,s:I,s:I}", "pid", v->running ? v->process.pid : 0, "restarts",
							   (json_int_t)v->restarts, "crashes", (json_int_t)v->crashes, "failed",
							   (json_int_t)v->guilties));
		json_object_set_new(r, "batch", json_integer(atomic_load_explicit(&h->step, memory_order_relaxed) & 1 ? batch : 0));
		json_object_set_new(r, "batch_max", json_integer(atomic_load_explicit(&h->batch_max, memory_order_relaxed)));
		json_object_set_new(r, "pages", json_pack("{s:I,s:I,s:I}", "total", (json_int_t)s->arena.n_pages, "free",
							  (json_int_t)s->arena.n_free, "kept", (json_int_t)s->arena.n_kept));
		if (s->spill.enabled)
			json_object_set_new(r, "state", json_pack("{s:I,s:I,s:I,s:s}", "written", (json_int_t)s->spill.written, "read",
								  (json_int_t)s->spill.read, "failed",
								  (json_int_t)s->spill.failed, "error", s->spill.error));
	}
	return r;
}

/* What everybody may see: health, and the caller's own counters; administrators everybody's. */
void op_status(struct request *q)
{
	request_reply(q, ops_status_json(q->server, q->owner, q->admin));
}

json_t *ops_name(const struct request *q, const struct session *s)
{
	if (s->owner == q->owner)
		return json_stringn(s->name, s->name_length);
	return json_sprintf("%llu:%s", (unsigned long long)s->owner->id, s->name);
}

void op_sessions(struct request *q)
{
	json_t *list = json_array();
	const struct session *s;
	uint64_t now = clock_ns();
	TAILQ_FOREACH (s, &q->server->sessions.used, use) {
		if (s->owner != q->owner && !q->admin)
			continue;
		json_array_append_new(list, json_pack("{s:o,s:I,s:s,s:I,s:s,s:I}", "session", ops_name(q, s), "uid",
						      (json_int_t)s->owner->id, "state", session_state_name(s), "n_tokens",
						      (json_int_t)s->n_tokens, "where", session_where(s), "idle_s",
						      (json_int_t)((now - s->used_at) / 1000000000u)));
	}
	request_reply(q, json_pack("{s:o}", "sessions", list));
}
