/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations that make sessions and start runs. Each may arrive twice: its request id, or for append the place in the log,
 * tells whether it has been done, and then the first reply is given again. Tokenizing may take a turn in a thread, so what
 * was checked before it is checked again after.
 */
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/hooks.h"
#include "daemon/ops.h"
#include "daemon/pressure.h"
#include "daemon/share.h"
#include "shm/probs.h"

static uint64_t draw_seed(void)
{
	uint64_t seed = 0;
	CHECK(getrandom(&seed, sizeof seed, 0) == sizeof seed);
	return seed >> 11; /* 53 bits: JSON readers that know doubles alone can hold it */
}

/*
 * What a run needs, held against the limits. s: NULL if it is still to be made. Of its tokens n_kv are known, and of its pages
 * n_held are there. 0, or -1 and the request has been answered.
 */
static int admit(struct request *q, const struct session *s, uint32_t n_tokens, uint32_t n_kv, uint32_t n_held, uint64_t n_end)
{
	struct server *server = q->server;
	const struct config *c = server->config;
	uint32_t context = server->sessions.board.n_context;
	uint64_t queued = q->owner->queued + (n_tokens - n_kv), most = n_end < context ? n_end : context;
	if (n_tokens > context) {
		request_failf(q, IPC_CONTEXT_FULL, "send less, or take a model with a longer context", "%u tokens, the context has %u",
			      n_tokens, context);
		return -1;
	}
	if (queued > c->limits.queued_tokens) {
		request_failf(q, IPC_TOO_MANY, "wait until your other prompts are computed",
			      "you would have %llu tokens that wait to be computed, the limit is %llu", (unsigned long long)queued,
			      (unsigned long long)c->limits.queued_tokens);
		return -1;
	}
	if (c->limits.pages != 0 && q->owner->pages + run_pages((uint32_t)most) > c->limits.pages) {
		request_failf(q, IPC_NO_MEMORY, "ask for a smaller `n`, or wait for your other runs to end",
			      "your runs would need %llu pages, the limit is %llu",
			      (unsigned long long)(q->owner->pages + run_pages((uint32_t)most)), (unsigned long long)c->limits.pages);
		return -1;
	}
	uint32_t need = run_pages(n_tokens) > n_held ? run_pages(n_tokens) - n_held : 0;
	if (need > server->arena.n_free && (server->sessions.n_waiting > 0 || need > pressure_available(&server->sessions, s))) {
		request_failf(q, IPC_NO_MEMORY, "try again when other runs have ended",
			      "the prompt needs %u pages of keys and values, and running sessions hold nearly all", need);
		return -1;
	}
	return 0;
}

/*
 * The same of log-probabilities: of a run with these flags of tokens [n_given, n_end), in the place of a session that counts for
 * `counted` bytes already.
 */
static int admit_probs(struct request *q, uint32_t flags, uint32_t n_given, uint64_t n_end, uint64_t counted)
{
	uint32_t context = q->server->sessions.board.n_context, end = n_end < context ? (uint32_t)n_end : context;
	uint64_t need = end > n_given ? probs_bytes(flags, end - n_given) : 0, limit = q->server->config->limits.logprobs;
	if (need <= counted || q->owner->probs + need - counted <= limit)
		return 0;
	request_failf(q, IPC_TOO_MANY, "ask for a smaller `n` or less `logprobs`, or drop sessions that have told you theirs",
		      "your log-probabilities would need %llu bytes, the limit is %llu",
		      (unsigned long long)(q->owner->probs + need - counted), (unsigned long long)limit);
	return -1;
}

int ops_make_room(struct request *q, const struct session *keep)
{
	struct sessions *t = &q->server->sessions;
	uint64_t limit = q->server->config->limits.sessions;
	struct session *s = NULL;
	if (q->owner->sessions >= limit)
		TAILQ_FOREACH (s, &t->used, use)
			if (s != keep && s->owner == q->owner && session_anonymous(s) && !session_running(s) && TAILQ_EMPTY(&s->waiters))
				break;
	if (s != NULL)
		run_drop(t, s);
	if (q->owner->sessions < limit && t->n_free > 0)
		return 0;
	request_failf(q, IPC_TOO_MANY, "drop sessions that you do not need", "you have %u sessions, the limit is %llu",
		      q->owner->sessions, (unsigned long long)limit);
	return -1;
}

