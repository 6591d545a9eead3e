/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is drafted from a log, and that no token, end or count of a run depends on it: every run is computed by an engine that
 * drafts wherever it can and by one that never does.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/speculate.h"
#include "tests/support/rig.h"

/* The draft alone ----------------------------------------------------------------------------------------------------- */

static void what_followed_the_last_tokens_before_is_drafted(void **state)
{
	(void)state;
	struct speculate s;
	int32_t log[32] = {1, 2, 3, 40, 41, 42, 43, 7, 1, 2, 3, 50, 51, 52, 8, 1, 2, 3};
	speculate_init(&s, 32);
	assert_int_equal(speculate_draft(&s, log, 18, 4), 4);
	static const int32_t expected[] = {50, 51, 52, 8}; /* the later place counts */
	assert_memory_equal(log + 18, expected, sizeof expected);
	/* The log went another way, where nothing has been yet. */
	log[18] = 60;
	assert_int_equal(speculate_draft(&s, log, 19, 4), 0);
	log[19] = 1, log[20] = 2, log[21] = 3;
	assert_int_equal(speculate_draft(&s, log, 22, 2), 2);
	assert_int_equal(log[22], 60);
	assert_int_equal(log[23], 1);
	speculate_done(&s);
}

static void a_text_that_turns_in_a_circle_is_drafted_beyond_its_end(void **state)
{
	(void)state;
	struct speculate s;
	int32_t log[64] = {9, 5, 6, 5, 6, 5};
	speculate_init(&s, 64);
	assert_int_equal(speculate_draft(&s, log, 6, SPECULATE_MOST), SPECULATE_MOST);
	for (uint32_t i = 6; i < 6 + SPECULATE_MOST; i++)
		assert_int_equal(log[i], i % 2 ? 5 : 6);
	speculate_done(&s);
}

static void nothing_is_drafted_where_no_three_tokens_stand_twice(void **state)
{
	(void)state;
	enum { N = 40000 };
	struct speculate s;
	int32_t *log = calloc(N, sizeof *log);
	assert_non_null(log);
	speculate_init(&s, N);
	/* Pairs stand twice, and hashes meet in a table smaller than the log; triples are all different. */
	for (uint32_t i = 0; i + 16 < N; i++) {
		log[i] = (int32_t)(i % 2 ? 7 : i);
		assert_int_equal(speculate_draft(&s, log, i + 1, 8), 0);
	}
	speculate_done(&s);
	free(log);
}

static void drafts_grow_while_they_are_right_and_shrink_when_they_are_not(void **state)
{
	(void)state;
	struct speculate s;
	speculate_init(&s, 100);
	uint32_t before = s.length;
	speculate_learn(&s, s.length, s.length, 0.3f);
	assert_true(s.length > before);
	for (int i = 0; i < 5; i++)
		speculate_learn(&s, s.length, s.length, 0.5f);
	assert_int_equal(s.length, SPECULATE_MOST);
	assert_true(s.credit <= SPECULATE_CREDIT);
	speculate_learn(&s, s.length, 4, 2);
	assert_int_equal(s.length, 5);
	speculate_learn(&s, s.length, 0, 1);
	assert_int_equal(s.length, 1);
	speculate_done(&s);
}

static void a_session_that_never_repeats_itself_loses_little(void **state)
{
	(void)state;
	struct speculate s;
	float lost = 0;
	enum { TOKENS = 1000 };
	speculate_init(&s, 100);
	for (int i = 0; i < TOKENS; i++) {
		float cost = s.credit > 0.25f ? 0.25f : 0; /* each try costs a quarter of a token, and fails */
		lost += cost;
		speculate_learn(&s, cost > 0, 0, cost);
		assert_true(s.credit >= 0);
	}
	assert_true(lost > 0 && lost < 0.02f * TOKENS);
	speculate_done(&s);
}

/* Engines ------------------------------------------------------------------------------------------------------------- */

enum { PROMPT = 48, N = 60, SLOTS = 8, WORDS = 4 };

static int weights;
static int32_t prompt[PROMPT];

/* A prompt of few words in an order that comes back, and runs that are made to go on with those words. */
static const int32_t words[WORDS] = {310, 1000, 2000, 11}; /* "ld", " something", "arent", end of text */

