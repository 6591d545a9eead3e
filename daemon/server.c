/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests arrive on the endpoint's thread; they are put into a queue there and taken out in the loop, where everything else
 * happens. Nothing in the loop takes long: large messages and texts go to libuv's threads, and what waits for the engine is a list
 * entry.
 */
#include "daemon/server.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/ops.h"

enum {
	OVERSIZE = 4,          /* messages up to so many times the limit get an error, larger ones lose their connection */
	MESSAGES = 256,        /* of the largest that one user may have in memory: requests, and replies that are not read */
	PEERS_MOST = 1 << 16,
	SPARE_FILES = 512,     /* descriptors that connections do not take */
	SCORED_S = 60,         /* a score run that is over and that nobody asks for goes after this */
	TICK_MS = 1000,
	TURNS_MS = 2,          /* for which requests are taken up before the loop looks at what else there is */
};

op *const ops[IPC_OPS] = {
	[IPC_HELLO] = op_hello, [IPC_GENERATE] = op_generate, [IPC_APPEND] = op_append, [IPC_NEXT] = op_next,
	[IPC_CANCEL] = op_cancel, [IPC_FORK] = op_fork, [IPC_DROP] = op_drop, [IPC_SESSIONS] = op_sessions,
	[IPC_TOKENIZE] = op_tokenize, [IPC_DETOKENIZE] = op_detokenize, [IPC_SCORE] = op_score, [IPC_EMBED] = op_embed,
	[IPC_STATUS] = op_status,
	[IPC_DRAIN] = op_drain, [IPC_EXPORT] = op_export, [IPC_IMPORT] = op_import,
	[IPC_UPGRADE] = op_upgrade,
};

/* On the endpoint's thread. */
static void receive(void *arg, struct endpoint_request *wire)
{
	struct server *s = arg;
	pthread_mutex_lock(&s->lock);
	bool accepting = s->accepting;
	if (accepting) {
		if (s->n_queue == s->queue_capacity) {
			s->queue_capacity = s->queue_capacity ? s->queue_capacity * 2 : 64;
			s->queue = xreallocarray(s->queue, s->queue_capacity, sizeof *s->queue);
		}
		s->queue[s->n_queue++] = wire;
		uv_async_send(&s->arrived);
	}
	pthread_mutex_unlock(&s->lock);
	if (!accepting)
		endpoint_reply(wire, NULL, 0);
}

/* What has arrived since, as an array that the caller frees. */
static struct endpoint_request **take_queue(struct server *s, size_t *ret_n)
{
	pthread_mutex_lock(&s->lock);
	struct endpoint_request **queue = s->queue;
	*ret_n = s->n_queue;
	s->queue = NULL;
	s->n_queue = s->queue_capacity = 0;
	pthread_mutex_unlock(&s->lock);
	return queue;
}

static void begin(struct request *q)
{
	if (!drain_refuses(q))
		ops[q->in.op](q);
}

/* Requests have come, or are left from the last time. The loop has other things to do too, so it does not go on for long. */
static void on_arrived(uv_async_t *async)
{
	struct server *s = async->data;
	size_t n;
	struct endpoint_request **queue = take_queue(s, &n);
	for (size_t i = 0; i < n; i++) {
		struct request *q = request_new(s, queue[i]);
		if (q != NULL)
			turns_add(&s->turns, q);
	}
	free(queue);
	uint64_t until = clock_ns() + TURNS_MS * 1000000;
	for (struct request *q; clock_ns() < until && (q = turns_next(&s->turns)) != NULL;)
		request_decode(q, begin);
	if (!TAILQ_EMPTY(&s->turns))
		uv_async_send(async);
}

static void changed(void *arg, struct session *session)
{
	struct server *s = arg;
	metrics_progress(&s->metrics, session);
	ops_session_changed(s, session);
}

static void gone(void *arg, struct session *session)
{
	struct server *s = arg;
	ops_session_gone(s, session);
	spill_forget(&s->spill, session);
}

static void save(void *arg, struct session *session)
{
	spill_save(&((struct server *)arg)->spill, session);
}

static void load(void *arg, struct session *session)
{
	spill_load(&((struct server *)arg)->spill, session);
}

static bool seconds_since(uint64_t then, uint64_t seconds)
{
	return clock_ns() - then >= seconds * 1000000000u;
}

/* Pauses runs that nobody has asked about for long, drops score runs that were read, and writes sessions that are idle. */
static void on_tick(uv_timer_t *timer)
{
	struct server *s = timer->data;
	uint64_t after = s->config->detach_after;
	for (struct session *at = TAILQ_FIRST(&s->sessions.used), *next; at != NULL; at = next) {
		next = TAILQ_NEXT(at, use);
		if (!TAILQ_EMPTY(&at->waiters))
			continue;
		if (at->state == SESSION_RUNNING && after != 0 && seconds_since(at->read_at, after))
			run_pause(&s->sessions, at);
		else if (at->state == SESSION_IDLE && (at->flags & BOARD_SCORE) && seconds_since(at->used_at, SCORED_S))
			run_drop(&s->sessions, at);
	}
	if (s->arena.n_short > 0)
		run_settle(&s->sessions); /* others may have made room in the tmpfs meanwhile */
	transfers_expire(&s->transfers);
	if (s->spill.enabled)
		spill_tick(&s->spill, s->config->spill_after);
}

