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

static const uint32_t last_run = (1u << 24) - 16; /* a slot whose run numbers are used up is not used again */

void sessions_init(struct sessions *t)
{
	t->n_slots = t->board.header->n_slots;
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
}

static void write_record(struct sessions *t, const struct session *s)
{
	struct board_record *r = board_record(&t->board, s->slot);
	memset(r, 0, sizeof *r);
	r->version = BOARD_RECORD_VERSION;
	r->owner = s->owner->id;
	r->generation = 1;
	r->name_length = s->name_length;
	r->request_length = s->request_length;
	memcpy(r->name, s->name, s->name_length);
	memcpy(r->request, s->request, s->request_length);
}

/* A session in a free slot, which nobody finds yet. */
static struct session *take_slot(struct sessions *t, struct owner *o, const char *name, size_t name_length, const char *request,
				 size_t request_length)
{
	CHECK(name_length <= BOARD_NAME && request_length <= BOARD_REQUEST && t->n_free > 0);
	struct session *s = xcalloc(1, sizeof *s);
	s->magic = SESSION_MAGIC;
	s->slot = t->free_slots[--t->n_free];
	s->run = board_run(atomic_load_explicit(&t->board.words[s->slot].want, memory_order_relaxed));
	s->owner = o;
	if (name == NULL)
		name_length = (size_t)snprintf(s->name, sizeof s->name, "~%llu", (unsigned long long)o->next_number++);
	else
		memcpy(s->name, name, name_length);
	s->name_length = (uint8_t)name_length;
	memcpy(s->request, request, request_length);
	s->request_length = (uint8_t)request_length;
	s->used_at = s->read_at = clock_ns();
	TAILQ_INIT(&s->waiters);
	t->slots[s->slot] = s;
	struct board_header *h = t->board.header;
	if (s->slot >= atomic_load_explicit(&h->n_used, memory_order_relaxed))
		atomic_store_explicit(&h->n_used, s->slot + 1, memory_order_release);
	stopping_place("falcond.session.used");
	return s;
}

struct session *session_new(struct sessions *t, struct owner *o, const char *name, size_t name_length, const char *request,
			    size_t request_length)
{
	if (t->n_free == 0)
		return NULL;
	struct session *s = take_slot(t, o, name, name_length, request, request_length);
	write_record(t, s);
	stopping_place("falcond.session.record");
	link_session(t, s);
	return s;
}

struct session *session_restore(struct sessions *t, struct owner *o, const struct board_record *record, const void *ids,
				uint32_t n_tokens)
{
	if (t->n_free == 0)
		return NULL;
	struct session *s = take_slot(t, o, record->name, record->name_length, record->request, record->request_length);
	struct board_record *r = board_record(&t->board, s->slot);
	*r = *record;
	r->owner = o->id;
	r->n_from = r->n_tokens = s->n_tokens = n_tokens;
	r->kv_from = 0;
	memcpy(board_log(&t->board, s->slot), ids, n_tokens * sizeof(int32_t));
	s->flags = r->flags;
	s->failed = r->failed;
	s->n_given = r->n_given;
	s->n_end = r->n_end;
	if (session_anonymous(s) && strtoull(s->name + 1, NULL, 10) >= o->next_number)
		o->next_number = strtoull(s->name + 1, NULL, 10) + 1;
	link_session(t, s);
	return s;
}

void session_free(struct sessions *t, struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	CHECK(s->n_pages == 0 && !s->is_active && t->slots[s->slot] == s);
	t->slots[s->slot] = NULL;
	/* The log's memory goes back; a record of zeros is no session to anyone who reads the board later. */
	madvise(board_record(&t->board, s->slot), t->board.header->log_stride, MADV_REMOVE);
	stopping_place("falcond.session.freed");
	if (s->run < last_run)
		t->free_slots[t->n_free++] = s->slot;
	free_session(s);
}

void session_touch(struct sessions *t, struct session *s)
{
	s->used_at = clock_ns();
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
					    [SESSION_WAITING] = "waiting"};
	return names[s->state];
}

void session_failure(const struct session *s, char ret_text[SESSION_FAILURE])
{
	char how[64] = "a step that did not end";
	if (s->failed != BOARD_FAILED_LATE)
		snprintf(how, sizeof how, "signal %u (%s)", s->failed, strsignal((int)s->failed));
	snprintf(ret_text, SESSION_FAILURE, "the engine died of it alone, twice, by %s, with %u tokens in the session", how, s->n_tokens);
}
