/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions, runs and pages against a board where the test plays the engine: it answers `want` by hand, so that every order of
 * events can be had, those too that a real engine shows once in a thousand runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/pressure.h"
#include "daemon/run.h"
#include "shm/segment.h"

enum { SLOTS = 8, CONTEXT = 256, VOCAB = 2000, PAGES = 8, STRIDE_BYTES = 4096 };

struct fixture {
	struct sessions t;
	struct arena arena;
	struct owners owners;
	struct owner *owner;
	int pages, board;
	uint64_t size;
	int changes;
	int32_t n_begun;
};

static void changed(void *arg, struct session *s)
{
	(void)s;
	((struct fixture *)arg)->changes++;
}

static void gone(void *arg, struct session *s)
{
	(void)arg;
	(void)s;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct err e;
	struct board_header h;
	struct pages_header p = {.n_pages = PAGES, .heads_offset = 1024, .payload_offset = 4096, .stride = STRIDE_BYTES};
	void *base;
	f->pages = segment_create("pages", 4096 + PAGES * STRIDE_BYTES, &e);
	arena_init(&f->arena, f->pages, &p);
	board_plan(SLOTS, CONTEXT, VOCAB, &h);
	f->board = segment_create("board", h.size, &e);
	assert_int_equal(pwrite(f->board, &h, sizeof h, 0), sizeof h);
	assert_int_equal(segment_map(f->board, true, &base, &f->size, &e), 0);
	assert_int_equal(board_open(base, f->size, &f->t.board, &e), 0);
	f->t.arena = &f->arena;
	f->t.n_vocab = VOCAB;
	f->t.wake_engine = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	f->t.changed = changed;
	f->t.gone = gone;
	f->t.arg = f;
	sessions_init(&f->t);
	f->owner = owner_get(&f->owners, 1000);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	sessions_done(&f->t);
	arena_done(&f->arena);
	owners_done(&f->owners);
	munmap(f->t.board.header, f->size);
	close(f->t.wake_engine);
	close(f->pages);
	close(f->board);
	free(f);
	return 0;
}

/* A session whose log, but for its first token, is that of all others. */
static struct session *make(struct fixture *f, struct owner *o, const char *name, int32_t first)
{
	struct session *s = session_new(&f->t, o, name, strlen(name), name, strlen(name));
	assert_non_null(s);
	for (uint32_t i = 0; i < CONTEXT; i++)
		board_log(&f->t.board, s->slot)[i] = i == 0 ? first : (int32_t)(i * i % VOCAB);
	return s;
}

/* A session of n prompt tokens that may have `more`; its run is started. No other one's text begins as its. */
static struct session *begin(struct fixture *f, const char *name, uint32_t n, uint32_t more)
{
	struct session *s = make(f, f->owner, name, 1000 + f->n_begun++);
	s->n_given = s->n_tokens = n;
	s->n_end = n + more;
	run_start(&f->t, s);
	return s;
}

static uint32_t want_of(const struct fixture *f, const struct session *s)
{
	return atomic_load(&f->t.board.words[s->slot].want);
}

static uint32_t verb(const struct fixture *f, const struct session *s)
{
	return board_low(want_of(f, s));
}

/* The engine says how far the session's run is, and has written the heads of the pages that are full. */
static void say(struct fixture *f, const struct session *s, enum board_is is, uint32_t n_kv, uint32_t n_tokens)
{
	struct board_words *w = &f->t.board.words[s->slot];
	const int32_t *log = board_log(&f->t.board, s->slot);
	for (uint32_t i = 0; i < s->n_pages && i < n_kv / PAGE_TOKENS; i++)
		arena_write_head(&f->arena, *board_page(&f->t.board, s->slot, i), (const void *)(log + i * PAGE_TOKENS));
	atomic_store(&w->progress, board_progress(n_kv, n_tokens));
	atomic_store(&w->reason, BOARD_LENGTH);
	atomic_store(&w->is, board_word(board_run(want_of(f, s)), is));
}

static void say_closed(struct fixture *f, const struct session *s)
{
	assert_int_equal(verb(f, s), BOARD_CLOSE);
	atomic_store(&f->t.board.words[s->slot].is, board_word(board_run(want_of(f, s)), BOARD_CLOSED));
}

