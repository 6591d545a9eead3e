/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a session against the words of its slot:
 *
 *	IDLE      not published: want is NONE; published: the engine has answered DONE
 *	RUNNING   want is RUN, or CANCEL (cancelling)
 *	PAUSED    published: want is PAUSE; not published: its pages were taken meanwhile
 *	WAITING   not published, or releasing: it is published again when there are pages, filled from its file if it has one
 *	FOLLOWING not published and without pages: another session computes the beginning of its text (daemon/share.h)
 *
 * `releasing` goes beside any of them: want is CLOSE, and the pages stay taken until the engine has answered CLOSED or has been
 * reaped. A session whose pages were taken goes on as a new run of the same text: n_given stays, n_from is all that the log
 * has, and keys and values are computed again from the first position. Its bytes are the same, since a token is a function of
 * the log alone.
 *
 * Until then terms and log are the engine's, too: it may be taking the run, or be in a step whose token it is about to write. So a
 * run that is cancelled meanwhile ends when the engine has let go, not before: its session could be appended to at once.
 */
#include "daemon/run.h"

#include <errno.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hooks.h"
#include "daemon/pressure.h"
#include "daemon/share.h"

static void wake(const struct sessions *t)
{
	const uint64_t one = 1;
	/* EAGAIN: the counter is full, so the engine wakes anyway. */
	CHECK(write(t->wake_engine, &one, sizeof one) == sizeof one || errno == EAGAIN);
}

static void want(struct sessions *t, struct session *s, enum board_want verb)
{
	atomic_store_explicit(&t->board.words[s->slot].want, board_word(s->run, verb), memory_order_release);
	stopping_place("falcond.want.stored");
	wake(t);
}

static void activate(struct sessions *t, struct session *s)
{
	if (!s->is_active)
		TAILQ_INSERT_TAIL(&t->active, s, active);
	s->is_active = true;
}

static void deactivate(struct sessions *t, struct session *s)
{
	if (s->is_active)
		TAILQ_REMOVE(&t->active, s, active);
	s->is_active = false;
}

static void set_state(struct sessions *t, struct session *s, enum session_state state)
{
	t->n_waiting -= s->state == SESSION_WAITING;
	t->n_waiting += state == SESSION_WAITING;
	t->n_following -= s->state == SESSION_FOLLOWING;
	t->n_following += state == SESSION_FOLLOWING;
	s->state = state;
	if (state != SESSION_IDLE)
		activate(t, s);
}

/* The most tokens that the session will have when its run is over. */
static uint32_t end_of(const struct sessions *t, const struct session *s)
{
	uint32_t end = s->n_end > s->n_tokens ? s->n_end : s->n_tokens;
	return end < t->board.n_context ? end : t->board.n_context;
}

/* What the owner's running sessions may need and wait for, as counters. */
static void account(const struct sessions *t, struct session *s)
{
	bool running = session_running(s) && !s->dropped;
	uint64_t reserved = running ? run_pages(end_of(t, s)) : 0;
	uint32_t known = s->state == SESSION_FOLLOWING ? s->n_coming * PAGE_TOKENS : s->n_kv;
	uint64_t queued = running && s->n_tokens > known + 1 ? s->n_tokens - known : 0;
	s->owner->pages += reserved - s->reserved;
	s->owner->queued += queued - s->queued;
	s->reserved = reserved;
	s->queued = queued;
}

/* Pages that the session should hold by now: those of its tokens and two ahead, none beyond the run's end. */
static uint32_t pages_wanted(const struct sessions *t, const struct session *s)
{
	uint32_t ahead = run_pages(s->n_tokens) + 2, most = run_pages(end_of(t, s));
	return ahead < most ? ahead : most;
}

static void grant(struct sessions *t, struct session *s)
{
	uint32_t wanted = pages_wanted(t, s), had = s->n_pages;
	while (s->n_pages < wanted && session_room(t, s, (s->n_pages + 2) * PAGE_TOKENS) &&
	       arena_take(t->arena, board_page(&t->board, s->slot, s->n_pages)))
		s->n_pages++;
	if (s->n_pages != had) {
		stopping_place("falcond.grant.table");
		atomic_store_explicit(&t->board.words[s->slot].n_pages, s->n_pages, memory_order_release);
		stopping_place("falcond.grant.pages");
		if (s->published)
			wake(t);
	}
	s->starved = s->n_pages < run_pages(s->n_tokens);
	if (s->n_pages < wanted)
		pressure_relieve(t, s, wanted - s->n_pages);
}

