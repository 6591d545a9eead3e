/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/survey.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool survey_name_good(const char *name, uint32_t length)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	bool numbered = length > 1 && length <= 21 && name[0] == '~';
	if (length == 0 || length > BOARD_NAME)
		return false;
	for (uint32_t i = numbered; i < length; i++)
		if (name[i] == '\0' || strchr(numbered ? "0123456789" : plain, name[i]) == NULL)
			return false;
	return true;
}

/* The four words of a slot, each loaded once. */
struct words {
	uint32_t ready, over, want, verb, is;
};

static struct words load_words(const struct board *b, uint32_t slot)
{
	const struct board_record *r = board_record(b, slot);
	const struct board_words *w = &b->words[slot];
	uint32_t want = atomic_load_explicit(&w->want, memory_order_acquire);
	return (struct words){.ready = atomic_load_explicit(&r->ready, memory_order_acquire),
			      .over = atomic_load_explicit(&r->over, memory_order_relaxed),
			      .want = board_run(want),
			      .verb = board_low(want),
			      .is = atomic_load_explicit(&w->is, memory_order_acquire)};
}

static bool asks_to_compute(uint32_t verb)
{
	return verb == BOARD_RUN || verb == BOARD_PAUSE || verb == BOARD_CANCEL;
}

/* Fills verb, finish, published and releasing. */
static int read_state(const struct words *w, struct survey_session *s, struct err *e)
{
	bool done = w->is == board_word(w->want, BOARD_DONE), closed = w->is == board_word(w->want, BOARD_CLOSED);
	bool over = board_run(w->over) == w->ready, asked = asks_to_compute(w->verb);
	if (w->want > w->ready || board_run(w->is) > w->want || w->verb > BOARD_CLOSE || board_low(w->is) > BOARD_CLOSED)
		return err_set(e, -EINVAL, "slot %u: wants %u of run %u and is %#x, its record is of run %u", s->slot, w->verb, w->want,
			       w->is, w->ready);
	if (over && board_low(w->over) > BOARD_ERROR)
		return err_set(e, -EINVAL, "slot %u: ended for the reason %u", s->slot, board_low(w->over));
	if (asked && (closed || ((over || w->want < w->ready) && !done)))
		return err_set(e, -EINVAL, "slot %u: run %u is asked for (%u), is %#x, and run %u %s", s->slot, w->want, w->verb, w->is,
			       w->ready, over ? "is over" : "is to follow");
	s->finish = over ? board_low(w->over) : 0;
	s->verb = over ? BOARD_NONE : w->want == w->ready && asked ? w->verb : BOARD_RUN;
	s->published = asked && w->want == w->ready;
	s->releasing = w->verb == BOARD_CLOSE || (!over && !asked && w->want == w->ready);
	return 0;
}

/* Fills n_tokens, n_kv and n_pages. `r` is a copy of the record with its terms whole. */
static int read_extent(const struct board *b, const struct words *w, const struct board_record *r, struct survey_session *s,
		       struct err *e)
{
	uint32_t n_pages = atomic_load_explicit(&b->words[s->slot].n_pages, memory_order_acquire), n_context = b->n_context;
	uint64_t at = board_progress(r->kv_from, r->n_from);
	if (w->want == w->ready && board_run(w->is) == w->want && board_low(w->is) != BOARD_NEVER)
		at = atomic_load_explicit(&b->words[s->slot].progress, memory_order_acquire);
	s->n_tokens = board_n_tokens(at);
	s->n_kv = board_n_kv(at);
	if (s->n_tokens > n_context || s->n_kv > s->n_tokens || s->n_tokens < r->n_from || n_pages > b->n_table)
		return err_set(e, -EINVAL, "slot %u: %u tokens, %u computed, %u pages, from %u, of a context of %u", s->slot, s->n_tokens,
			       s->n_kv, n_pages, r->n_from, n_context);
	if (!s->published && s->n_kv == 0)
		s->releasing = true; /* taken to be filled from a file, and not filled yet */
	if (s->releasing) {
		s->n_kv = 0;
		return 0; /* whatever of them is still there */
	}
	if (s->n_kv > n_pages * PAGE_TOKENS && (n_pages > 0 || s->published))
		return err_set(e, -EINVAL, "slot %u: %u positions are computed in %u pages", s->slot, s->n_kv, n_pages);
	s->n_pages = n_pages;
	if (n_pages == 0)
		s->n_kv = 0;
	return 0;
}

static int check_log(const struct board *b, const struct survey_session *s, uint32_t n_vocab, struct err *e)
{
	const int32_t *log = board_log(b, s->slot);
	for (uint32_t i = 0; i < s->n_tokens; i++)
		if ((uint32_t)log[i] >= n_vocab)
			return err_set(e, -EINVAL, "slot %u: token %d at position %u, the vocabulary has %u", s->slot, log[i], i, n_vocab);
	return 0;
}