static void a_run_is_published_with_pages_for_its_prompt_and_two_ahead(void **state)
{
	struct fixture *f = *state;
	struct session *s = begin(f, "a", 40, 200);
	const struct board_record *r = board_record(&f->t.board, s->slot);
	assert_int_equal(want_of(f, s), board_word(1, BOARD_RUN));
	assert_int_equal(f->t.board.words[s->slot].n_pages, 4);
	assert_int_equal(r->n_given, 40);
	assert_int_equal(r->n_from, 40);
	assert_int_equal(r->n_end, 240);
	assert_int_equal(r->kv_from, 0);
	assert_int_equal(f->owner->queued, 40);
	assert_int_equal(f->owner->pages, 8);
	/* Pages come as it grows, none beyond its end. */
	say(f, s, BOARD_RUNNING, 64, 65);
	run_scan(&f->t);
	assert_int_equal(s->n_pages, 5);
	assert_int_equal(f->owner->queued, 0);
	say(f, s, BOARD_DONE, 239, 240);
	run_scan(&f->t);
	assert_int_equal(s->state, SESSION_IDLE);
	assert_int_equal(s->finish, BOARD_LENGTH);
	assert_int_equal(f->owner->pages, 0);
	assert_int_equal(f->changes, 2);
}

static void an_answer_to_an_older_run_counts_for_nothing(void **state)
{
	struct fixture *f = *state;
	struct session *s = begin(f, "a", 4, 10);
	say(f, s, BOARD_DONE, 13, 14);
	run_scan(&f->t);
	s->n_given = s->n_tokens = 20;
	s->n_end = 30;
	run_start(&f->t, s);
	run_scan(&f->t); /* `is` still says DONE, of the run before */
	assert_int_equal(s->state, SESSION_RUNNING);
	assert_int_equal(s->n_tokens, 20);
	assert_int_equal(want_of(f, s), board_word(2, BOARD_RUN));
}

static void a_slot_is_used_again_only_when_the_engine_has_let_go(void **state)
{
	struct fixture *f = *state;
	struct session *s = begin(f, "a", 4, 10);
	uint32_t slot = s->slot, free_pages = f->arena.n_free;
	say(f, s, BOARD_RUNNING, 4, 5);
	run_scan(&f->t);
	run_drop(&f->t, s);
	assert_null(session_find(&f->t, f->owner, "a", 1));
	assert_int_equal(f->arena.n_free, free_pages);
	struct session *other = begin(f, "a", 4, 10); /* the name is free at once */
	assert_int_not_equal(other->slot, slot);
	say_closed(f, s);
	run_scan(&f->t);
	assert_int_equal(f->arena.n_free, free_pages);  /* one's pages came back, the other's went */
	assert_null(f->t.slots[slot]);
	assert_int_equal(board_low(atomic_load(&f->t.board.words[slot].want)), BOARD_NONE);
	assert_int_equal(board_record(&f->t.board, slot)->name_length, 0); /* nothing is left of it */
}

static void a_reaped_engine_has_let_go_of_everything(void **state)
{
	struct fixture *f = *state;
	struct session *a = begin(f, "a", 4, 10), *b = begin(f, "b", 4, 10);
	say(f, a, BOARD_RUNNING, 4, 5);
	run_drop(&f->t, a);
	run_engine_gone(&f->t);
	assert_int_equal(f->t.n_free, SLOTS - 1);
	assert_int_equal(verb(f, b), BOARD_RUN); /* the next engine goes on with it */
	assert_int_equal(f->arena.n_free, PAGES - 1);
}

static void a_cancel_before_the_engine_saw_the_run_ends_it(void **state)
{
	struct fixture *f = *state;
	struct session *s = begin(f, "a", 4, 10);
	run_cancel(&f->t, s);
	assert_int_equal(verb(f, s), BOARD_CANCEL);
	assert_int_equal(s->state, SESSION_RUNNING);
	say(f, s, BOARD_DONE, 0, 4);
	run_scan(&f->t);
	assert_int_equal(s->state, SESSION_IDLE);
}

static void progress_that_cannot_be_right_ends_that_run_alone(void **state)
{
	static const uint32_t wrong[][2] = {{0, 3}, {0, CONTEXT + 1}, {10, 9}, {0xffffffff, 0xffffffff}};
	struct fixture *f = *state;
	struct session *other = begin(f, "other", 4, 10);
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct session *s = begin(f, "a", 4, 10);
		say(f, s, BOARD_RUNNING, wrong[i][0], wrong[i][1]);
		run_scan(&f->t);
		assert_int_equal(s->finish, BOARD_ERROR);
		assert_int_equal(s->n_tokens, 4);
		run_drop(&f->t, s);
		say_closed(f, s);
		run_scan(&f->t);
	}
	assert_int_equal(other->state, SESSION_RUNNING);
}

