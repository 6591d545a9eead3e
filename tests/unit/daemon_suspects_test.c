/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search for a session that ends the engine, against engines that the test plays: in a batch some sessions are poisoned,
 * and an engine dies of every step that has one of them in it at its position. The same on a board. And the pulse, with a clock
 * of the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/pulse.h"
#include "daemon/trial.h"

enum { SESSIONS = BOARD_BATCH, END = 20, POISON_AT = 7, FOR_EVER = -1 };

/* One daemon's sessions: how far each is, whether it is poisoned (for how many more crashes), and what became of it. */
struct play {
	struct suspects suspects;
	uint32_t n;
	uint32_t progress[SESSIONS];
	int poison[SESSIONS];
	bool failed[SESSIONS], waits[SESSIONS]; /* waits: it cannot be computed for now */
	unsigned crashes;
};

static bool on_trial(const struct play *p, uint32_t slot)
{
	if (p->suspects.tried == 0)
		return true;
	for (uint32_t i = 0; i < p->suspects.tried; i++)
		if (p->suspects.of[i].slot == slot)
			return true;
	return false;
}

static bool passed(void *arg, const struct suspect *x)
{
	const struct play *p = arg;
	return p->failed[x->slot] || p->progress[x->slot] == END || p->progress[x->slot] != x->progress;
}

/* One step of an engine. False: there was nothing to compute. */
static bool step(struct play *p)
{
	struct suspect batch[SESSIONS], guilty;
	uint32_t n = 0;
	bool crash = false;
	for (uint32_t i = 0; i < p->n; i++) {
		if (p->failed[i] || p->waits[i] || p->progress[i] == END || !on_trial(p, i))
			continue;
		batch[n++] = (struct suspect){.slot = i, .run = 1, .progress = p->progress[i]};
		if (p->poison[i] != 0 && p->progress[i] == POISON_AT) {
			crash = true;
			p->poison[i] -= p->poison[i] > 0;
		}
	}
	if (n == 0)
		return false;
	if (!crash) {
		for (uint32_t i = 0; i < n; i++)
			p->progress[batch[i].slot]++;
		suspects_clear(&p->suspects, passed, p);
		return true;
	}
	p->crashes++;
	if (suspects_crash(&p->suspects, batch, n, &guilty) == SUSPECTS_GUILTY) {
		assert_int_equal(n, 1);
		assert_int_equal(guilty.slot, batch[0].slot);
		p->failed[guilty.slot] = true;
	}
	return true;
}

static void play(struct play *p)
{
	for (unsigned i = 0; step(p); i++)
		assert_true(i < 10000);
	assert_int_equal(p->suspects.tried, 0);
}

/* All but the poisoned get to their end, and those alone are failed. */
static void expect_justice(const struct play *p)
{
	for (uint32_t i = 0; i < p->n; i++) {
		assert_int_equal(p->failed[i], p->poison[i] == FOR_EVER);
		assert_int_equal(p->progress[i], p->poison[i] == FOR_EVER ? POISON_AT : END);
	}
}

static unsigned log2_up(uint32_t n)
{
	unsigned log = 0;
	while (1u << log < n)
		log++;
	return log;
}

static void whoever_is_poisoned_is_found_within_log2_crashes_and_nobody_else_is_failed(void **state)
{
	static const uint32_t sizes[] = {1, 2, 3, 7, 8, 33, SESSIONS};
	(void)state;
	for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
		for (uint32_t culprit = 0; culprit < sizes[k]; culprit++) {
			struct play p = {.n = sizes[k]};
			p.poison[culprit] = FOR_EVER;
			play(&p);
			expect_justice(&p);
			assert_true(p.crashes <= log2_up(sizes[k]) + 3);
		}
}

static void several_are_found_one_after_the_other(void **state)
{
	(void)state;
	for (uint32_t a = 0; a < 9; a++)
		for (uint32_t b = 0; b < a; b++) {
			struct play p = {.n = 9};
			p.poison[a] = p.poison[b] = p.poison[8] = FOR_EVER;
			play(&p);
			expect_justice(&p);
		}
}

static void a_crash_that_does_not_come_again_fails_nobody(void **state)
{
	(void)state;
	for (int crashes = 1; crashes < 5; crashes++) {
		struct play p = {.n = 8};
		p.poison[0] = crashes;
		play(&p);
		expect_justice(&p);
		assert_int_equal(p.crashes, crashes);
	}
}

static void a_session_that_was_alone_by_chance_has_a_second_try(void **state)
{
	(void)state;
	struct play p = {.n = 1};
	p.poison[0] = 1;
	play(&p);
	expect_justice(&p);
}

static void the_first_crash_holds_nobody_back(void **state)
{
	(void)state;
	struct suspects s = {0};
	struct suspect batch[3] = {{1, 1, 5}, {2, 1, 5}, {3, 1, 5}}, guilty;
	assert_int_equal(suspects_crash(&s, batch, 3, &guilty), SUSPECTS_RETRY);
	assert_int_equal(s.tried, 0);
	assert_int_equal(suspects_crash(&s, batch, 3, &guilty), SUSPECTS_TRIAL);
	assert_int_equal(s.tried, 2);
}