static void drop_pages(struct sessions *t, struct session *s)
{
	/* First of all: were falcond killed in between, pages that are punched out would count as computed. */
	atomic_store_explicit(&t->board.words[s->slot].n_pages, 0, memory_order_release);
	while (s->n_pages > 0) {
		uint32_t page = *board_page(&t->board, s->slot, --s->n_pages);
		if (arena_held(t->arena, page))
			arena_drop(t->arena, page);
	}
	s->n_kv = s->n_shared = 0;
}

/* Writes the terms of the session's next run. They count from the store of `ready` on, which is the caller's. Returns the run. */
static uint32_t write_terms(struct sessions *t, struct session *s)
{
	struct board_record *r = board_record(&t->board, s->slot);
	uint32_t run = session_next_run(t, s);
	board_record_begin(r, run);
	r->flags = s->flags;
	r->n_given = s->n_given;
	r->n_end = s->n_end;
	r->n_from = r->n_tokens = s->n_tokens;
	r->kv_from = s->n_kv;
	r->n_cached = s->n_cached;
	r->started = s->started;
	r->first_given = s->first_given;
	r->first_cached = s->first_cached;
	r->first_cursor = s->first_cursor;
	r->first_seed = s->first_seed;
	r->generation++;
	stopping_place("falcond.terms.written");
	return run;
}

static void commit(struct sessions *t, struct session *s)
{
	uint32_t run = write_terms(t, s);
	atomic_store_explicit(&board_record(&t->board, s->slot)->ready, run, memory_order_release);
}

void run_rest(struct sessions *t, struct session *s)
{
	struct board_record *r = board_record(&t->board, s->slot);
	uint32_t run = write_terms(t, s);
	atomic_store_explicit(&r->over, board_word(run, s->finish), memory_order_release);
	atomic_store_explicit(&r->ready, run, memory_order_release);
}

static void publish(struct sessions *t, struct session *s)
{
	struct board_record *r = board_record(&t->board, s->slot);
	struct board_words *w = &t->board.words[s->slot];
	CHECK(!s->releasing && !s->dropped);
	s->finish = 0;
	if (r->ready == s->run)
		commit(t, s); /* its pages were taken in mid-run: another run of the same text */
	r->kv_from = s->n_kv;
	s->run = r->ready;
	s->published = true;
	s->cancelling = false;
	if (s->is_new) {
		s->owner->cached += s->n_kv;
		t->cached += s->n_kv;
		bool first = s->n_given == s->first_given && !(s->flags & BOARD_SCORE);
		t->begun += first;
		t->begun_cached += first && s->n_kv > 0;
	}
	s->is_new = false;
	stopping_place("falcond.publish.record");
	set_state(t, s, SESSION_RUNNING);
	if (s->flags & BOARD_SCORE)
		atomic_store_explicit(&w->rows_until, scores_until(&s->scores), memory_order_relaxed);
	stopping_place("falcond.publish.credit");
	want(t, s, BOARD_RUN);
	grant(t, s);
}

/* Whether a file has keys and values that memory has not, or may soon have: it is being written. */
static bool restorable(const struct sessions *t, const struct session *s)
{
	return t->load != NULL && s->n_pages == 0 && (s->disk_kv > 0 || s->job != NULL);
}

bool run_take_pages(struct sessions *t, struct session *s, uint32_t n_kv)
{
	uint32_t n = run_pages(n_kv);
	CHECK(s->n_pages == 0 && !s->releasing && !s->loading);
	if (t->arena->n_free < n)
		return false;
	while (s->n_pages < n && arena_take(t->arena, board_page(&t->board, s->slot, s->n_pages)))
		s->n_pages++;
	atomic_store_explicit(&t->board.words[s->slot].n_pages, n, memory_order_release);
	s->loading = true;
	return true;
}