static void idle_sessions_give_their_pages_least_recently_used_first(void **state)
{
	struct fixture *f = *state;
	struct session *a = begin(f, "a", 60, 4), *b = begin(f, "b", 60, 4);
	say(f, a, BOARD_DONE, 63, 64);
	say(f, b, BOARD_DONE, 63, 64);
	run_scan(&f->t);
	session_touch(&f->t, a);
	assert_int_equal(f->arena.n_free, PAGES - 4);
	assert_int_equal(pressure_available(&f->t, NULL), PAGES);
	struct session *c = begin(f, "c", 130, 60); /* six pages, four are free */
	assert_int_equal(c->n_pages, 4);
	assert_int_equal(verb(f, b), BOARD_CLOSE);
	assert_int_equal(verb(f, a), BOARD_RUN); /* its run is over, and nothing is asked of it */
	say_closed(f, b);
	run_scan(&f->t);
	assert_int_equal(c->n_pages, 6);
	assert_int_equal(b->n_pages, 0);
	assert_int_equal(b->n_tokens, 64); /* the log stays, keys and values are computed again */
	assert_int_equal(b->n_kv, 0);
	b->n_given = b->n_tokens = 65;
	b->n_end = 70;
	run_start(&f->t, b);
	assert_int_equal(board_record(&f->t.board, b->slot)->kv_from, 0);
}

static void the_oldest_run_takes_pages_of_the_youngest_which_goes_on_later(void **state)
{
	struct fixture *f = *state;
	struct session *a = begin(f, "a", 4, 200), *b = begin(f, "b", 4, 200);
	say(f, a, BOARD_RUNNING, 95, 96);
	say(f, b, BOARD_RUNNING, 95, 96);
	run_scan(&f->t);
	assert_int_equal(f->arena.n_free, 0);
	uint32_t held = a->n_pages * PAGE_TOKENS;
	say(f, a, BOARD_RUNNING, held, held + 1); /* a needs one more and there is none */
	say(f, b, BOARD_RUNNING, 95, 96);
	run_scan(&f->t);
	assert_int_equal(b->state, SESSION_WAITING);
	assert_int_equal(verb(f, b), BOARD_CLOSE);
	assert_int_equal(a->state, SESSION_RUNNING);
	say_closed(f, b);
	run_scan(&f->t); /* in this scan a gets its page: nothing else would tell it */
	assert_true(a->n_pages * PAGE_TOKENS > held);
	assert_int_equal(b->state, SESSION_WAITING);
	say(f, a, BOARD_DONE, 203, 204);
	run_scan(&f->t);
	say_closed(f, a); /* idle now, its pages are wanted */
	run_scan(&f->t);
	assert_int_equal(b->state, SESSION_RUNNING);
	const struct board_record *r = board_record(&f->t.board, b->slot);
	assert_int_equal(r->n_given, 4);
	assert_int_equal(r->n_from, 96);
	assert_int_equal(r->kv_from, 32); /* nobody wanted its first page */
	assert_int_equal(b->n_end, 204);
}

/* A session of 95 computed positions whose pages have been asked for: the engine has not answered yet. */
static struct session *lose_pages(struct fixture *f, enum board_is is, struct session **ret_taker)
{
	struct session *taker = begin(f, "taker", 4, 200), *s = begin(f, "s", 4, 200);
	if (is == BOARD_DONE)
		s->n_end = 96;
	say(f, s, is, 95, 96);
	say(f, taker, BOARD_RUNNING, 95, 96);
	run_scan(&f->t);
	say(f, taker, BOARD_RUNNING, taker->n_pages * PAGE_TOKENS, taker->n_pages * PAGE_TOKENS + 1);
	run_scan(&f->t);
	assert_int_equal(verb(f, s), BOARD_CLOSE);
	*ret_taker = taker;
	return s;
}

