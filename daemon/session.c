/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/session.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/hooks.h"
#include "base/mem.h"
#include "shm/probs.h"

static const uint32_t last_run = (1u << 24) - 16; /* a slot whose run numbers are used up is not used again */

void sessions_init(struct sessions *t)
{
	prefix_init(&t->prefix, t->arena);
	t->n_slots = t->board.n_slots;
	t->slots = xcalloc(t->n_slots, sizeof *t->slots);
	t->free_slots = xcalloc(t->n_slots, sizeof *t->free_slots);
	for (uint32_t i = 0; i < t->n_slots; i++)
		t->free_slots[i] = t->n_slots - 1 - i;
	t->n_free = t->n_slots;
	t->n_buckets = 1024;
	while (t->n_buckets < t->n_slots)
		t->n_buckets *= 2;
	t->by_name = xcalloc(t->n_buckets, sizeof *t->by_name);
	t->by_request = xcalloc(t->n_buckets, sizeof *t->by_request);
	t->first_number = atomic_load_explicit(&t->board.header->names, memory_order_relaxed);
	TAILQ_INIT(&t->used);
	TAILQ_INIT(&t->active);
}

static void free_session(struct session *s)
{
	CHECK(TAILQ_EMPTY(&s->waiters));
	stream_done(&s->stream);
	scores_done(&s->scores);
	s->magic = 0;
	free(s);
}

void sessions_done(struct sessions *t)
{
	for (uint32_t i = 0; i < t->n_slots; i++)
		if (t->slots[i] != NULL)
			free_session(t->slots[i]);
	free(t->slots);
	free(t->free_slots);
	free(t->by_name);
	free(t->by_request);
	prefix_done(&t->prefix);
}

/* Chains are per (owner, text). */
static uint32_t bucket(const struct sessions *t, const struct owner *o, const char *text, size_t length)
{
	return (uint32_t)(XXH3_64bits_withSeed(text, length, o->id) & (t->n_buckets - 1));
}

struct session *session_find(const struct sessions *t, const struct owner *o, const char *name, size_t length)
{
	struct session *s = t->by_name[bucket(t, o, name, length)];
	while (s != NULL && !(s->owner == o && s->name_length == length && memcmp(s->name, name, length) == 0))
		s = s->next_name;
	return s;
}

struct session *session_find_request(const struct sessions *t, const struct owner *o, const char *request, size_t length)
{
	struct session *s = t->by_request[bucket(t, o, request, length)];
	while (s != NULL && !(s->owner == o && s->request_length == length && memcmp(s->request, request, length) == 0))
		s = s->next_request;
	return s;
}

static void link_session(struct sessions *t, struct session *s)
{
	struct session **chain = &t->by_name[bucket(t, s->owner, s->name, s->name_length)];
	s->next_name = *chain;
	*chain = s;
	chain = &t->by_request[bucket(t, s->owner, s->request, s->request_length)];
	s->next_request = *chain;
	*chain = s;
	TAILQ_INSERT_TAIL(&t->used, s, use);
	t->n_sessions++;
	s->owner->sessions++;
}

void session_forget(struct sessions *t, struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	struct session **at = &t->by_name[bucket(t, s->owner, s->name, s->name_length)];
	while (*at != s)
		at = &(*at)->next_name;
	*at = s->next_name;
	at = &t->by_request[bucket(t, s->owner, s->request, s->request_length)];
	while (*at != s)
		at = &(*at)->next_request;
	*at = s->next_request;
	TAILQ_REMOVE(&t->used, s, use);
	t->n_sessions--;
	s->owner->sessions--;
	s->owner->probs -= s->probs;
	s->probs = 0;
}

static void write_record(struct sessions *t, const struct session *s)
{
	struct board_record *r = board_record(&t->board, s->slot);
	memset(r, 0, sizeof *r);
	r->magic = BOARD_RECORD_MAGIC;
	r->version = BOARD_RECORD_VERSION;
	r->capacity = t->board.n_context;
	r->offset = (uint64_t)((const uint8_t *)r - (const uint8_t *)t->board.header);
	r->probs_offset = (uint64_t)((const uint8_t *)probs_at(&t->board, s->slot, 0, 0) - (const uint8_t *)t->board.header);
	r->owner = s->owner->id;
	r->used = s->used_at;
	r->name_length = s->name_length;
	r->request_length = s->request_length;
	memcpy(r->name, s->name, s->name_length);
	memcpy(r->request, s->request, s->request_length);
}

static struct session *make_session(struct owner *o, uint32_t slot, const char *name, size_t name_length, const char *request,
				    size_t request_length)
{
	CHECK(name_length <= BOARD_NAME && request_length <= BOARD_REQUEST);
	struct session *s = xcalloc(1, sizeof *s);
	s->magic = SESSION_MAGIC;
	s->slot = slot;
	s->owner = o;
	memcpy(s->name, name, name_length);
	s->name_length = (uint8_t)name_length;
	memcpy(s->request, request, request_length);
	s->request_length = (uint8_t)request_length;
	s->used_at = s->read_at = clock_ns();
	TAILQ_INIT(&s->waiters);
	return s;
}