static void crashes_of_two_sessions_alone_are_not_two_of_one(void **state)
{
	(void)state;
	struct suspects s = {0};
	struct suspect a = {1, 1, 5}, b = {2, 1, 5}, again = {1, 2, 5}, guilty;
	assert_int_equal(suspects_crash(&s, &a, 1, &guilty), SUSPECTS_RETRY);
	assert_int_not_equal(suspects_crash(&s, &b, 1, &guilty), SUSPECTS_GUILTY);
	assert_int_not_equal(suspects_crash(&s, &again, 1, &guilty), SUSPECTS_GUILTY);
	assert_int_equal(suspects_crash(&s, &again, 1, &guilty), SUSPECTS_GUILTY);
	assert_int_equal(guilty.run, 2);
}

static void a_trial_that_is_given_up_lets_everybody_go_on(void **state)
{
	(void)state;
	struct play p = {.n = 8};
	p.poison[1] = 2;
	for (int i = 0; p.crashes < 2; i++)
		assert_true(step(&p) && i < 100);
	for (uint32_t i = 0; i < p.suspects.tried; i++)
		p.waits[p.suspects.of[i].slot] = true;
	assert_false(step(&p));
	assert_true(suspects_forget(&p.suspects));
	assert_false(suspects_forget(&p.suspects));
	memset(p.waits, 0, sizeof p.waits);
	play(&p);
	expect_justice(&p);
}

enum { SLOTS = 8, CONTEXT = 64, RUN = 5 };

/* A board in private memory where every slot runs RUN. */
static void make_board(struct board *b)
{
	struct board_header h;
	struct err e;
	board_plan(SLOTS, CONTEXT, 16, &h);
	void *base = aligned_alloc(4096, h.size);
	memset(base, 0, h.size);
	h.n_used = SLOTS;
	memcpy(base, &h, sizeof h);
	assert_int_equal(board_open(base, h.size, b, &e), 0);
	for (uint32_t i = 0; i < SLOTS; i++) {
		atomic_store(&b->words[i].want, board_word(RUN, BOARD_RUN));
		atomic_store(&b->words[i].is, board_word(RUN, BOARD_RUNNING));
		atomic_store(&b->words[i].progress, board_progress(3, 4));
	}
}

/* The engine wrote these suspects, and that they are `said` many, and died within the step or between two. */
static void die(const struct board *b, const uint32_t *slots, uint32_t n, uint32_t said, bool within)
{
	for (uint32_t i = 0; i < n; i++)
		b->header->suspects[i] = slots[i];
	atomic_store(&b->header->n_suspects, said);
	atomic_store(&b->header->step, within ? 11 : 12);
}

static unsigned count_computed(const struct board *b)
{
	unsigned n = 0;
	uint32_t trial = atomic_load(&b->header->trial);
	for (uint32_t i = 0; i < SLOTS; i++)
		n += trial == 0 || atomic_load(&b->words[i].trial) == trial;
	return n;
}

static void the_board_says_whom_to_compute_until_the_trial_is_over(void **state)
{
	static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
	(void)state;
	struct board b;
	struct trial t;
	struct suspect guilty;
	uint32_t n;
	make_board(&b);
	atomic_store(&b.header->trial, 1); /* an earlier falcond's */
	trial_init(&t, &b);
	assert_int_equal(count_computed(&b), SLOTS);
	die(&b, all, SLOTS, SLOTS, true);
	assert_false(trial_crash(&t, &guilty, &n));
	assert_int_equal(n, SLOTS);
	assert_int_equal(count_computed(&b), SLOTS);
	assert_false(trial_crash(&t, &guilty, &n));
	assert_int_equal(count_computed(&b), SLOTS / 2);
	assert_false(trial_scan(&t));
	for (uint32_t i = 0; i < SLOTS / 2; i++) { /* two get on, one is paused, one ends */
		assert_int_equal(atomic_load(&b.words[i].trial), atomic_load(&b.header->trial));
		if (i == 2)
			atomic_store(&b.words[i].want, board_word(RUN, BOARD_PAUSE));
		else if (i == 3)
			atomic_store(&b.words[i].is, board_word(RUN, BOARD_DONE));
		else
			atomic_store(&b.words[i].progress, board_progress(4, 5));
	}
	assert_true(trial_scan(&t));
	assert_int_equal(count_computed(&b), SLOTS / 4);
	assert_int_equal(atomic_load(&b.words[4].trial), atomic_load(&b.header->trial));
	trial_forget(&t);
	assert_int_equal(count_computed(&b), SLOTS);
	free(b.header);
}