static void terms_and_log_are_the_engines_until_it_has_let_go_of_a_cancelled_run(void **state)
{
	struct fixture *f = *state;
	struct session *taker, *s = lose_pages(f, BOARD_RUNNING, &taker);
	const struct board_record *r = board_record(&f->t.board, s->slot);
	run_cancel(&f->t, s);
	assert_int_equal(s->state, SESSION_WAITING); /* nothing can be appended to it */
	assert_int_equal(r->run, 1);
	assert_int_equal(r->n_from, 4);
	int changes = f->changes;
	say_closed(f, s);
	run_scan(&f->t);
	assert_int_equal(f->changes, changes + 1);
	assert_int_equal(s->state, SESSION_IDLE);
	assert_int_equal(s->finish, BOARD_CANCELLED);
	assert_int_equal(atomic_load(&r->over), board_word(2, BOARD_CANCELLED));
	assert_int_equal(r->n_from, 96);
	assert_int_equal(f->owner->pages, run_pages(204)); /* the taker's */
}

static void a_reaped_engine_ends_what_was_cancelled_while_its_pages_were_taken(void **state)
{
	struct fixture *f = *state;
	struct session *taker, *s = lose_pages(f, BOARD_RUNNING, &taker);
	run_cancel(&f->t, s);
	run_engine_gone(&f->t);
	assert_int_equal(s->state, SESSION_IDLE);
	assert_int_equal(s->finish, BOARD_CANCELLED);
}

static void what_is_appended_while_pages_are_taken_is_another_run_than_the_one_that_was_over(void **state)
{
	for (uint32_t more = 0; more < 2; more++) {
		void *fixture;
		setup(&fixture);
		struct fixture *f = fixture;
		struct session *taker, *s = lose_pages(f, BOARD_DONE, &taker);
		s->n_given = s->n_tokens = 96 + more;
		s->n_end = 110;
		s->n_kv = 0;
		run_start(&f->t, s);
		run_scan(&f->t); /* the engine is in a step, and has not seen CLOSE */
		assert_int_equal(s->state, SESSION_WAITING);
		assert_int_equal(s->finish, 0);
		run_drop(&f->t, taker);
		say_closed(f, taker);
		say_closed(f, s);
		run_scan(&f->t);
		assert_int_equal(want_of(f, s), board_word(2, BOARD_RUN));
		assert_int_equal(board_record(&f->t.board, s->slot)->n_from, 96 + more);
		teardown(&fixture);
	}
	(void)state;
}

static void a_fork_shares_full_pages_and_copies_the_tail(void **state)
{
	struct fixture *f = *state;
	struct session *a = begin(f, "a", 4, 100);
	char written[16] = "keys and values", copied[16];
	say(f, a, BOARD_RUNNING, 70, 71);
	run_scan(&f->t);
	const uint32_t *from = board_page(&f->t.board, a->slot, 0);
	assert_int_equal(pwrite(f->pages, written, 16, (off_t)(4096 + (uint64_t)from[2] * STRIDE_BYTES)), 16);
	struct session *b = session_new(&f->t, f->owner, "b", 1, "b", 1);
	run_share_pages(&f->t, b, a);
	const uint32_t *to = board_page(&f->t.board, b->slot, 0);
	assert_int_equal(b->n_kv, 70);
	assert_int_equal(b->n_pages, 3);
	assert_int_equal(to[0], from[0]);
	assert_int_equal(to[1], from[1]);
	assert_int_not_equal(to[2], from[2]);
	assert_int_equal(pread(f->pages, copied, 16, (off_t)(4096 + (uint64_t)to[2] * STRIDE_BYTES)), 16);
	assert_string_equal(copied, written);
	run_drop(&f->t, b);
	assert_int_equal(f->arena.refs[from[0]], 1);
}

/* As begin(), but the text is that of all others that share_text() begins. */
static struct session *share_text(struct fixture *f, struct owner *o, const char *name, uint32_t n, uint32_t more)
{
	struct session *s = make(f, o, name, 1);
	s->n_given = s->n_tokens = n;
	s->n_end = n + more;
	run_start(&f->t, s);
	return s;
}

/* Whether the sessions have the first n pages in common. */
static bool same_pages(const struct fixture *f, const struct session *a, const struct session *b, uint32_t n)
{
	return memcmp(board_page(&f->t.board, a->slot, 0), board_page(&f->t.board, b->slot, 0), n * sizeof(uint32_t)) == 0;
}