static void place(struct sessions *t, struct session *s)
{
	s->run = board_run(atomic_load_explicit(&t->board.words[s->slot].want, memory_order_relaxed));
	t->slots[s->slot] = s;
	link_session(t, s);
}

/* Numbers of names are never given twice, by no later falcond either: the board has a number above all of them. */
static void note_number(struct sessions *t, uint64_t number)
{
	enum { AHEAD = 1024 };
	_Atomic uint64_t *names = &t->board.header->names;
	if (number >= atomic_load_explicit(names, memory_order_relaxed))
		atomic_store_explicit(names, number + AHEAD, memory_order_relaxed);
}

uint64_t session_number(const struct sessions *t, const struct owner *o)
{
	return t->first_number + o->next_number;
}

static uint64_t take_number(struct sessions *t, struct owner *o)
{
	uint64_t number = session_number(t, o);
	o->next_number++;
	note_number(t, number);
	return number;
}

/* The number of a session from elsewhere: those that the owner gets are above. */
static void reserve_number(struct sessions *t, struct owner *o, uint64_t number)
{
	if (number >= UINT64_MAX / 2)
		return;
	if (number >= session_number(t, o))
		o->next_number = number - t->first_number + 1;
	note_number(t, number);
}

bool session_room(const struct sessions *t, struct session *s, uint32_t n_tokens)
{
	enum { MORE = 1024 }; /* tokens: a page of the machine's */
	uint32_t most = t->board.n_context, room = n_tokens + MORE < most ? n_tokens + MORE : most;
	if (n_tokens <= s->room || !t->board.reserves)
		return true;
	if (board_reserve(&t->board, s->slot, room) < 0)
		return false;
	s->room = room;
	return true;
}

/* A session in a free slot, with an empty record; nobody finds it yet. NULL: there is no slot, or no memory for n_tokens. */
static struct session *take_slot(struct sessions *t, struct owner *o, const char *name, size_t name_length, const char *request,
				 size_t request_length, uint32_t n_tokens)
{
	struct board_header *h = t->board.header;
	if (t->n_free == 0 || board_reserve(&t->board, t->free_slots[t->n_free - 1], n_tokens) < 0)
		return NULL;
	struct session *s = make_session(o, t->free_slots[--t->n_free], name, name_length, request, request_length);
	if (s->slot >= atomic_load_explicit(&h->n_used, memory_order_relaxed))
		atomic_store_explicit(&h->n_used, s->slot + 1, memory_order_release);
	stopping_place("falcond.session.used");
	write_record(t, s);
	stopping_place("falcond.session.record");
	return s;
}

struct session *session_new(struct sessions *t, struct owner *o, const char *name, size_t name_length, const char *request,
			    size_t request_length)
{
	char number[BOARD_NAME];
	if (name == NULL) {
		name_length = (size_t)snprintf(number, sizeof number, "~%llu", (unsigned long long)take_number(t, o));
		name = number;
	}
	struct session *s = take_slot(t, o, name, name_length, request, request_length, 0);
	if (s != NULL)
		place(t, s);
	return s;
}

bool session_take_probs(const struct sessions *t, struct session *s, uint32_t flags, uint32_t first, uint32_t end)
{
	uint32_t last = end < t->board.n_context ? end : t->board.n_context;
	uint64_t need = last > first ? probs_bytes(flags, last - first) : 0;
	if (need <= s->probs)
		return true;
	if (board_reserve_probs(&t->board, s->slot, need) < 0)
		return false;
	s->owner->probs += need - s->probs;
	s->probs = need;
	return true;
}

uint32_t session_next_run(const struct sessions *t, const struct session *s)
{
	uint32_t ready = atomic_load_explicit(&board_record(&t->board, s->slot)->ready, memory_order_relaxed);
	return (s->run > ready ? s->run : ready) + 1;
}

/* What of a record both an adopted and a restored session have. */
static void read_record(struct session *s, const struct board_record *r)
{
	s->first_given = r->first_given;
	s->first_cached = r->first_cached;
	s->first_cursor = r->first_cursor;
	s->first_seed = r->first_seed;
	s->flags = r->flags;
	s->n_given = r->n_given;
	s->n_end = r->n_end;
	s->n_cached = r->n_cached;
	s->started = r->started;
	s->failed = r->failed;
}

struct session *session_adopt(struct sessions *t, struct owner *o, const struct survey_session *found)
{
	struct board_record *r = board_record(&t->board, found->slot);
	uint32_t ready = atomic_load_explicit(&r->ready, memory_order_relaxed);
	if (atomic_load_explicit(&r->run, memory_order_relaxed) != ready)
		board_record_undo(r);
	if (board_run(r->over) > ready)
		atomic_store_explicit(&r->over, 0, memory_order_relaxed);
	struct session *s = make_session(o, found->slot, r->name, r->name_length, r->request, r->request_length);
	if (r->used < s->used_at)
		s->used_at = r->used;
	read_record(s, r);
	s->n_tokens = found->n_tokens;
	s->n_kv = found->n_kv;
	s->n_pages = found->n_pages;
	s->finish = found->finish;
	place(t, s);
	session_take_probs(t, s, s->flags, s->flags & BOARD_SCORE ? 0 : s->n_given, s->n_end);
	return s;
}