/* Where no token ends an answer, a conversation ends where the model begins to speak as the user. */
static void add_stop(struct board_record *r, const struct template *p)
{
	if (p == NULL || p->stop == NULL || r->n_stops >= BOARD_STOPS)
		return;
	for (uint32_t i = 0; i < r->n_stops; i++)
		if (r->stop_length[i] == strlen(p->stop) && memcmp(r->stops[i], p->stop, r->stop_length[i]) == 0)
			return;
	r->stop_length[r->n_stops] = (uint8_t)strlen(p->stop);
	memcpy(r->stops[r->n_stops++], p->stop, strlen(p->stop));
}

static enum board_priority priority_of(const struct ipc_request *in)
{
	return strcmp(in->priority.data, "batch") == 0 ? BOARD_BATCHED : BOARD_INTERACTIVE;
}

/* Sampling parameters of the request into the session's record; those that an append leaves out stay. 0 or -1. */
static int set_params(struct request *q, const struct session *s)
{
	const struct ipc_request *in = &q->in;
	struct sessions *t = &q->server->sessions;
	struct board_record *r = board_record(&t->board, s->slot);
	struct board_params *p = &r->params;
	bool all = in->op != IPC_APPEND;
	uint32_t n_vocab = q->server->store->hp.n_vocab;
	for (uint32_t i = 0; i < in->n_biases; i++)
		if ((uint32_t)in->biases[i].id >= n_vocab) {
			request_failf(q, IPC_BAD_REQUEST, NULL, "field `logit_bias`: token %d, the model's vocabulary has %u", in->biases[i].id,
				      n_vocab);
			return -1;
		}
	board_record_begin(r, session_next_run(t, s));
#define TAKE(field, name)                                                                                                      \
	if (all || ipc_has(in, IPC_F_##name))                                                                                  \
		p->field = (__typeof__(p->field))in->field;
	TAKE(temp, TEMP)
	TAKE(top_k, TOP_K)
	TAKE(top_p, TOP_P)
	TAKE(min_p, MIN_P)
	TAKE(repeat_penalty, REPEAT_PENALTY)
	TAKE(repeat_last_n, REPEAT_LAST_N)
	TAKE(presence_penalty, PRESENCE_PENALTY)
	TAKE(frequency_penalty, FREQUENCY_PENALTY)
	TAKE(seed, SEED)
#undef TAKE
	if (all || ipc_has(in, IPC_F_PRIORITY))
		r->priority = priority_of(in);
	if (all && !ipc_has(in, IPC_F_SEED))
		p->seed = draw_seed();
	if (all || ipc_has(in, IPC_F_STOP)) {
		r->n_stops = in->n_stops;
		for (uint32_t i = 0; i < in->n_stops; i++) {
			r->stop_length[i] = (uint8_t)in->stops[i].length;
			memcpy(r->stops[i], in->stops[i].data, in->stops[i].length);
		}
	}
	if (ipc_has(in, IPC_F_MESSAGES))
		add_stop(r, ops_template(q, NULL));
	if (all || ipc_has(in, IPC_F_LOGIT_BIAS)) {
		r->n_biases = in->n_biases;
		for (uint32_t i = 0; i < in->n_biases; i++)
			r->biases[i] = (struct board_bias){.id = in->biases[i].id, .bias = in->biases[i].bias};
	}
	return 0;
}

/* Those of the request's run, in a session that has `flags`. Log-probabilities are of one run, the rest stays if left out. */
static uint32_t run_flags(const struct request *q, uint32_t flags)
{
	if (q->in.op != IPC_APPEND || ipc_has(&q->in, IPC_F_IGNORE_EOS))
		flags = (flags & ~(uint32_t)BOARD_IGNORE_EOS) | (q->in.ignore_eos ? BOARD_IGNORE_EOS : 0);
	flags &= ~(uint32_t)(BOARD_LOGPROBS | BOARD_TOPS);
	return ipc_has(&q->in, IPC_F_LOGPROBS) ? flags | board_logprobs(q->in.logprobs) : flags;
}

static void reply_run(struct request *q, const struct session *s, uint32_t n_given, uint32_t n_cached, uint64_t seed)
{
	request_reply(q, json_pack("{s:o,s:I,s:I,s:I,s:I}", "session", ops_name(q, s), "cursor", (json_int_t)n_given, "n_given",
				   (json_int_t)n_given, "n_cached", (json_int_t)n_cached, "seed", (json_int_t)seed));
}

static void reply_first(struct request *q, const struct session *s)
{
	if (q->in.op == IPC_GENERATE)
		reply_run(q, s, s->first_given, s->first_cached, s->first_seed);
	else if (q->in.op == IPC_FORK)
		request_reply(q, json_pack("{s:o,s:I}", "session", ops_name(q, s), "cursor", (json_int_t)s->first_cursor));
	else
		request_reply(q, json_pack("{s:o,s:I}", "session", ops_name(q, s), "n_tokens", (json_int_t)s->first_given));
}

/* A creating request that was done already, or whose name is taken: answered. `name` is of the session to be made. */
static bool answered(struct request *q, const struct ipc_text *name)
{
	struct sessions *t = &q->server->sessions;
	struct session *s = session_find_request(t, q->owner, q->in.request_id.data, q->in.request_id.length);
	if (s != NULL) {
		session_touch(t, s);
		reply_first(q, s);
		return true;
	}
	if (name->data == NULL || (s = session_find(t, q->owner, name->data, name->length)) == NULL)
		return false;
	request_failf(q, IPC_EXISTS, "append to it, drop it, or choose another name", "there is a session \"%s\" already", s->name);
	return true;
}

static void refuse_full(struct request *q)
{
	request_failf(q, IPC_NO_MEMORY, "try again when other sessions have ended", "the folder of `segments` is full");
}

/*
 * A session with room for n_tokens, and for log-probabilities of tokens [first, end) if the flags ask for them; NULL: there is none, and
 * the request has been answered.
 */
static struct session *make_session(struct request *q, const struct ipc_text *name, uint32_t n_tokens, uint32_t flags, uint32_t first,
				    uint32_t end)
{
	struct sessions *t = &q->server->sessions;
	const struct ipc_text *id = &q->in.request_id;
	struct session *s = session_new(t, q->owner, name->data, name->length, id->data, id->length);
	if (s != NULL && session_room(t, s, n_tokens) && session_take_probs(t, s, flags, first, end))
		return s;
	if (s != NULL)
		run_drop(t, s);
	refuse_full(q);
	return NULL;
}

/* Writes the request's tokens into the log from position `at` on. */
static void write_log(const struct request *q, const struct session *s, uint32_t at)
{
	memcpy(board_log(&q->server->sessions.board, s->slot) + at, q->ids.data, q->ids.length * sizeof *q->ids.data);
	stopping_place("falcond.log.written");
}

static void generate(struct request *q)
{
	struct sessions *t = &q->server->sessions;
	uint32_t n = (uint32_t)q->ids.length;
	if (q->result < 0) {
		request_fail(q, &q->error);
		return;
	}
	if (answered(q, &q->in.session))
		return;
	struct share h = share_find(t, q->owner, priority_of(&q->in), q->ids.data, n);
	uint32_t held = h.n_coming > 0 ? h.n_coming : h.n_live, flags = run_flags(q, 0);
	uint64_t end = (uint64_t)n + q->in.n;
	if (admit(q, NULL, n, share_tokens(&h), held, end) < 0 || admit_probs(q, flags, n, end, 0) < 0 || ops_make_room(q, NULL) < 0)
		return;
	struct session *s = make_session(q, &q->in.session, n, flags, n, n + q->in.n);
	if (s == NULL)
		return;
	struct board_record *r = board_record(&t->board, s->slot);
	if (set_params(q, s) < 0) {
		run_drop(t, s);
		return;
	}
	s->flags = flags;
	write_log(q, s, 0);
	s->n_given = s->n_tokens = n;
	s->n_end = n + q->in.n;
	s->first_given = s->first_cursor = n;
	s->n_cached = s->first_cached = share_tokens(&h);
	s->first_seed = r->params.seed;
	metrics_run_begins(s);
	run_start(t, s);
	reply_run(q, s, n, s->n_cached, r->params.seed);
}

void op_generate(struct request *q)
{
	if (!answered(q, &q->in.session))
		request_work(q, ops_heavy(q), ops_make_ids, generate);
}

/* Whether the tokens stand at `at` already, or the run that goes on without any began there: the append was done before. */
static bool appended(const struct request *q, const struct session *s)
{
	if (q->ids.length == 0)
		return q->in.at == s->n_given && (session_running(s) || q->in.at < s->n_tokens);
	uint64_t end = (uint64_t)q->in.at + q->ids.length;
	return q->in.at < s->n_tokens && end <= s->n_tokens &&
	       memcmp(board_log(&q->server->sessions.board, s->slot) + q->in.at, q->ids.data, q->ids.length * sizeof *q->ids.data) == 0;
}

static bool may_append(struct request *q, const struct session *s)
{
	if (s->flags & BOARD_SCORE) {
		request_failf(q, IPC_UNSUPPORTED, "make a session by `generate`", "\"%s\" is a score run, which nothing is appended to", s->name);
		return false;
	}
	if (s->failed) {
		ops_refuse_failed(q, s);
		return false;
	}
	if (q->in.at == s->n_tokens && !session_running(s))
		return true;
	if (session_running(s) && q->in.at == s->n_tokens)
		request_failf(q, IPC_BUSY, "cancel it, or wait until `next` says done", "the session \"%s\" is generating", s->name);
	else
		request_failf(q, IPC_AT_MISMATCH, "ask `sessions` for its n_tokens, and append there",
			      "`at` is %u, the session \"%s\" has %u tokens%s", q->in.at, s->name, s->n_tokens,
			      q->in.at < s->n_tokens ? " and others stand there" : "");
	return false;
}

static void append(struct request *q)
{
	struct sessions *t = &q->server->sessions;
	struct session *s = q->result < 0 ? NULL : ops_find(q);
	if (q->result < 0)
		request_fail(q, &q->error);
	if (s == NULL)
		return;
	struct board_record *r = board_record(&t->board, s->slot);
	uint32_t end = q->in.at + (uint32_t)q->ids.length;
	if (!(s->flags & BOARD_SCORE) && appended(q, s)) {
		reply_run(q, s, end, s->n_given == end ? s->n_cached : 0, r->params.seed);
		return;
	}
	uint32_t n = ipc_has(&q->in, IPC_F_N) ? q->in.n : s->n_end - s->n_given;
	uint32_t n_kv = s->releasing ? 0 : s->n_kv, known = session_known(s), flags = run_flags(q, s->flags);
	if (!may_append(q, s) || admit(q, s, end, known, s->releasing ? 0 : s->n_pages, (uint64_t)end + n) < 0 ||
	    admit_probs(q, flags, end, (uint64_t)end + n, s->probs) < 0)
		return;
	if (!session_room(t, s, end) || !session_take_probs(t, s, flags, end, end + n)) {
		refuse_full(q);
		return;
	}
	if (set_params(q, s) < 0)
		return;
	stream_done(&s->stream); /* it was cut by the terms of the run before */
	s->flags = flags;
	write_log(q, s, q->in.at);
	s->n_given = s->n_tokens = end;
	s->n_end = end + n;
	s->n_kv = n_kv;
	s->n_cached = known;
	metrics_run_begins(s);
	run_start(t, s);
	reply_run(q, s, end, s->n_cached, r->params.seed);
}

void op_append(struct request *q)
{
	const struct session *s = ops_find(q);
	if (s == NULL)
		return;
	if (ipc_prompts(&q->in) == 0) {
		append(q);
		return;
	}
	for (uint32_t i = q->in.at > TEMPLATE_BEFORE ? q->in.at - TEMPLATE_BEFORE : 0; q->in.at <= s->n_tokens && i < q->in.at; i++)
		ids_add(&q->before, board_log(&q->server->sessions.board, s->slot)[i]);
	request_work(q, ops_heavy(q), ops_make_ids, append);
}

/* The new session has the donor's record but for names, its log and what is computed of it. */
static void copy_session(struct request *q, struct session *s, const struct session *donor)
{
	struct sessions *t = &q->server->sessions;
	struct board_record *r = board_record(&t->board, s->slot);
	const struct board_record *from = board_record(&t->board, donor->slot);
	r->params = from->params;
	if (ipc_has(&q->in, IPC_F_SEED))
		r->params.seed = q->in.seed;
	r->n_stops = from->n_stops;
	memcpy(r->stop_length, from->stop_length, sizeof r->stop_length);
	memcpy(r->stops, from->stops, sizeof r->stops);
	r->n_biases = from->n_biases;
	memcpy(r->biases, from->biases, sizeof r->biases);
	r->priority = from->priority;
	s->flags = donor->flags;
	s->n_given = donor->n_given;
	s->n_end = donor->n_end;
	s->n_tokens = s->first_cursor = donor->n_tokens;
	memcpy(board_log(&t->board, s->slot), board_log(&t->board, donor->slot), donor->n_tokens * sizeof(int32_t));
	memcpy(probs_at(&t->board, s->slot, s->flags, 0), probs_at(&t->board, donor->slot, s->flags, 0),
	       probs_bytes(s->flags, donor->n_tokens - donor->n_given));
	s->finish = donor->finish;
	run_share_pages(t, s, donor);
	s->n_cached = s->n_kv;
}

void op_fork(struct request *q)
{
	struct sessions *t = &q->server->sessions;
	if (answered(q, &q->in.new_session))
		return;
	struct session *donor = ops_find(q);
	if (donor == NULL)
		return;
	if (donor->flags & BOARD_SCORE) {
		request_failf(q, IPC_UNSUPPORTED, NULL, "\"%s\" is a score run, which has no forks", donor->name);
		return;
	}
	bool running = session_running(donor) && !donor->cancelling;
	if (running && admit(q, NULL, donor->n_tokens, donor->releasing ? 0 : donor->n_kv, 0, donor->n_end) < 0)
		return;
	if (admit_probs(q, donor->flags, donor->n_given, donor->n_end, 0) < 0 || ops_make_room(q, donor) < 0)
		return;
	struct session *s = make_session(q, &q->in.new_session, donor->n_tokens, donor->flags, donor->n_given, donor->n_end);
	if (s == NULL)
		return;
	copy_session(q, s, donor);
	if (running)
		run_start(t, s);
	else
		run_rest(t, s);
	reply_first(q, s);
}

static void score(struct request *q)
{
	struct sessions *t = &q->server->sessions;
	const struct ipc_text unnamed = {0};
	uint32_t n = (uint32_t)q->ids.length;
	if (q->result < 0) {
		request_fail(q, &q->error);
		return;
	}
	uint32_t flags = BOARD_SCORE | (q->in.op == IPC_EMBED ? BOARD_HIDDEN : run_flags(q, q->in.rows ? BOARD_ROWS : 0));
	if (answered(q, &unnamed) || admit(q, NULL, n, 0, 0, n) < 0 || admit_probs(q, flags, 0, n, 0) < 0 || ops_make_room(q, NULL) < 0)
		return;
	if (board_reserve_ring(&t->board) < 0) {
		refuse_full(q);
		return;
	}
	struct session *s = make_session(q, &unnamed, n, flags, 0, n);
	if (s == NULL)
		return;
	struct board_record *r = board_record(&t->board, s->slot);
	r->params = (struct board_params){.top_p = 1, .repeat_penalty = 1};
	if (q->in.op == IPC_EMBED)
		r->priority = priority_of(&q->in);
	write_log(q, s, 0);
	s->flags = flags;
	s->n_given = s->n_tokens = s->n_end = s->first_given = n;
	scores_init(&s->scores, n, t->n_vocab, t->n_embd, s->flags);
	run_start(t, s);
	reply_first(q, s);
}

void op_score(struct request *q)
{
	const struct ipc_text unnamed = {0};
	if (!answered(q, &unnamed))
		request_work(q, ops_heavy(q), ops_make_ids, score);
}

void op_embed(struct request *q)
{
	const struct sessions *t = &q->server->sessions;
	if (t->n_embd <= board_payload(&t->board))
		op_score(q);
	else
		request_failf(q, IPC_UNSUPPORTED, NULL, "this model's vocabulary of %u is smaller than its hidden states of %u", t->n_vocab,
			      t->n_embd);
}