static void a_run_takes_the_full_pages_of_one_that_still_generates(void **state)
{
	struct fixture *f = *state;
	struct session *a = share_text(f, f->owner, "a", 40, 60);
	say(f, a, BOARD_RUNNING, 70, 71);
	run_scan(&f->t);
	struct session *b = share_text(f, f->owner, "b", 70, 10);
	assert_int_equal(b->state, SESSION_RUNNING);
	assert_true(same_pages(f, a, b, 2));
	assert_int_equal(b->n_kv, 64);
	assert_int_equal(b->n_cached, 64);
	assert_int_equal(board_record(&f->t.board, b->slot)->kv_from, 64);
	assert_int_equal(f->t.cached, 64);
	assert_int_equal(f->owner->queued, 6);
	run_drop(&f->t, a);
	say_closed(f, a);
	run_scan(&f->t);
	assert_int_equal(f->arena.refs[*board_page(&f->t.board, b->slot, 0)], 1);
}

static void the_last_token_of_a_prompt_is_never_taken_from_others(void **state)
{
	struct fixture *f = *state;
	struct session *a = share_text(f, f->owner, "a", 64, 4);
	say(f, a, BOARD_RUNNING, 64, 65);
	run_scan(&f->t);
	assert_int_equal(share_text(f, f->owner, "b", 64, 4)->n_kv, 32);
	assert_int_equal(share_text(f, f->owner, "c", 65, 4)->n_kv, 64);
}

static void another_owners_text_is_not_there(void **state)
{
	struct fixture *f = *state;
	struct owner *other = owner_get(&f->owners, 1001);
	struct session *a = share_text(f, f->owner, "a", 70, 4);
	struct session *early = share_text(f, other, "early", 70, 4);
	assert_int_equal(early->state, SESSION_RUNNING); /* does not wait for a, which computes the same */
	say(f, a, BOARD_RUNNING, 70, 71);
	run_scan(&f->t);
	run_drop(&f->t, early);
	say_closed(f, early);
	run_scan(&f->t);
	struct session *late = share_text(f, other, "late", 70, 4);
	assert_int_equal(late->n_kv, 0);
	assert_int_equal(late->n_cached, 0);
}

static void those_that_arrive_together_wait_for_the_first_and_hold_one_copy(void **state)
{
	struct fixture *f = *state;
	struct session *lead = share_text(f, f->owner, "lead", 100, 4), *follow[3];
	for (int i = 0; i < 3; i++) {
		follow[i] = share_text(f, f->owner, (char[2]){(char)('a' + i)}, 98, 30);
		assert_int_equal(follow[i]->state, SESSION_FOLLOWING);
		assert_int_equal(follow[i]->n_cached, 96);
		assert_int_equal(follow[i]->n_pages, 0);
		assert_int_equal(verb(f, follow[i]), BOARD_NONE);
	}
	assert_int_equal(f->owner->queued, 100 + 3 * 2);
	say(f, lead, BOARD_RUNNING, 64, 100);
	run_scan(&f->t);
	assert_int_equal(follow[0]->state, SESSION_FOLLOWING);
	say(f, lead, BOARD_RUNNING, 96, 100);
	run_scan(&f->t);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(follow[i]->state, SESSION_RUNNING);
		assert_int_equal(follow[i]->n_kv, 96);
		assert_true(same_pages(f, lead, follow[i], 3));
		assert_int_equal(verb(f, follow[i]), BOARD_RUN);
	}
	assert_int_equal(f->arena.n_free, PAGES - 3 - 4);
	assert_int_equal(f->t.cached, 3 * 96);
	assert_int_equal(f->owner->prefill, 96);
}

enum end { CANCELLED, PAUSED, DROPPED, FAILED, ENDS };

static void end_leader(struct fixture *f, struct session *s, enum end how)
{
	switch (how) {
	case CANCELLED:
		run_cancel(&f->t, s);
		say(f, s, BOARD_DONE, 40, 100);
		break;
	case PAUSED:
		run_pause(&f->t, s);
		say(f, s, BOARD_PAUSED, 40, 100);
		break;
	case DROPPED:
		run_drop(&f->t, s);
		say_closed(f, s);
		break;
	default:
		run_fail(&f->t, s, 11);
		break;
	}
	run_scan(&f->t);
}

static void when_the_first_ends_early_the_next_goes_on_from_where_it_was(void **state)
{
	for (int how = 0; how < ENDS; how++) {
		void *fixture;
		setup(&fixture);
		struct fixture *f = fixture;
		struct session *lead = share_text(f, f->owner, "lead", 100, 4);
		struct session *next = share_text(f, f->owner, "next", 100, 4), *last = share_text(f, f->owner, "last", 100, 4);
		say(f, lead, BOARD_RUNNING, 40, 100);
		run_scan(&f->t);
		end_leader(f, lead, (enum end)how);
		assert_int_equal(next->state, SESSION_RUNNING);
		assert_int_equal(next->n_kv, 32);
		assert_int_equal(last->state, SESSION_FOLLOWING);
		say(f, next, BOARD_RUNNING, 100, 101);
		run_scan(&f->t);
		assert_int_equal(last->state, SESSION_RUNNING);
		assert_int_equal(last->n_kv, 96);
		teardown(&fixture);
	}
	(void)state;
}