static int pack_once(void **state)
{
	(void)state;
	weights = rig_pack(RIG_MODEL);
	for (uint32_t i = 0; i < PROMPT; i++)
		prompt[i] = words[i * i % 7 % WORDS];
	return 0;
}

static int close_weights(void **state)
{
	(void)state;
	return close(weights);
}

static void open_engine(struct rig *r, uint32_t speculate)
{
	const struct rig_shape shape = {.n_slots = SLOTS, .n_context = 256, .n_pages = 4096, .chunk_ms = 50, .speculate = speculate};
	rig_open(r, weights, &shape);
	rig_start(r, 1, NULL);
}

/* Begins a run that says the words alone, the last of them with a bias of its own. */
static void begin(struct rig *r, uint32_t slot, const struct rig_run *run, float last)
{
	rig_write(r, slot, run);
	struct board_record *record = board_record(&r->board, slot);
	record->n_biases = WORDS;
	for (uint32_t i = 0; i < WORDS; i++)
		record->biases[i] = (struct board_bias){.id = words[i], .bias = i + 1 < WORDS ? 60 : last};
	rig_publish(r, slot);
}

/* Both engines compute the run. Their logs, ends and counts must be the same. Returns the reason, and tokens generated. */
static enum board_reason compute(struct rig *plain, struct rig *drafting, const struct rig_run *run, float last,
				 uint32_t *ret_n)
{
	begin(plain, 0, run, last);
	begin(drafting, 0, run, last);
	enum board_reason reason = rig_finish(plain, 0);
	assert_int_equal(rig_finish(drafting, 0), reason);
	uint32_t n = rig_n_tokens(plain, 0);
	assert_int_equal(rig_n_tokens(drafting, 0), n);
	assert_int_equal(rig_n_kv(drafting, 0), rig_n_kv(plain, 0));
	assert_memory_equal(board_log(&drafting->board, 0), board_log(&plain->board, 0), n * sizeof(int32_t));
	*ret_n = n - run->n_ids;
	return reason;
}

static uint64_t steps(const struct rig *r)
{
	return r->board.header->step / 2;
}

static void runs_end_alike_with_and_without_drafts(void **state)
{
	(void)state;
	static const struct kind { struct rig_run run; float last; enum board_reason some; } kinds[] = {
		{{.temp = 0, .n = N, .flags = BOARD_IGNORE_EOS}, 60, BOARD_LENGTH},
		{{.temp = 0.5f, .n = N, .flags = BOARD_IGNORE_EOS}, 60, BOARD_LENGTH},
		{{.temp = 1, .n = N, .flags = BOARD_IGNORE_EOS}, 60, BOARD_LENGTH},
		{{.temp = 1, .n = N, .flags = BOARD_IGNORE_EOS, .repeat_penalty = 3, .repeat_last_n = 4}, 60, BOARD_LENGTH},
		{{.temp = 0, .n = N, .flags = BOARD_IGNORE_EOS, .repeat_penalty = 1.5f, .repeat_last_n = 20}, 60, BOARD_LENGTH},
		{{.temp = 1, .n = N}, 62, BOARD_EOS},
		{{.temp = 1, .n = N, .flags = BOARD_IGNORE_EOS, .stop = "something somethingld"}, 60, BOARD_STOP},
		{{.temp = 1, .n = 400, .flags = BOARD_IGNORE_EOS}, 60, BOARD_CONTEXT},
	};
	struct rig plain, drafting;
	open_engine(&plain, BOARD_PLAIN);
	open_engine(&drafting, BOARD_SPECULATE_ALWAYS);
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
		uint32_t met = 0, tokens = 0;
		uint64_t before = steps(&drafting);
		for (uint64_t seed = 0; seed < 8; seed++) {
			struct rig_run run = kinds[k].run;
			uint32_t n;
			run.ids = prompt + seed;
			run.n_ids = PROMPT - 8;
			run.seed = seed;
			run.pages = (256 + PAGE_TOKENS - 1) / PAGE_TOKENS;
			met += compute(&plain, &drafting, &run, kinds[k].last, &n) == kinds[k].some;
			tokens += n;
		}
		assert_true(met >= 2);
		assert_true(steps(&drafting) - before < tokens * 9 / 10);
	}
	rig_close(&plain);
	rig_close(&drafting);
}

