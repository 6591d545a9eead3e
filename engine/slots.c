/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hooks.h"

void slots_init(struct slots *s, const struct segments *segments, const struct tokenizer *tokenizer)
{
	*s = (struct slots){.segments = segments, .tokenizer = tokenizer};
	s->views = xcalloc(segments->board.n_slots, sizeof *s->views);
}

static void forget(struct slots *s, uint32_t slot)
{
	struct session *o = s->views[slot];
	if (o == NULL)
		return;
	CHECK(s->running[o->place] == o);
	s->running[o->place] = s->running[--s->n_running];
	s->running[o->place]->place = o->place;
	s->views[slot] = NULL;
	ending_done(&o->ending);
	speculate_done(&o->speculate);
	free(o->pages);
	free(o);
}

void slots_done(struct slots *s)
{
	while (s->n_running > 0)
		forget(s, s->running[0]->slot);
	free(s->running);
	free(s->views);
	*s = (struct slots){0};
}

static void answer(struct slots *s, uint32_t slot, uint32_t run, enum board_is is)
{
	atomic_store_explicit(&s->segments->board.words[slot].is, board_word(run, is), memory_order_release);
	stopping_place("engine.answer.is");
	s->told = true;
}

static void answer_done(struct slots *s, uint32_t slot, uint32_t run, enum board_reason reason)
{
	atomic_store_explicit(&s->segments->board.words[slot].reason, reason, memory_order_relaxed);
	stopping_place("engine.done.reason");
	answer(s, slot, run, BOARD_DONE);
}

void slots_end(struct slots *s, struct session *o, enum board_reason reason)
{
	uint32_t slot = o->slot, run = o->run;
	forget(s, slot);
	answer_done(s, slot, run, reason);
}

static void store_progress(struct slots *s, uint32_t slot, uint32_t n_kv, uint32_t n_tokens)
{
	const struct board *b = &s->segments->board;
	board_record(b, slot)->n_tokens = n_tokens;
	stopping_place("engine.progress.record");
	atomic_store_explicit(&b->words[slot].progress, board_progress(n_kv, n_tokens), memory_order_release);
	stopping_place("engine.progress.stored");
}

/* The first thing done for a new run: progress starts where its record says, held to what the log has room for. */
static void start_progress(struct slots *s, uint32_t slot)
{
	const struct board_record *r = board_record(&s->segments->board, slot);
	uint32_t n_tokens = r->n_from, n_kv = r->kv_from, n_context = s->segments->board.n_context;
	if (n_tokens > n_context)
		n_tokens = n_context;
	store_progress(s, slot, n_kv < n_tokens ? n_kv : n_tokens, n_tokens);
}

/* A run that ends when its last given position is computed: scored, or asked for no tokens. */
static bool fills_only(const struct session *o)
{
	return o->record.flags & BOARD_SCORE || o->record.n_end == o->record.n_given;
}

static enum board_reason session_over(const struct slots *s, const struct session *o)
{
	if (fills_only(o))
		return o->n_kv == o->n_tokens ? BOARD_LENGTH : 0;
	return ending_reason(&o->ending, &o->record, s->segments->board.n_context);
}

static int check_tokens(const int32_t *log, uint32_t n, uint32_t n_vocab, struct err *e)
{
	for (uint32_t i = 0; i < n; i++)
		if ((uint32_t)log[i] >= n_vocab)
			return err_set(e, -EINVAL, "token %d at position %u, the vocabulary has %u", log[i], i, n_vocab);
	return 0;
}