/* What others have of the session's text, if it has none itself and its file has less. */
static struct share shared(const struct sessions *t, const struct session *s)
{
	const struct share none = {0};
	if (s->n_pages > 0 || s->releasing || (s->flags & BOARD_SCORE))
		return none;
	struct share h = share_find(t, s->owner, board_record(&t->board, s->slot)->priority, board_log(&t->board, s->slot), s->n_tokens);
	return share_tokens(&h) > s->disk_kv ? h : none;
}

/* Publishes a session, for which there is room, or lets it follow another. */
static void begin(struct sessions *t, struct session *s, const struct share *h)
{
	if (h->leader != NULL) {
		share_follow(s, h);
		set_state(t, s, SESSION_FOLLOWING);
		return;
	}
	if (h->n_pages > 0)
		share_take(t, s, h->n_pages);
	publish(t, s);
}

/* Whether some that followed do not any more: from now on they wait for pages alone. */
static bool leave_leaders(struct sessions *t)
{
	struct session *s;
	uint32_t before = t->n_following;
	if (before > 0)
		TAILQ_FOREACH (s, &t->active, active)
			if (s->state == SESSION_FOLLOWING && !share_waits(t, s))
				set_state(t, s, SESSION_WAITING);
	return t->n_following != before;
}

/* Publishes what waits for pages, the earliest begun first, while there are enough. */
static void start_waiting(struct sessions *t)
{
	while (t->n_waiting > 0 && !t->draining) {
		struct session *first = NULL, *s;
		TAILQ_FOREACH (s, &t->active, active)
			if (s->state == SESSION_WAITING && !s->releasing && !s->loading && !(restorable(t, s) && s->job != NULL) &&
			    (first == NULL || s->started < first->started))
				first = s;
		if (first == NULL)
			return;
		struct share h = shared(t, first);
		uint32_t wanted = pages_wanted(t, first), held = first->n_pages + h.n_live;
		if (h.leader == NULL && !pressure_make_room(t, first, wanted > held ? wanted - held : 0))
			return;
		if (share_tokens(&h) == 0 && restorable(t, first) && run_take_pages(t, first, first->disk_kv))
			t->load(t->arg, first);
		else
			begin(t, first, &h);
		account(t, first);
	}
}

void run_loaded(struct sessions *t, struct session *s, uint32_t n_kv)
{
	CHECK(s->loading && s->n_pages >= run_pages(n_kv));
	s->loading = false;
	s->n_kv = n_kv;
	share_restored(t, s);
	if (s->state == SESSION_WAITING && !t->draining)
		publish(t, s);
	account(t, s);
}

void run_hold(struct sessions *t, struct session *s)
{
	CHECK(s->state == SESSION_IDLE && !s->published);
	s->started = ++t->next_started;
	commit(t, s);
	set_state(t, s, SESSION_PAUSED);
	account(t, s);
}

void run_start(struct sessions *t, struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	CHECK(s->state == SESSION_IDLE && !s->dropped);
	s->started = ++t->next_started;
	s->finish = 0;
	s->is_new = true;
	if (!s->releasing)
		s->published = false; /* the engine has answered DONE to the last run */
	struct share h = shared(t, s);
	if (share_tokens(&h) > s->n_cached)
		s->n_cached = share_tokens(&h);
	commit(t, s);
	if (s->releasing || s->loading || (share_tokens(&h) == 0 && restorable(t, s))) {
		set_state(t, s, SESSION_WAITING);
		start_waiting(t);
	} else {
		begin(t, s, &h);
	}
	account(t, s);
}

/*
 * Pages have become free, or could be taken, or have been filled: those that run and lack some come first, then those that wait.
 */
static void settle(struct sessions *t)
{
	while (leave_leaders(t) || t->unsettled) {
		struct session *s;
		t->unsettled = false;
		TAILQ_FOREACH (s, &t->active, active)
			if (s->state == SESSION_RUNNING && !s->releasing)
				grant(t, s);
		start_waiting(t);
	}
}