/* A run that generates 200 tokens: what is expected of it, computed without drafts. */
static struct rig_run long_run(uint64_t seed)
{
	return (struct rig_run){.owner = seed, .ids = prompt, .n_ids = PROMPT - (uint32_t)seed, .n = 200, .temp = 0.7f,
		.seed = seed, .flags = BOARD_IGNORE_EOS};
}

static void expect_runs(uint32_t n, int32_t ret[][256])
{
	struct rig plain;
	open_engine(&plain, BOARD_PLAIN);
	for (uint32_t i = 0; i < n; i++) {
		struct rig_run run = long_run(i);
		begin(&plain, i, &run, 60);
	}
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(rig_finish(&plain, i), BOARD_LENGTH);
		memcpy(ret[i], board_log(&plain.board, i), rig_n_tokens(&plain, i) * sizeof(int32_t));
	}
	rig_close(&plain);
}

static void check_run(struct rig *r, uint32_t slot, const int32_t *expected)
{
	assert_int_equal(rig_finish(r, slot), BOARD_LENGTH);
	assert_memory_equal(board_log(&r->board, slot), expected, rig_n_tokens(r, slot) * sizeof(int32_t));
}

static void sessions_that_draft_together_keep_their_tokens(void **state)
{
	(void)state;
	static int32_t expected[SLOTS][256];
	struct rig r;
	expect_runs(SLOTS, expected);
	for (uint32_t mode = BOARD_SPECULATE; mode <= BOARD_SPECULATE_ALWAYS; mode++) {
		open_engine(&r, mode);
		for (uint32_t i = 0; i < SLOTS; i++) {
			struct rig_run run = long_run(i);
			begin(&r, i, &run, 60);
			if (i % 3 == 2) /* the next ones come when these are under way */
				rig_expect_tokens(&r, i, run.n_ids + 20);
		}
		for (uint32_t i = 0; i < SLOTS; i++)
			check_run(&r, i, expected[i]);
		rig_close(&r);
	}
}

static void no_draft_goes_beyond_the_granted_pages(void **state)
{
	(void)state;
	static int32_t expected[1][256];
	struct rig r;
	expect_runs(1, expected);
	open_engine(&r, BOARD_SPECULATE_ALWAYS);
	struct rig_run run = long_run(0);
	run.pages = 2;
	begin(&r, 0, &run, 60);
	for (uint32_t pages = 2; pages * PAGE_TOKENS < run.n_ids + run.n; pages++) {
		rig_expect_tokens(&r, 0, pages * PAGE_TOKENS + 1); /* the token behind the last page needs none yet */
		assert_int_equal(rig_n_kv(&r, 0), pages * PAGE_TOKENS);
		rig_grant(&r, 0, pages + 1);
	}
	check_run(&r, 0, expected[0]);
	rig_close(&r);
}

static void killed_in_mid_draft_a_session_goes_on_with_the_same_tokens(void **state)
{
	(void)state;
	static int32_t expected[2][256];
	struct rig r;
	expect_runs(2, expected);
	open_engine(&r, BOARD_SPECULATE_ALWAYS);
	for (uint32_t i = 0; i < 2; i++) {
		struct rig_run run = long_run(i);
		begin(&r, i, &run, 60);
	}
	for (uint32_t n = PROMPT + 10; n < PROMPT + 200; n = rig_n_tokens(&r, 0) + 10) {
		rig_expect_tokens(&r, 0, n);
		rig_kill(&r);
		rig_start(&r, 1 + n % 2, NULL);
	}
	check_run(&r, 0, expected[0]);
	check_run(&r, 1, expected[1]);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_followed_the_last_tokens_before_is_drafted),
		cmocka_unit_test(a_text_that_turns_in_a_circle_is_drafted_beyond_its_end),
		cmocka_unit_test(nothing_is_drafted_where_no_three_tokens_stand_twice),
		cmocka_unit_test(drafts_grow_while_they_are_right_and_shrink_when_they_are_not),
		cmocka_unit_test(a_session_that_never_repeats_itself_loses_little),
		cmocka_unit_test(runs_end_alike_with_and_without_drafts),
		cmocka_unit_test(sessions_that_draft_together_keep_their_tokens),
		cmocka_unit_test(no_draft_goes_beyond_the_granted_pages),
		cmocka_unit_test(killed_in_mid_draft_a_session_goes_on_with_the_same_tokens),
	};
	return cmocka_run_group_tests(tests, pack_once, close_weights);
}