static void one_that_waits_for_another_may_be_cancelled_or_dropped(void **state)
{
	struct fixture *f = *state;
	struct session *lead = share_text(f, f->owner, "lead", 100, 4);
	struct session *a = share_text(f, f->owner, "a", 100, 4), *b = share_text(f, f->owner, "b", 100, 4);
	int changes = f->changes;
	run_cancel(&f->t, a);
	assert_int_equal(a->state, SESSION_IDLE);
	assert_int_equal(a->finish, BOARD_CANCELLED);
	assert_int_equal(f->changes, changes + 1);
	run_drop(&f->t, b);
	assert_int_equal(f->t.n_following, 0);
	assert_int_equal(f->t.n_free, SLOTS - 2);
	say(f, lead, BOARD_RUNNING, 100, 101);
	run_scan(&f->t);
	assert_int_equal(f->owner->queued, 0);
	/* Cancelled while it waited, it goes on like any other. */
	a->n_end = 110;
	run_start(&f->t, a);
	assert_int_equal(a->n_kv, 96);
}

static void a_second_run_may_wait_for_another_session(void **state)
{
	struct fixture *f = *state;
	struct session *all = begin(f, "all", 250, 6), *a = share_text(f, f->owner, "a", 40, 4);
	assert_int_equal(a->n_pages, 0);
	run_cancel(&f->t, a);
	say(f, a, BOARD_DONE, 0, 40);
	run_drop(&f->t, all);
	say_closed(f, all);
	run_scan(&f->t);
	struct session *lead = share_text(f, f->owner, "lead", 100, 4);
	a->n_given = a->n_tokens = 90;
	a->n_end = 100;
	run_start(&f->t, a);
	run_scan(&f->t); /* `is` still says DONE, of a run with fewer tokens */
	assert_int_equal(a->state, SESSION_FOLLOWING);
	say(f, lead, BOARD_RUNNING, 64, 100);
	run_scan(&f->t);
	assert_int_equal(a->state, SESSION_RUNNING);
	assert_int_equal(a->n_kv, 64);
}

static void an_engine_that_dies_leaves_those_that_wait_with_its_successor(void **state)
{
	struct fixture *f = *state;
	struct session *lead = share_text(f, f->owner, "lead", 100, 4), *next = share_text(f, f->owner, "next", 100, 4);
	say(f, lead, BOARD_RUNNING, 64, 100);
	run_engine_gone(&f->t);
	assert_int_equal(next->state, SESSION_FOLLOWING);
	say(f, lead, BOARD_RUNNING, 100, 101);
	run_scan(&f->t);
	assert_int_equal(next->n_kv, 96);
}

static void who_waits_for_a_run_that_gives_up_its_pages_goes_on_after_it(void **state)
{
	struct fixture *f = *state;
	struct session *old = begin(f, "old", 4, 200), *lead = share_text(f, f->owner, "lead", 100, 4);
	struct session *next = share_text(f, f->owner, "next", 100, 4);
	assert_int_equal(next->state, SESSION_FOLLOWING);
	uint32_t n = 0;
	while (lead->state == SESSION_RUNNING) { /* grows until there is nothing left but the leader's pages */
		n = old->n_pages * PAGE_TOKENS;
		say(f, old, BOARD_RUNNING, n, n + 1);
		run_scan(&f->t);
	}
	assert_int_equal(next->state, SESSION_WAITING);
	say_closed(f, lead);
	run_scan(&f->t);
	say(f, old, BOARD_DONE, 203, 204);
	run_scan(&f->t);
	if (verb(f, old) == BOARD_CLOSE)
		say_closed(f, old);
	run_scan(&f->t);
	assert_int_equal(lead->state, SESSION_RUNNING);
	assert_int_equal(next->state, SESSION_FOLLOWING);
	say(f, lead, BOARD_RUNNING, 100, 101);
	run_scan(&f->t);
	assert_int_equal(next->n_kv, 96);
}

