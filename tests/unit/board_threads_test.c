/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcond's code and the engine's, each in a thread of its own, over one mapping of one board. The thread sanitizer looks into one
 * process alone: here it sees every load and store by which the two meet (`make check-long` builds this test with it). Neither
 * thread reads its eventfd, which would put more in order than the words of the board do; they look again and again. Pages are
 * fewer than the sessions want, so that they are taken away in mid-run too.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "daemon/pressure.h"
#include "daemon/run.h"
#include "engine/step.h"
#include "tests/support/rig.h"

enum { SLOTS = 32, CONTEXT = 256, PAGES = 28, SESSIONS = 8, PROMPT = 40, TOKENS = 50, SCORED = 150, PAUSE_US = 200 };

struct fixture {
	struct rig rig; /* its segments; its own mapping of the board stays unused */
	struct segments segments;
	struct sessions t;
	struct arena arena;
	struct owners owners;
	struct owner *owner;
	pthread_t engine;
	_Atomic bool ending;
	unsigned n_named;
	struct session *other; /* that comes and goes beside those that are compared */
	int32_t quiet[SESSIONS][TOKENS]; /* what the sessions say one by one */
};

static int weights;

static int pack_once(void **state)
{
	(void)state;
	weights = rig_pack(RIG_MODEL);
	return 0;
}

static int close_weights(void **state)
{
	(void)state;
	return close(weights);
}

static void *engine_main(void *arg)
{
	struct fixture *f = arg;
	const struct step_options options = {.threads = 2, .wake = -1};
	struct step *step;
	struct err e;
	if (step_new(&f->segments, kernels_select(NULL), &options, &step, &e) < 0)
		return NULL;
	while (!atomic_load_explicit(&f->ending, memory_order_relaxed)) {
		step_scan(step);
		if (!step_run(step))
			usleep(PAUSE_US);
	}
	step_free(step);
	return f;
}

static void start_engine(struct fixture *f)
{
	atomic_store(&f->ending, false);
	assert_int_equal(pthread_create(&f->engine, NULL, engine_main, f), 0);
}

/* Ends the engine after its step, as falcond sees it when one has been reaped. */
static void end_engine(struct fixture *f)
{
	void *started;
	atomic_store(&f->ending, true);
	assert_int_equal(pthread_join(f->engine, &started), 0);
	assert_non_null(started);
	run_engine_gone(&f->t);
}

static void ignore(void *arg, struct session *s)
{
	(void)arg;
	(void)s;
}

static struct session *make(struct fixture *f, uint32_t n, int32_t first)
{
	char name[16];
	size_t length = (size_t)snprintf(name, sizeof name, "s-%u", f->n_named++);
	struct session *s = session_new(&f->t, f->owner, name, length, name, length);
	assert_non_null(s);
	for (uint32_t i = 0; i < n; i++)
		board_log(&f->t.board, s->slot)[i] = i == 0 ? first : (int32_t)(300 + i * 97 % 3000);
	s->n_given = s->n_tokens = n;
	return s;
}

/* Session number i, which draws the same tokens whenever it is begun. Every other one's prompt is that of the one before. */
static struct session *begin(struct fixture *f, int i)
{
	struct session *s = make(f, PROMPT, 400 + i / 2);
	board_record(&f->t.board, s->slot)->params = (struct board_params){.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = (uint64_t)i};
	s->flags = BOARD_IGNORE_EOS;
	s->n_end = PROMPT + TOKENS;
	run_start(&f->t, s);
	session_touch(&f->t, s);
	return s;
}

/* A session that has another's text so far and goes on as that does. */
static struct session *fork_of(struct fixture *f, const struct session *donor)
{
	struct sessions *t = &f->t;
	struct session *s = make(f, 0, 0);
	board_record(&t->board, s->slot)->params = board_record(&t->board, donor->slot)->params;
	s->flags = donor->flags;
	s->n_given = donor->n_given;
	s->n_end = donor->n_end;
	s->n_tokens = donor->n_tokens;
	memcpy(board_log(&t->board, s->slot), board_log(&t->board, donor->slot), donor->n_tokens * sizeof(int32_t));
	run_share_pages(t, s, donor);
	run_start(t, s);
	return s;
}

/* Looks at the board a little later. */
static void look(struct fixture *f, uint64_t since)
{
	if (clock_ns() - since > RIG_WAIT_MS * UINT64_C(1000000))
		fail_msg("waited %d ms for the engine", RIG_WAIT_MS);
	usleep(PAUSE_US);
	run_scan(&f->t);
}

static void await_end(struct fixture *f, const struct session *s)
{
	for (uint64_t start = clock_ns(); session_running(s);)
		look(f, start);
	assert_int_equal(s->finish, BOARD_LENGTH);
}