struct session *session_restore(struct sessions *t, struct owner *o, const struct board_record *from, const void *ids,
				const void *probs, uint32_t n_tokens)
{
	struct session *s = take_slot(t, o, from->name, from->name_length, from->request, from->request_length, n_tokens);
	if (s == NULL)
		return NULL;
	struct board_record *r = board_record(&t->board, s->slot);
	read_record(s, from);
	s->started = 0; /* a number of another board's */
	s->n_tokens = n_tokens;
	s->finish = board_run(from->over) == from->ready ? board_low(from->over) : 0;
	r->generation = from->generation - (from->generation > 0); /* what is to follow raises it to what it was */
	r->failed = from->failed;
	r->priority = from->priority;
	r->params = from->params;
	r->n_stops = from->n_stops;
	memcpy(r->stop_length, from->stop_length, sizeof r->stop_length);
	memcpy(r->stops, from->stops, sizeof r->stops);
	r->n_biases = from->n_biases;
	memcpy(r->biases, from->biases, sizeof r->biases);
	memcpy(board_log(&t->board, s->slot), ids, n_tokens * sizeof(int32_t));
	uint32_t told = n_tokens > s->n_given ? n_tokens - s->n_given : 0, first = s->flags & BOARD_SCORE ? 0 : s->n_given;
	bool room = session_take_probs(t, s, s->flags, first, s->n_end);
	if (room && probs != NULL)
		memcpy(probs_at(&t->board, s->slot, s->flags, 0), probs, probs_bytes(s->flags, told));
	else if (!room || told > 0)
		s->flags &= ~(uint32_t)(BOARD_LOGPROBS | BOARD_TOPS);
	if (session_anonymous(s))
		reserve_number(t, o, strtoull(s->name + 1, NULL, 10));
	place(t, s);
	return s;
}

static void clear_slot(struct sessions *t, uint32_t slot)
{
	/* The log's memory goes back; a record of zeros is no session to anyone who reads the board later. */
	madvise(board_record(&t->board, slot), t->board.log_stride, MADV_REMOVE);
	madvise(probs_at(&t->board, slot, 0, 0), t->board.probs_stride, MADV_REMOVE);
}

void sessions_adopted(struct sessions *t)
{
	uint32_t n_used = atomic_load_explicit(&t->board.header->n_used, memory_order_relaxed);
	t->n_free = 0;
	for (uint32_t slot = t->n_slots; slot-- > 0;) {
		if (t->slots[slot] != NULL)
			continue;
		uint32_t run = 0;
		if (slot < n_used) {
			struct board_words *w = &t->board.words[slot];
			run = board_run(atomic_load_explicit(&w->want, memory_order_relaxed));
			clear_slot(t, slot);
			atomic_store_explicit(&w->n_pages, 0, memory_order_relaxed);
			atomic_store_explicit(&w->want, board_word(run, BOARD_NONE), memory_order_release);
		}
		if (run < last_run)
			t->free_slots[t->n_free++] = slot;
	}
}

void session_free(struct sessions *t, struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	CHECK(s->n_pages == 0 && !s->is_active && t->slots[s->slot] == s);
	t->slots[s->slot] = NULL;
	clear_slot(t, s->slot);
	stopping_place("falcond.session.freed");
	if (s->run < last_run)
		t->free_slots[t->n_free++] = s->slot;
	free_session(s);
}

void session_touch(struct sessions *t, struct session *s)
{
	s->used_at = board_record(&t->board, s->slot)->used = clock_ns();
	TAILQ_REMOVE(&t->used, s, use);
	TAILQ_INSERT_TAIL(&t->used, s, use);
}

const char *session_where(const struct session *s)
{
	return s->n_pages > 0 && !s->loading ? "memory" : s->disk_kv > 0 ? "disk" : "log";
}

const char *session_state_name(const struct session *s)
{
	static const char *const names[] = {[SESSION_IDLE] = "idle", [SESSION_RUNNING] = "running", [SESSION_PAUSED] = "paused",
					    [SESSION_WAITING] = "waiting", [SESSION_FOLLOWING] = "waiting"};
	return names[s->state];
}

void session_failure(const struct session *s, char ret_text[SESSION_FAILURE])
{
	char how[64] = "a step that did not end";
	if (s->failed != BOARD_FAILED_LATE)
		snprintf(how, sizeof how, "signal %u (%s)", s->failed, strsignal((int)s->failed));
	snprintf(ret_text, SESSION_FAILURE, "the engine died of it alone, twice, by %s, with %u tokens in the session", how, s->n_tokens);
}