/* done: the engine says so, and its word of how far the run came is good. */
static void end_run(struct sessions *t, struct session *s, enum board_reason reason, bool done)
{
	set_state(t, s, SESSION_IDLE);
	s->finish = reason;
	if (done)
		atomic_store_explicit(&board_record(&t->board, s->slot)->over, board_word(s->run, reason), memory_order_release);
	else
		run_rest(t, s);
	s->cancelling = s->starved = false;
	t->unsettled |= t->n_waiting > 0 || t->arena->n_free == 0;
	account(t, s);
	if (!s->releasing)
		deactivate(t, s);
}

/* Ends a run that the engine does not hold. */
static void end_cancelled(struct sessions *t, struct session *s)
{
	end_run(t, s, BOARD_CANCELLED, false);
	t->changed(t->arg, s);
}

/* Nothing of the session is the engine's any more: CLOSED was answered, or there is no engine. */
static void closed(struct sessions *t, struct session *s)
{
	s->releasing = s->published = false;
	t->unsettled |= s->n_pages > 0 || s->state == SESSION_WAITING;
	drop_pages(t, s);
	stopping_place("falcond.close.pages");
	atomic_store_explicit(&t->board.words[s->slot].want, board_word(s->run, BOARD_NONE), memory_order_release);
	stopping_place("falcond.close.none");
	account(t, s);
	if (s->dropped) {
		deactivate(t, s);
		session_free(t, s);
	} else if (s->cancelling) {
		end_cancelled(t, s);
	} else if (s->state == SESSION_IDLE) {
		deactivate(t, s);
	}
}

void run_release(struct sessions *t, struct session *s)
{
	CHECK(!s->releasing);
	if (s->state == SESSION_RUNNING)
		set_state(t, s, SESSION_WAITING);
	if (!s->published) {
		closed(t, s);
		return;
	}
	s->releasing = true;
	activate(t, s);
	want(t, s, BOARD_CLOSE);
}

void run_drop(struct sessions *t, struct session *s)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	CHECK(!s->dropped);
	atomic_store_explicit(&board_record(&t->board, s->slot)->ready, 0, memory_order_release);
	session_forget(t, s);
	s->dropped = true;
	t->gone(t->arg, s);
	if (s->state == SESSION_WAITING || s->state == SESSION_FOLLOWING)
		set_state(t, s, SESSION_IDLE);
	account(t, s);
	if (!s->releasing)
		run_release(t, s);
	settle(t);
}

void run_cancel(struct sessions *t, struct session *s)
{
	if (s->state == SESSION_IDLE || s->cancelling)
		return;
	if (!s->published) {
		end_cancelled(t, s);
		return;
	}
	s->cancelling = true;
	if (s->releasing)
		return; /* closed() ends it */
	set_state(t, s, SESSION_RUNNING);
	want(t, s, BOARD_CANCEL);
}

void run_pause(struct sessions *t, struct session *s)
{
	if (s->state != SESSION_RUNNING || s->cancelling)
		return;
	set_state(t, s, SESSION_PAUSED);
	want(t, s, BOARD_PAUSE);
}

bool run_paused(const struct sessions *t, const struct session *s)
{
	uint32_t is = atomic_load_explicit(&t->board.words[s->slot].is, memory_order_acquire);
	return board_run(is) == s->run && (board_low(is) == BOARD_PAUSED || board_low(is) == BOARD_DONE);
}

void run_resume(struct sessions *t, struct session *s)
{
	if (s->state != SESSION_PAUSED || t->draining)
		return;
	if (!s->published || s->releasing) {
		set_state(t, s, SESSION_WAITING);
		start_waiting(t);
		return;
	}
	set_state(t, s, SESSION_RUNNING);
	want(t, s, BOARD_RUN);
	grant(t, s);
}

static bool reason_known(uint32_t reason)
{
	return reason >= BOARD_STOP && reason <= BOARD_ERROR;
}