/* Fills the view from the board alone. 0 or -EINVAL. */
static int read_session(const struct slots *s, struct session *o, struct err *e)
{
	const struct board *b = &s->segments->board;
	uint32_t n_vocab = s->segments->model.hp.n_vocab;
	board_record_read(b, o->slot, &o->record);
	int r = board_record_check(b, &o->record, n_vocab, e);
	if (r < 0)
		return r;
	if (o->record.flags & BOARD_HIDDEN && s->segments->model.hp.n_embd > board_payload(b))
		return err_set(e, -EINVAL, "a ring entry of %u floats holds no hidden state of %u", board_payload(b),
			       s->segments->model.hp.n_embd);
	uint64_t progress = atomic_load_explicit(&b->words[o->slot].progress, memory_order_relaxed);
	o->n_kv = board_n_kv(progress);
	o->n_tokens = board_n_tokens(progress);
	if (o->n_kv > o->n_tokens || o->n_tokens < o->record.n_from || o->n_tokens > b->n_context)
		return err_set(e, -EINVAL, "progress of %u computed and %u tokens, from %u, of a context of %u", o->n_kv,
			       o->n_tokens, o->record.n_from, b->n_context);
	const int32_t *log = board_log(b, o->slot);
	if ((r = check_tokens(log, o->n_tokens, n_vocab, e)) < 0)
		return r;
	if (o->n_tokens == 0 && !fills_only(o))
		return err_set(e, -EINVAL, "a run that starts without a token");
	/* The next token needs the last position's logits: where that was computed by an earlier run, it is computed again. */
	if (o->n_kv == o->n_tokens && !fills_only(o))
		o->n_kv--;
	ending_start(&o->ending, o->record.n_given);
	for (uint32_t i = o->record.n_given; i < o->n_tokens; i++)
		ending_take(&o->ending, s->tokenizer, &o->record, log[i]);
	if (!fills_only(o))
		speculate_init(&o->speculate, o->record.n_end < b->n_context ? o->record.n_end : b->n_context);
	return 0;
}

static void add_running(struct slots *s, struct session *o)
{
	if (s->n_running == s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 64;
		s->running = xreallocarray(s->running, s->capacity, sizeof *s->running);
	}
	o->place = s->n_running;
	s->running[s->n_running++] = o;
	s->views[o->slot] = o;
}

/* Builds the view of a run whose progress stands on the board, says RUNNING, and ends the run if it is over already. */
static void take(struct slots *s, uint32_t slot, uint32_t run)
{
	struct session *o = xcalloc(1, sizeof *o);
	o->slot = slot;
	o->run = run;
	o->pages = xcalloc(s->segments->board.n_table, sizeof *o->pages);
	add_running(s, o);
	if (read_session(s, o, &s->refused) < 0) {
		err_prefix(&s->refused, "slot %u", slot);
		slots_end(s, o, BOARD_ERROR);
		return;
	}
	enum board_reason reason = session_over(s, o);
	if (reason)
		slots_end(s, o, reason);
	else
		answer(s, slot, run, BOARD_RUNNING);
}

/* Follows `want` of one slot, as the table in shm/board.h says. */
static void scan_slot(struct slots *s, uint32_t slot)
{
	struct board_words *w = &s->segments->board.words[slot];
	uint32_t want = atomic_load_explicit(&w->want, memory_order_acquire), run = board_run(want), verb = board_low(want);
	uint32_t is = atomic_load_explicit(&w->is, memory_order_relaxed), state = board_low(is);
	if (s->views[slot] != NULL && (s->views[slot]->run != run || verb != BOARD_RUN))
		forget(s, slot);
	if (verb == BOARD_CLOSE) {
		if (board_run(is) != run || state == BOARD_NEVER)
			start_progress(s, slot); /* progress is of the run that `is` names, whatever becomes of it */
		if (is != board_word(run, BOARD_CLOSED))
			answer(s, slot, run, BOARD_CLOSED);
		return;
	}
	if (verb != BOARD_RUN && verb != BOARD_PAUSE && verb != BOARD_CANCEL)
		return;
	if (board_run(is) != run || state == BOARD_NEVER) {
		start_progress(s, slot);
		stopping_place("engine.take.progress");
		state = BOARD_NEVER;
	}
	if (state == BOARD_DONE || state == BOARD_CLOSED)
		return;
	if (verb == BOARD_CANCEL)
		answer_done(s, slot, run, BOARD_CANCELLED);
	else if (verb == BOARD_PAUSE && state != BOARD_PAUSED)
		answer(s, slot, run, BOARD_PAUSED);
	else if (verb == BOARD_RUN && s->views[slot] == NULL)
		take(s, slot, run);
}