static void what_a_mad_engine_says_of_suspects_is_held_to_what_runs(void **state)
{
	static const uint32_t mad[] = {SLOTS, UINT32_MAX, 2, 2, 3, 2, 4};
	(void)state;
	struct board b;
	struct trial t;
	struct suspect guilty;
	uint32_t n;
	make_board(&b);
	trial_init(&t, &b);
	atomic_store(&b.words[3].is, board_word(RUN - 1, BOARD_RUNNING));
	atomic_store(&b.words[4].want, board_word(RUN, BOARD_CLOSE));
	die(&b, mad, sizeof mad / sizeof mad[0], sizeof mad / sizeof mad[0], true);
	assert_false(trial_crash(&t, &guilty, &n));
	assert_int_equal(n, 1);
	assert_int_equal(t.suspects.of[0].slot, 2);
	die(&b, mad, 1, UINT32_MAX, true); /* more than there is room for: zeros, that is slot 0, follow */
	assert_false(trial_crash(&t, &guilty, &n));
	assert_int_equal(n, 2);
	free(b.header);
}

static void a_death_between_two_steps_is_nobodys_fault(void **state)
{
	static const uint32_t one[] = {1};
	(void)state;
	struct board b;
	struct trial t;
	struct suspect guilty;
	uint32_t n;
	make_board(&b);
	trial_init(&t, &b);
	die(&b, one, 1, 1, false);
	for (int i = 0; i < 5; i++) {
		assert_false(trial_crash(&t, &guilty, &n));
		assert_int_equal(n, 0);
	}
	free(b.header);
}

static const uint64_t ms = 1000000;

static void a_step_that_does_not_end_is_silence(void **state)
{
	(void)state;
	struct pulse p;
	uint64_t now = 5 * ms;
	pulse_start(&p, now, 10);
	pulse_look(&p, now += 500 * ms, 11, false);
	assert_int_equal(p.silent_ms, 0);
	pulse_look(&p, now += 500 * ms, 11, false);
	pulse_look(&p, now += 400 * ms, 11, true);
	assert_int_equal(p.silent_ms, 900);
	pulse_look(&p, now += 500 * ms, 13, false);
	assert_int_equal(p.silent_ms, 0);
}

static void a_wake_up_that_is_not_taken_is_silence_and_idleness_is_none(void **state)
{
	(void)state;
	struct pulse p;
	uint64_t now = 0;
	pulse_start(&p, now, 10);
	for (int i = 0; i < 100; i++)
		pulse_look(&p, now += 500 * ms, 10, false);
	assert_int_equal(p.silent_ms, 0);
	pulse_look(&p, now += 500 * ms, 10, true);
	pulse_look(&p, now += 500 * ms, 10, true);
	assert_int_equal(p.silent_ms, 1000);
	pulse_look(&p, now += 500 * ms, 10, false);
	assert_int_equal(p.silent_ms, 0);
}

static void an_hour_without_falcond_is_no_hour_of_silence(void **state)
{
	(void)state;
	struct pulse p;
	pulse_start(&p, 0, 11);
	pulse_look(&p, 3600000 * ms, 11, false);
	assert_int_equal(p.silent_ms, PULSE_LOOK_MOST_MS);
}

static void a_deadline_is_generous_and_bounded_whatever_the_engine_says(void **state)
{
	(void)state;
	struct pulse p;
	pulse_start(&p, 0, 11);
	assert_int_equal(pulse_deadline(&p, true, 10000, 100 * ms), 10000);
	assert_int_equal(pulse_deadline(&p, true, 10000, 3000 * ms), 60000);
	assert_int_equal(pulse_deadline(&p, true, 10000, UINT64_MAX), PULSE_STEP_MOST_MS);
	assert_int_equal(pulse_deadline(&p, false, 10000, UINT64_MAX), PULSE_START_MS);
	pulse_start(&p, 0, 12); /* between two steps: what the last was expected to take says nothing */
	assert_int_equal(pulse_deadline(&p, true, 10000, 3000 * ms), 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whoever_is_poisoned_is_found_within_log2_crashes_and_nobody_else_is_failed),
		cmocka_unit_test(several_are_found_one_after_the_other),
		cmocka_unit_test(a_crash_that_does_not_come_again_fails_nobody),
		cmocka_unit_test(a_session_that_was_alone_by_chance_has_a_second_try),
		cmocka_unit_test(the_first_crash_holds_nobody_back),
		cmocka_unit_test(crashes_of_two_sessions_alone_are_not_two_of_one),
		cmocka_unit_test(a_trial_that_is_given_up_lets_everybody_go_on),
		cmocka_unit_test(the_board_says_whom_to_compute_until_the_trial_is_over),
		cmocka_unit_test(what_a_mad_engine_says_of_suspects_is_held_to_what_runs),
		cmocka_unit_test(a_death_between_two_steps_is_nobodys_fault),
		cmocka_unit_test(a_step_that_does_not_end_is_silence),
		cmocka_unit_test(a_wake_up_that_is_not_taken_is_silence_and_idleness_is_none),
		cmocka_unit_test(an_hour_without_falcond_is_no_hour_of_silence),
		cmocka_unit_test(a_deadline_is_generous_and_bounded_whatever_the_engine_says),
	};
	return cmocka_run_group_tests_name("daemon_suspects", tests, NULL, NULL);
}