/* What the engine wrote of the run it has taken. False: it cannot be right. */
static bool read_progress(struct sessions *t, struct session *s, bool *ret_moved)
{
	uint64_t progress = atomic_load_explicit(&t->board.words[s->slot].progress, memory_order_acquire);
	uint32_t n_kv = board_n_kv(progress), n_tokens = board_n_tokens(progress);
	if (n_tokens < s->n_tokens || n_tokens > t->board.n_context || n_kv > n_tokens)
		return false;
	*ret_moved = n_tokens != s->n_tokens || n_kv != s->n_kv;
	uint32_t generated = n_tokens - s->n_tokens, computed = n_kv > s->n_kv ? n_kv - s->n_kv : 0;
	s->owner->decode += generated;
	t->generated += generated;
	s->owner->prefill += computed > generated ? computed - generated : 0;
	s->n_tokens = n_tokens;
	s->n_kv = n_kv;
	share_add(t, s);
	return true;
}

/* Ends a run whose words or rows no sound engine writes. */
static void fail(struct sessions *t, struct session *s)
{
	if (session_running(s))
		end_run(t, s, BOARD_ERROR, false);
	if (!s->releasing)
		run_release(t, s);
	if (!s->dropped)
		t->changed(t->arg, s);
}

void run_fail(struct sessions *t, struct session *s, uint32_t cause)
{
	CHECK_OBJ(s, SESSION_MAGIC);
	s->failed = board_record(&t->board, s->slot)->failed = cause;
	fail(t, s);
	settle(t);
}

/* Entries of the rows ring, each handed to the session it is of; one that is of no run is dropped. */
static void drain_ring(struct sessions *t)
{
	struct board_header *h = t->board.header;
	uint64_t head = atomic_load_explicit(&h->ring_head, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&h->ring_tail, memory_order_relaxed);
	if (head - tail > BOARD_RING)
		tail = head; /* nothing that a sound engine writes */
	for (; tail != head; tail++) {
		const struct board_row *entry = board_row(&t->board, tail);
		struct board_row row = *entry;
		uint32_t most = board_payload(&t->board);
		struct session *s = row.slot < t->n_slots ? t->slots[row.slot] : NULL;
		if (s == NULL || !(s->flags & BOARD_SCORE) || s->run != row.run || s->dropped)
			continue;
		bool fits = s->flags & BOARD_ROWS ? row.count == 1 : row.count <= most / (s->flags & BOARD_HIDDEN ? t->n_embd : 1);
		if (!fits || !scores_take(&s->scores, &row, (const float *)(const void *)(entry + 1)))
			fail(t, s);
	}
	stopping_place("falcond.ring.taken");
	atomic_store_explicit(&h->ring_tail, tail, memory_order_release);
	stopping_place("falcond.ring.tail");
}

/* One session against its slot's words. s may be freed. */
static void look(struct sessions *t, struct session *s)
{
	struct board_words *w = &t->board.words[s->slot];
	uint32_t is = atomic_load_explicit(&w->is, memory_order_acquire), low = board_low(is);
	bool moved = false;
	if (!s->published || board_run(is) != s->run || low == BOARD_NEVER)
		return;
	/* CLOSED says nothing of progress: the engine may never have taken the run. */
	if (low == BOARD_CLOSED) {
		if (s->releasing)
			closed(t, s);
		return;
	}
	if (s->is_new)
		return; /* the words are still those of the run before, whose pages are being let go of */
	if (!read_progress(t, s, &moved)) {
		fail(t, s);
		return;
	}
	if (low == BOARD_DONE && (s->flags & BOARD_SCORE))
		drain_ring(t); /* rows stand there before DONE does */
	if (low == BOARD_DONE && session_running(s)) {
		uint32_t reason = atomic_load_explicit(&w->reason, memory_order_relaxed);
		end_run(t, s, reason_known(reason) ? reason : BOARD_ERROR, true);
		if ((s->flags & BOARD_SCORE) && !s->releasing)
			run_release(t, s); /* nobody continues it */
		moved = true;
	} else if (session_running(s) && !s->releasing) {
		account(t, s);
		grant(t, s);
	}
	if (moved && !s->dropped)
		t->changed(t->arg, s);
}

void run_settle(struct sessions *t)
{
	t->unsettled = true;
	settle(t);
}

void run_credit(struct sessions *t, struct session *s, uint32_t cursor)
{
	uint32_t before = scores_until(&s->scores);
	scores_forget(&s->scores, cursor);
	uint32_t until = scores_until(&s->scores);
	if (until == before)
		return;
	atomic_store_explicit(&t->board.words[s->slot].rows_until, until, memory_order_release);
	wake(t);
}