static void an_interactive_run_does_not_wait_for_one_that_yields_to_others(void **state)
{
	struct fixture *f = *state;
	struct session *lead = share_text(f, f->owner, "lead", 100, 4);
	board_record(&f->t.board, lead->slot)->priority = BOARD_BATCHED;
	assert_int_equal(share_text(f, f->owner, "next", 100, 4)->state, SESSION_RUNNING);
}

static void what_a_dropped_session_computed_is_there_until_pages_are_wanted(void **state)
{
	struct fixture *f = *state;
	struct session *a = share_text(f, f->owner, "a", 100, 4);
	say(f, a, BOARD_DONE, 103, 104);
	run_scan(&f->t);
	run_drop(&f->t, a);
	say_closed(f, a);
	run_scan(&f->t);
	assert_int_equal(f->arena.n_free, PAGES);
	assert_int_equal(f->arena.n_kept, 3);
	struct session *b = share_text(f, f->owner, "b", 104, 4);
	assert_int_equal(b->n_kv, 96);
	run_drop(&f->t, b);
	say_closed(f, b);
	run_scan(&f->t);
	struct session *big = begin(f, "big", 7 * PAGE_TOKENS, 4); /* eight pages */
	assert_int_equal(big->n_pages, PAGES);
	assert_int_equal(f->arena.n_kept, 0);
}

static void a_score_run_neither_gives_nor_takes(void **state)
{
	struct fixture *f = *state;
	struct session *a = share_text(f, f->owner, "a", 70, 4);
	say(f, a, BOARD_RUNNING, 70, 71);
	run_scan(&f->t);
	struct session *score = make(f, f->owner, "score", 1);
	score->flags = BOARD_SCORE;
	score->n_given = score->n_tokens = score->n_end = 70;
	scores_init(&score->scores, 70, VOCAB, 8, BOARD_SCORE);
	run_start(&f->t, score);
	assert_int_equal(score->state, SESSION_RUNNING);
	assert_int_equal(score->n_kv, 0);
	say(f, score, BOARD_RUNNING, 64, 70);
	run_scan(&f->t);
	assert_int_equal(f->arena.refs[*board_page(&f->t.board, score->slot, 0)], 1);
}

static void pages_that_only_idle_sessions_share_can_be_had(void **state)
{
	struct fixture *f = *state;
	struct session *a = share_text(f, f->owner, "a", 100, 4);
	say(f, a, BOARD_RUNNING, 100, 101);
	run_scan(&f->t);
	struct session *b = share_text(f, f->owner, "b", 100, 4);
	say(f, a, BOARD_DONE, 103, 104);
	say(f, b, BOARD_DONE, 103, 104);
	run_scan(&f->t);
	assert_int_equal(f->arena.n_free, PAGES - 3 - 2);
	assert_int_equal(pressure_available(&f->t, NULL), PAGES);
	struct session *big = begin(f, "big", 7 * PAGE_TOKENS, 4);
	say_closed(f, a);
	say_closed(f, b);
	run_scan(&f->t);
	assert_int_equal(big->n_pages, PAGES);
}

static void a_free_page_is_zeros_for_its_next_holder(void **state)
{
	struct fixture *f = *state;
	uint32_t page;
	char secret[8] = "secret!", found[8];
	assert_true(arena_take(&f->arena, &page));
	arena_share(&f->arena, page);
	off_t at = (off_t)(4096 + (uint64_t)page * STRIDE_BYTES);
	assert_int_equal(pwrite(f->pages, secret, 8, at), 8);
	arena_drop(&f->arena, page);
	assert_int_equal(pread(f->pages, found, 8, at), 8);
	assert_string_equal(found, secret); /* another table holds it */
	arena_drop(&f->arena, page);
	assert_int_equal(pread(f->pages, found, 8, at), 8);
	assert_memory_equal(found, (char[8]){0}, 8);
	assert_int_equal(f->arena.n_free, PAGES);
}

static void names_and_request_ids_are_each_owners_own(void **state)
{
	struct fixture *f = *state;
	struct owner *other = owner_get(&f->owners, 1001);
	struct session *a = session_new(&f->t, f->owner, "n", 1, "r", 1), *b = session_new(&f->t, other, "n", 1, "r", 1);
	assert_ptr_equal(session_find(&f->t, f->owner, "n", 1), a);
	assert_ptr_equal(session_find(&f->t, other, "n", 1), b);
	assert_ptr_equal(session_find_request(&f->t, other, "r", 1), b);
	struct session *unnamed = session_new(&f->t, other, NULL, 0, "q", 1);
	assert_string_equal(unnamed->name, "~1"); /* what others have says nothing about its number */
	for (int i = 0; i < SLOTS - 3; i++)
		assert_non_null(session_new(&f->t, other, NULL, 0, (char[2]){(char)('A' + i)}, 1));
	assert_null(session_new(&f->t, other, NULL, 0, "x", 1));
}