static int read_session(const struct board *b, uint32_t slot, uint32_t n_vocab, struct survey_session *ret, struct err *e)
{
	const struct board_record *at = board_record(b, slot);
	struct words w = load_words(b, slot);
	struct survey_session s = {.slot = slot};
	struct board_record r;
	memcpy(&r, at, sizeof r);
	if (r.run != w.ready)
		board_record_undo(&r);
	int code = board_record_check(b, &r, n_vocab, e);
	if (code < 0) {
		err_prefix(e, "slot %u", slot);
		return code;
	}
	uint64_t offset = (uint64_t)((const uint8_t *)at - (const uint8_t *)b->header);
	if (r.magic != BOARD_RECORD_MAGIC || r.offset != offset || r.capacity != b->n_context || r.run < w.ready ||
	    !survey_name_good(r.name, r.name_length))
		return err_set(e, -EINVAL, "slot %u: its record is no session's", slot);
	if ((code = read_state(&w, &s, e)) < 0 || (code = read_extent(b, &w, &r, &s, e)) < 0 ||
	    (code = check_log(b, &s, n_vocab, e)) < 0)
		return code;
	*ret = s;
	return 0;
}

/* Counts who holds which page. One page stands at one place of all tables that hold it. */
static int count_pages(const struct board *b, const struct survey *v, uint32_t *places, uint32_t n_pages, struct err *e)
{
	for (uint32_t i = 0; i < v->n; i++) {
		const struct survey_session *s = &v->sessions[i];
		for (uint32_t place = 0; place < s->n_pages; place++) {
			uint32_t page = *board_page(b, s->slot, place);
			if (page >= n_pages)
				return err_set(e, -EINVAL, "slot %u: page %u of an arena of %u", s->slot, page, n_pages);
			if (v->refs[page]++ > 0 && places[page] != place)
				return err_set(e, -EINVAL, "slot %u: page %u is somebody else's", s->slot, page);
			places[page] = place;
		}
	}
	return 0;
}

/* Nobody writes a page that others hold: it is full and computed for each. */
static int check_shared(const struct board *b, const struct survey *v, struct err *e)
{
	for (uint32_t i = 0; i < v->n; i++) {
		const struct survey_session *s = &v->sessions[i];
		for (uint32_t place = s->n_kv / PAGE_TOKENS; place < s->n_pages; place++) {
			uint32_t page = *board_page(b, s->slot, place);
			if (v->refs[page] > 1)
				return err_set(e, -EINVAL, "slot %u: it would write page %u, which others hold", s->slot, page);
		}
	}
	return 0;
}

/* What a session is sorted by, once to find names that are there twice, once for the order of use. */
struct key {
	const struct board_record *record;
	struct survey_session session;
};

static int by_name(const void *a, const void *b)
{
	const struct board_record *x = ((const struct key *)a)->record, *y = ((const struct key *)b)->record;
	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	if (x->name_length != y->name_length)
		return x->name_length < y->name_length ? -1 : 1;
	return memcmp(x->name, y->name, BOARD_NAME);
}

static int by_use(const void *a, const void *b)
{
	const struct board_record *x = ((const struct key *)a)->record, *y = ((const struct key *)b)->record;
	return (x->used > y->used) - (x->used < y->used);
}

/* Sorts the sessions by time of use, and sees that no name is there twice. */
static int sort_sessions(const struct board *b, struct survey *v, struct err *e)
{
	struct key *keys = xcalloc(v->n + 1, sizeof *keys);
	int code = 0;
	for (uint32_t i = 0; i < v->n; i++)
		keys[i] = (struct key){.record = board_record(b, v->sessions[i].slot), .session = v->sessions[i]};
	qsort(keys, v->n, sizeof *keys, by_name);
	for (uint32_t i = 1; i < v->n && code == 0; i++)
		if (by_name(&keys[i - 1], &keys[i]) == 0)
			code = err_set(e, -EINVAL, "slots %u and %u have sessions of one name", keys[i - 1].session.slot, keys[i].session.slot);
	qsort(keys, v->n, sizeof *keys, by_use);
	for (uint32_t i = 0; i < v->n; i++)
		v->sessions[i] = keys[i].session;
	free(keys);
	return code;
}

static int read_sessions(const struct board *b, uint32_t n_vocab, struct survey *v, struct err *e)
{
	uint32_t n_used = atomic_load_explicit(&b->header->n_used, memory_order_acquire), capacity = 0;
	if (n_used > b->n_slots)
		return err_set(e, -EINVAL, "%u slots are used, the board has %u", n_used, b->n_slots);
	for (uint32_t slot = 0; slot < n_used; slot++) {
		if (atomic_load_explicit(&board_record(b, slot)->ready, memory_order_acquire) == 0)
			continue;
		if (v->n == capacity) {
			capacity = capacity ? capacity * 2 : 64;
			v->sessions = xreallocarray(v->sessions, capacity, sizeof *v->sessions);
		}
		int r = read_session(b, slot, n_vocab, &v->sessions[v->n], e);
		if (r < 0)
			return r;
		v->n++;
	}
	return 0;
}

int survey(const struct board *b, uint32_t n_pages, uint32_t n_vocab, struct survey *ret, struct err *e)
{
	struct survey v = {.refs = xcalloc(n_pages, sizeof *v.refs)};
	uint32_t *places = xcalloc(n_pages, sizeof *places);
	int r = read_sessions(b, n_vocab, &v, e);
	if (r == 0)
		r = count_pages(b, &v, places, n_pages, e);
	if (r == 0)
		r = check_shared(b, &v, e);
	if (r == 0)
		r = sort_sessions(b, &v, e);
	free(places);
	if (r < 0)
		survey_done(&v);
	else
		*ret = v;
	return r;
}

void survey_done(struct survey *s)
{
	free(s->sessions);
	free(s->refs);
	*s = (struct survey){0};
}