static void spill_is_idle(void *arg)
{
	drain_check(arg);
}

void server_init(struct server *s)
{
	metrics_init(&s->metrics);
	pthread_mutex_init(&s->lock, NULL);
	TAILQ_INIT(&s->open);
	TAILQ_INIT(&s->turns);
	arena_init(&s->arena, s->store->set.fds[KEEP_PAGES], &s->store->arena);
	s->arena.reserves = s->store->set.in_folder;
	s->sessions.board = s->store->board;
	s->sessions.arena = &s->arena;
	s->sessions.n_vocab = s->store->hp.n_vocab;
	s->sessions.n_embd = s->store->hp.n_embd;
	s->sessions.wake_engine = s->supervisor->wake_engine;
	s->sessions.changed = changed;
	s->sessions.gone = gone;
	s->sessions.arg = s;
	sessions_init(&s->sessions);
	TAILQ_INIT(&s->transfers);
	s->spill = (struct spill){.loop = s->loop, .sessions = &s->sessions, .owners = &s->owners, .idle = spill_is_idle, .arg = s};
	spill_init(&s->spill, s->store);
	uv_async_init(s->loop, &s->arrived, on_arrived);
	uv_timer_init(s->loop, &s->tick);
	s->arrived.data = s->tick.data = s;
	uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
}

int server_restore(struct server *s, struct err *e)
{
	if (s->config->state == NULL)
		return 0;
	int r = spill_open(&s->spill, s->config->state, e);
	if (r < 0 || (r = spill_scan(&s->spill, e)) < 0)
		return r;
	s->sessions.save = save;
	s->sessions.load = load;
	return 0;
}

bool server_spill(struct server *s, bool with_pages)
{
	if (s->spill.enabled)
		spill_all(&s->spill, with_pages, true);
	return s->spill.enabled;
}

/* Connections that leave the rest of falcond descriptors enough: for engines, files and HTTP. */
static unsigned count_peers(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur > PEERS_MOST + SPARE_FILES)
		return PEERS_MOST;
	return files.rlim_cur > 2 * SPARE_FILES ? (unsigned)files.rlim_cur - SPARE_FILES : (unsigned)files.rlim_cur / 2;
}

int server_open(struct server *s, struct err *e)
{
	uint64_t message = s->config->limits.message;
	struct endpoint_options o = {.url = s->config->socket, .mode = s->auth->socket_mode, .group = s->auth->socket_group,
				     .max_bytes = message * OVERSIZE, .max_peers = count_peers(), .max_user_bytes = message * MESSAGES,
				     .receive = receive, .arg = s};
	s->accepting = true;
	return endpoint_open(&o, &s->endpoint, e);
}

void server_ask(struct server *s, uint64_t owner, bool admin, json_t *json, request_answer *answer, void *arg)
{
	if (s->stopping) {
		json_decref(json);
		answer(arg, NULL);
		return;
	}
	struct request *q = request_from_within(s, owner, admin, json, answer, arg);
	if (q != NULL)
		begin(q);
}

void server_stop(struct server *s)
{
	size_t n;
	if (s->stopping)
		return;
	s->stopping = true;
	pthread_mutex_lock(&s->lock);
	s->accepting = false;
	pthread_mutex_unlock(&s->lock);
	struct endpoint_request **queue = take_queue(s, &n);
	for (size_t i = 0; i < n; i++)
		endpoint_reply(queue[i], NULL, 0);
	free(queue);
	for (struct request *q = TAILQ_FIRST(&s->open), *next; q != NULL; q = next) {
		next = TAILQ_NEXT(q, open);
		if (!q->working)
			request_drop(q);
	}
}

void server_done(struct server *s)
{
	CHECK(TAILQ_EMPTY(&s->open));
	endpoint_close(s->endpoint);
	transfers_done(&s->transfers);
	spill_close(&s->spill);
	sessions_done(&s->sessions);
	arena_done(&s->arena);
	owners_done(&s->owners);
	free(s->queue);
	pthread_mutex_destroy(&s->lock);
}

void server_scan(struct server *s)
{
	run_scan(&s->sessions);
	metrics_steps(&s->metrics, s->store->board.header);
	drain_check(s);
}

void server_engine_gone(struct server *s)
{
	run_engine_gone(&s->sessions);
	drain_check(s);
}

bool server_busy(const struct server *s)
{
	return !TAILQ_EMPTY(&s->sessions.active);
}

void server_fail_session(struct server *s, uint32_t slot, uint32_t run, uint32_t cause)
{
	struct session *of = slot < s->sessions.n_slots ? s->sessions.slots[slot] : NULL;
	char what[SESSION_FAILURE];
	if (of == NULL || of->run != run || !session_running(of) || of->dropped)
		return;
	run_fail(&s->sessions, of, cause);
	session_failure(of, what);
	log_error("session \"%s\" of user %llu has been ended: %s", of->name, (unsigned long long)of->owner->id, what);
}