void run_scan(struct sessions *t)
{
	uint64_t tail = atomic_load_explicit(&t->board.header->ring_tail, memory_order_relaxed);
	drain_ring(t);
	for (struct session *s = TAILQ_FIRST(&t->active), *next; s != NULL; s = next) {
		next = TAILQ_NEXT(s, active);
		look(t, s);
	}
	if (tail != atomic_load_explicit(&t->board.header->ring_tail, memory_order_relaxed))
		wake(t);
	settle(t);
}

void run_engine_gone(struct sessions *t)
{
	run_scan(t); /* its last words */
	for (struct session *s = TAILQ_FIRST(&t->active), *next; s != NULL; s = next) {
		next = TAILQ_NEXT(s, active);
		if (s->releasing)
			closed(t, s);
	}
	settle(t);
}

/* A score run's rows were in the memory of the falcond that is gone: they are computed again, all of them. */
static void adopt_score(struct sessions *t, struct session *s)
{
	scores_init(&s->scores, s->n_tokens, t->n_vocab, t->n_embd, s->flags);
	s->finish = 0;
	if (s->state == SESSION_IDLE)
		set_state(t, s, SESSION_WAITING);
}

void run_adopt(struct sessions *t, struct session *s, const struct survey_session *found)
{
	bool score = s->flags & BOARD_SCORE;
	s->published = found->published && !score;
	if (s->started > t->next_started)
		t->next_started = s->started;
	if (found->verb == BOARD_NONE) {
		s->state = SESSION_IDLE;
	} else if (!s->published) {
		set_state(t, s, SESSION_WAITING);
	} else {
		s->cancelling = found->verb == BOARD_CANCEL;
		set_state(t, s, found->verb == BOARD_PAUSE ? SESSION_PAUSED : SESSION_RUNNING);
	}
	if (score)
		adopt_score(t, s);
	if (!s->published) {
		/* No engine is there to hold it. */
		if (found->releasing || score)
			drop_pages(t, s);
		atomic_store_explicit(&t->board.words[s->slot].want, board_word(s->run, BOARD_NONE), memory_order_release);
	}
	share_add(t, s);
	t->unsettled = true;
	account(t, s);
}

void run_restore(struct sessions *t, struct session *s, bool running)
{
	bool score = s->flags & BOARD_SCORE;
	if (score)
		scores_init(&s->scores, s->n_tokens, t->n_vocab, t->n_embd, s->flags);
	if (running || score)
		run_start(t, s);
	else
		run_rest(t, s);
}

/* A page of its own with the same content, if there is room. */
static bool copy_page(struct sessions *t, uint32_t from, uint32_t *ret_page)
{
	struct err e;
	uint32_t page;
	if (!arena_held(t->arena, from) || !arena_take(t->arena, &page))
		return false;
	if (arena_copy(t->arena, from, page, &e) < 0) {
		arena_drop(t->arena, page);
		return false;
	}
	*ret_page = page;
	return true;
}

void run_share_pages(struct sessions *t, struct session *dst, const struct session *src)
{
	const struct board *b = &t->board;
	uint32_t full = src->n_kv / PAGE_TOKENS, page;
	CHECK(dst->n_pages == 0);
	if (src->releasing)
		return;
	for (; dst->n_pages < full && dst->n_pages < src->n_pages; *board_page(b, dst->slot, dst->n_pages++) = page) {
		page = *board_page(b, src->slot, dst->n_pages);
		if (!arena_held(t->arena, page))
			break;
		arena_share(t->arena, page);
	}
	dst->n_kv = dst->n_pages * PAGE_TOKENS;
	if (dst->n_pages == full && src->n_kv > dst->n_kv && src->n_pages > full &&
	    copy_page(t, *board_page(b, src->slot, full), board_page(b, dst->slot, full))) {
		dst->n_pages++;
		dst->n_kv = src->n_kv;
	}
	stopping_place("falcond.share.table");
	atomic_store_explicit(&t->board.words[dst->slot].n_pages, dst->n_pages, memory_order_release);
	stopping_place("falcond.share.pages");
}