void slots_scan(struct slots *s)
{
	const struct board_header *h = s->segments->board.header;
	uint32_t n = atomic_load_explicit(&h->n_used, memory_order_acquire);
	if (n > s->segments->board.n_slots)
		n = s->segments->board.n_slots;
	for (uint32_t slot = 0; slot < n; slot++)
		scan_slot(s, slot);
}

static int resolve_pages(const struct slots *s, struct session *o, struct err *e)
{
	const struct board *b = &s->segments->board;
	uint32_t n = atomic_load_explicit(&b->words[o->slot].n_pages, memory_order_acquire);
	if (n > b->n_table)
		return err_set(e, -EINVAL, "slot %u: %u pages in a table of %u", o->slot, n, b->n_table);
	for (; o->n_pages < n; o->n_pages++) {
		uint32_t number = *board_page(b, o->slot, o->n_pages);
		if (number >= s->segments->arena.n_pages)
			return err_set(e, -EINVAL, "slot %u: page %u of an arena of %u", o->slot, number,
				       s->segments->arena.n_pages);
		o->pages[o->n_pages] = segments_page(s->segments, number);
	}
	return 0;
}

bool slots_limit(struct slots *s, struct session *o, uint32_t *ret_limit)
{
	if (resolve_pages(s, o, &s->refused) < 0) {
		slots_end(s, o, BOARD_ERROR);
		return false;
	}
	uint32_t limit = o->n_tokens;
	if (limit > o->n_pages * PAGE_TOKENS)
		limit = o->n_pages * PAGE_TOKENS;
	if (o->record.flags & BOARD_SCORE) {
		const struct board_words *w = &s->segments->board.words[o->slot];
		uint32_t credit = atomic_load_explicit(&w->rows_until, memory_order_acquire);
		if (limit > credit)
			limit = credit;
	}
	*ret_limit = limit;
	return true;
}

/* Heads of the pages that positions [from, to) fill up. */
static void write_heads(const struct slots *s, const struct session *o, uint32_t from, uint32_t to)
{
	const int32_t *log = board_log(&s->segments->board, o->slot);
	for (uint32_t i = from / PAGE_TOKENS; i < to / PAGE_TOKENS; i++)
		memcpy(segments_head(s->segments, o->pages[i])->ids, log + i * PAGE_TOKENS, sizeof(struct pages_head));
}

uint32_t slots_draft_room(const struct slots *s, const struct session *o)
{
	uint32_t end = s->segments->board.n_context;
	if (end > o->record.n_end)
		end = o->record.n_end;
	if (end > o->n_pages * PAGE_TOKENS + 1) /* the last token needs no keys and values */
		end = o->n_pages * PAGE_TOKENS + 1;
	return end > o->n_tokens + 1 ? end - o->n_tokens - 1 : 0;
}

void slots_say(struct slots *s, const struct session *o, uint32_t first, const struct prob *entries, uint32_t n)
{
	CHECK(first + n <= s->segments->board.n_context);
	memcpy(probs_at(&s->segments->board, o->slot, o->record.flags, first), entries, probs_bytes(o->record.flags, n));
	stopping_place("engine.say.entries");
}

uint32_t slots_advance(struct slots *s, struct session *o, uint32_t n_kv, const int32_t *tokens, uint32_t n)
{
	int32_t *log = board_log(&s->segments->board, o->slot);
	enum board_reason reason = 0;
	uint32_t taken = 0;
	CHECK(o->n_tokens + n <= s->segments->board.n_context && (n == 0 || o->n_tokens + n == n_kv + 1));
	while (taken < n && !reason) {
		log[o->n_tokens++] = tokens[taken];
		stopping_place("engine.advance.token");
		ending_take(&o->ending, s->tokenizer, &o->record, tokens[taken++]);
		reason = session_over(s, o);
	}
	n_kv -= n - taken;
	write_heads(s, o, o->n_kv, n_kv);
	stopping_place("engine.advance.heads");
	o->n_kv = n_kv;
	store_progress(s, o->slot, o->n_kv, o->n_tokens);
	s->told = true;
	if (n == 0)
		reason = session_over(s, o);
	if (reason)
		slots_end(s, o, reason);
	return taken;
}