/* As falcond finds the board when it has been killed: with a table of its own. Returns the only session's. */
static struct session *adopt_anew(struct fixture *f, struct sessions *t)
{
	struct survey v;
	struct err e;
	*t = (struct sessions){.board = f->t.board, .arena = &f->arena, .n_vocab = VOCAB, .wake_engine = f->t.wake_engine,
		.changed = changed, .gone = gone, .arg = f};
	sessions_init(t);
	assert_int_equal(survey(&t->board, PAGES, VOCAB, &v, &e), 0);
	assert_int_equal(v.n, 1);
	struct session *s = session_adopt(t, f->owner, &v.sessions[0]);
	survey_done(&v);
	return s;
}

static void terms_that_were_being_written_when_falcond_was_killed_are_taken_back(void **state)
{
	struct fixture *f = *state;
	struct session *s = begin(f, "a", 40, 10);
	struct board_record *r = board_record(&f->t.board, s->slot);
	const struct board_params params = {.top_p = 1, .repeat_penalty = 1};
	r->params = params;
	say(f, s, BOARD_DONE, 49, 50);
	run_scan(&f->t);
	board_record_begin(r, session_next_run(&f->t, s));
	r->n_given = 45; /* some of the terms of what was to be appended */
	r->n_end = 200;
	r->params.temp = 2;
	struct sessions t;
	const struct session *found = adopt_anew(f, &t);
	assert_int_equal(found->n_given, 40);
	assert_int_equal(found->n_end, 50);
	assert_int_equal(found->n_tokens, 50);
	assert_memory_equal(&r->params, &params, sizeof params);
	sessions_done(&t);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_run_is_published_with_pages_for_its_prompt_and_two_ahead),
		TEST(an_answer_to_an_older_run_counts_for_nothing),
		TEST(a_slot_is_used_again_only_when_the_engine_has_let_go),
		TEST(a_reaped_engine_has_let_go_of_everything),
		TEST(a_cancel_before_the_engine_saw_the_run_ends_it),
		TEST(progress_that_cannot_be_right_ends_that_run_alone),
		TEST(idle_sessions_give_their_pages_least_recently_used_first),
		TEST(the_oldest_run_takes_pages_of_the_youngest_which_goes_on_later),
		TEST(terms_and_log_are_the_engines_until_it_has_let_go_of_a_cancelled_run),
		TEST(a_reaped_engine_ends_what_was_cancelled_while_its_pages_were_taken),
		cmocka_unit_test(what_is_appended_while_pages_are_taken_is_another_run_than_the_one_that_was_over),
		TEST(a_fork_shares_full_pages_and_copies_the_tail),
		TEST(a_run_takes_the_full_pages_of_one_that_still_generates),
		TEST(the_last_token_of_a_prompt_is_never_taken_from_others),
		TEST(another_owners_text_is_not_there),
		TEST(those_that_arrive_together_wait_for_the_first_and_hold_one_copy),
		cmocka_unit_test(when_the_first_ends_early_the_next_goes_on_from_where_it_was),
		TEST(one_that_waits_for_another_may_be_cancelled_or_dropped),
		TEST(a_second_run_may_wait_for_another_session),
		TEST(an_engine_that_dies_leaves_those_that_wait_with_its_successor),
		TEST(who_waits_for_a_run_that_gives_up_its_pages_goes_on_after_it),
		TEST(an_interactive_run_does_not_wait_for_one_that_yields_to_others),
		TEST(what_a_dropped_session_computed_is_there_until_pages_are_wanted),
		TEST(a_score_run_neither_gives_nor_takes),
		TEST(pages_that_only_idle_sessions_share_can_be_had),
		TEST(a_free_page_is_zeros_for_its_next_holder),
		TEST(names_and_request_ids_are_each_owners_own),
		TEST(terms_that_were_being_written_when_falcond_was_killed_are_taken_back),
	};
	return cmocka_run_group_tests_name("daemon_run", tests, NULL, NULL);
}