static void await_all_gone(struct fixture *f)
{
	for (uint64_t start = clock_ns(); f->t.n_free < SLOTS;)
		look(f, start);
	assert_int_equal(f->arena.n_free, PAGES);
}

static void expect_said(const struct fixture *f, const struct session *s, int i)
{
	assert_int_equal(s->n_tokens, PROMPT + TOKENS);
	assert_memory_equal(board_log(&f->t.board, s->slot) + PROMPT, f->quiet[i], sizeof f->quiet[i]);
}

static int setup(void **state)
{
	const struct rig_shape shape = {.n_slots = SLOTS, .n_context = CONTEXT, .n_pages = PAGES, .chunk_ms = 50, .speculate = BOARD_SPECULATE_ALWAYS};
	struct fixture *f = calloc(1, sizeof *f);
	struct err e;
	rig_open(&f->rig, weights, &shape);
	assert_int_equal(segments_open(weights, f->rig.pages, f->rig.board_fd, 0, &f->segments, &e), 0);
	arena_init(&f->arena, f->rig.pages, &f->segments.arena);
	f->t = (struct sessions){.board = f->segments.board, .arena = &f->arena, .n_vocab = f->segments.model.hp.n_vocab,
		.wake_engine = f->rig.wake_engine, .changed = ignore, .gone = ignore};
	sessions_init(&f->t);
	f->owner = owner_get(&f->owners, 1000);
	start_engine(f);
	for (int i = 0; i < SESSIONS; i++) {
		struct session *s = begin(f, i);
		await_end(f, s);
		memcpy(f->quiet[i], board_log(&f->t.board, s->slot) + PROMPT, sizeof f->quiet[i]);
		run_drop(&f->t, s);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	await_all_gone(f);
	end_engine(f);
	sessions_done(&f->t);
	arena_done(&f->arena);
	owners_done(&f->owners);
	segments_close(&f->segments);
	rig_close(&f->rig);
	free(f);
	return 0;
}

/* What falcond may do at any look: session s is paused, another one begins, and is cancelled or dropped. */
static void disturb(struct fixture *f, struct session *s, unsigned turn)
{
	if (turn % 2 == 0) {
		run_pause(&f->t, s);
	} else if (f->other != NULL) {
		run_drop(&f->t, f->other);
		f->other = NULL;
	} else if (f->t.n_free > 0) {
		f->other = begin(f, (int)(turn % SESSIONS));
		if (turn % 3 == 0)
			run_cancel(&f->t, f->other);
	}
}

/* Uses all of them, as a reader does, and resumes those that the engine has let be; false: they are over. */
static bool use(struct fixture *f, struct session *const s[SESSIONS])
{
	bool running = false;
	for (int i = 0; i < SESSIONS; i++) {
		if (!s[i]->published || run_paused(&f->t, s[i]))
			run_resume(&f->t, s[i]);
		session_touch(&f->t, s[i]);
		running |= session_running(s[i]);
	}
	return running;
}

static void sessions_say_the_same_while_others_are_paused_cancelled_and_dropped(void **state)
{
	struct fixture *f = *state;
	struct session *s[SESSIONS];
	uint64_t start = clock_ns();
	for (int i = 0; i < SESSIONS; i++)
		s[i] = begin(f, i);
	for (unsigned turn = 0; use(f, s); turn++) {
		disturb(f, s[turn % SESSIONS], turn);
		look(f, start);
	}
	for (int i = 0; i < SESSIONS; i++)
		expect_said(f, s[i], i);
	for (int i = 0; i < SESSIONS; i++)
		run_drop(&f->t, s[i]);
	if (f->other != NULL)
		run_drop(&f->t, f->other);
}

static void a_fork_in_mid_run_goes_on_as_its_donor_does(void **state)
{
	struct fixture *f = *state;
	struct session *donor = begin(f, 3), *forks[3];
	uint64_t start = clock_ns();
	for (uint32_t i = 0; i < 3; i++) {
		while (donor->n_tokens < PROMPT + i * (TOKENS / 4))
			look(f, start);
		forks[i] = fork_of(f, donor);
	}
	await_end(f, donor);
	expect_said(f, donor, 3);
	for (int i = 0; i < 3; i++) {
		await_end(f, forks[i]);
		expect_said(f, forks[i], 3);
		run_drop(&f->t, forks[i]);
	}
	run_drop(&f->t, donor);
}

/* Appends a token as `append` does, as soon as the session has no run any more, and lets `more` be drawn. */
static void append(struct fixture *f, struct session *s, int32_t id, uint32_t more)
{
	for (uint64_t start = clock_ns(); session_running(s);)
		look(f, start);
	board_log(&f->t.board, s->slot)[s->n_tokens] = id;
	s->n_given = ++s->n_tokens;
	s->n_end = s->n_tokens + more;
	s->n_kv = s->releasing ? 0 : s->n_kv;
	run_start(&f->t, s);
	await_end(f, s);
}

/* What a session says that has the same text but was never disturbed. */
static void expect_said_anew(struct fixture *f, const struct session *s)
{
	struct session *anew = make(f, 0, 0);
	uint32_t n = s->n_given;
	board_record(&f->t.board, anew->slot)->params = board_record(&f->t.board, s->slot)->params;
	memcpy(board_log(&f->t.board, anew->slot), board_log(&f->t.board, s->slot), n * sizeof(int32_t));
	anew->flags = s->flags;
	anew->n_given = anew->n_tokens = n;
	anew->n_end = s->n_end;
	run_start(&f->t, anew);
	await_end(f, anew);
	assert_int_equal(anew->n_tokens, s->n_tokens);
	assert_memory_equal(board_log(&f->t.board, anew->slot), board_log(&f->t.board, s->slot), s->n_tokens * sizeof(int32_t));
	run_drop(&f->t, anew);
}

/* Whatever the engine is at when the pages are taken: before it has seen the run, in a step, between two. */
static void a_session_cancelled_while_its_pages_are_taken_is_appended_to_safely(void **state)
{
	enum { TURNS = 24, APPENDED = 77, MORE = 6 };
	struct fixture *f = *state;
	struct session *beside = begin(f, 6);
	for (uint32_t turn = 0; turn < TURNS; turn++) {
		struct session *s = begin(f, 3);
		for (uint64_t start = clock_ns(); s->n_tokens < PROMPT + turn;)
			look(f, start);
		assert_memory_equal(board_log(&f->t.board, s->slot) + PROMPT, f->quiet[3], turn * sizeof(int32_t));
		run_release(&f->t, s);
		run_cancel(&f->t, s);
		append(f, s, APPENDED, MORE);
		assert_int_equal(board_log(&f->t.board, s->slot)[s->n_given - 1], APPENDED);
		expect_said_anew(f, s);
		run_drop(&f->t, s);
	}
	await_end(f, beside);
	expect_said(f, beside, 6);
	run_drop(&f->t, beside);
}

/* A score run's logprobs, read as they come. */
static void score(struct fixture *f, float ret_logprobs[SCORED - 1])
{
	struct session *s = make(f, SCORED, 7);
	board_record(&f->t.board, s->slot)->params = (struct board_params){.top_p = 1, .repeat_penalty = 1};
	s->flags = BOARD_SCORE;
	s->n_end = SCORED;
	scores_init(&s->scores, SCORED, f->t.n_vocab, f->segments.model.hp.n_embd, s->flags);
	run_start(&f->t, s);
	uint64_t start = clock_ns();
	for (uint32_t at = 0; at < SCORED - 1; look(f, start)) {
		for (; at < s->scores.end; at++)
			ret_logprobs[at] = scores_logprob(&s->scores, at);
		run_credit(&f->t, s, at);
	}
	await_end(f, s);
	run_drop(&f->t, s);
}

static void scores_are_the_same_beside_sessions_that_generate(void **state)
{
	struct fixture *f = *state;
	float alone[SCORED - 1], beside[SCORED - 1];
	score(f, alone);
	struct session *s[2] = {begin(f, 1), begin(f, 6)};
	score(f, beside);
	assert_memory_equal(alone, beside, sizeof alone);
	await_end(f, s[0]);
	await_end(f, s[1]);
	expect_said(f, s[0], 1);
	expect_said(f, s[1], 6);
	run_drop(&f->t, s[0]);
	run_drop(&f->t, s[1]);
}

static void another_engine_goes_on_where_one_has_ended(void **state)
{
	struct fixture *f = *state;
	struct session *s[SESSIONS / 2];
	uint64_t start = clock_ns();
	for (int i = 0; i < SESSIONS / 2; i++)
		s[i] = begin(f, i);
	for (uint32_t enough = PROMPT + 5; enough < PROMPT + TOKENS; enough += 15) {
		while (s[1]->n_tokens < enough)
			look(f, start);
		end_engine(f);
		start_engine(f);
	}
	for (int i = 0; i < SESSIONS / 2; i++) {
		await_end(f, s[i]);
		expect_said(f, s[i], i);
		run_drop(&f->t, s[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sessions_say_the_same_while_others_are_paused_cancelled_and_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(a_fork_in_mid_run_goes_on_as_its_donor_does, setup, teardown),
		cmocka_unit_test_setup_teardown(a_session_cancelled_while_its_pages_are_taken_is_appended_to_safely, setup, teardown),
		cmocka_unit_test_setup_teardown(scores_are_the_same_beside_sessions_that_generate, setup, teardown),
		cmocka_unit_test_setup_teardown(another_engine_goes_on_where_one_has_ended, setup, teardown),
	};
	return cmocka_run_group_tests_name("board_threads", tests, pack_once, close_weights);
}
