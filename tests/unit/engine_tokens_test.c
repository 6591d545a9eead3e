/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's tokens are a pure function of its log, parameters and seed: real engine processes are started, killed, crowded
 * and held to instruction sets, and the tokens must be the same bytes as those of one engine left in peace.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/rig.h"

enum { PROMPT = 110, N = 32, SLOTS = 12 };

static const struct rig_shape shape = {.n_slots = SLOTS, .n_context = 512, .n_pages = 256, .chunk_ms = 50};
static int weights;
static int32_t prompt[PROMPT];

static int pack_once(void **state)
{
	(void)state;
	weights = rig_pack(RIG_MODEL);
	rig_prompt(prompt, PROMPT);
	return 0;
}

static int close_weights(void **state)
{
	(void)state;
	return close(weights);
}

static const struct rig_run greedy = {.owner = 1, .ids = prompt, .n_ids = PROMPT, .n = N, .flags = BOARD_IGNORE_EOS};
static const struct rig_run seeded = {.owner = 2, .ids = prompt, .n_ids = PROMPT - 61, .n = N, .flags = BOARD_IGNORE_EOS,
	.temp = 1, .seed = 20240229};

/* Waits for the run in this slot and copies what it generated. */
static void collect(struct rig *r, uint32_t slot, const struct rig_run *run, int32_t tokens[N])
{
	assert_int_equal(rig_finish(r, slot), BOARD_LENGTH);
	assert_int_equal(rig_n_tokens(r, slot), run->n_ids + N);
	assert_int_equal(rig_n_kv(r, slot), run->n_ids + N - 1);
	memcpy(tokens, board_log(&r->board, slot) + run->n_ids, N * sizeof *tokens);
}

/* What one undisturbed engine of one thread, plain C, makes of both runs, each alone. */
static void reference(int32_t of_greedy[N], int32_t of_seeded[N])
{
	static int32_t once[2][N];
	static int known;
	if (!known) {
		struct rig r;
		rig_open(&r, weights, &shape);
		rig_start(&r, 1, "portable");
		rig_begin(&r, 0, &greedy);
		collect(&r, 0, &greedy, once[0]);
		rig_begin(&r, 0, &seeded);
		collect(&r, 0, &seeded, once[1]);
		rig_close(&r);
		known = 1;
	}
	memcpy(of_greedy, once[0], sizeof once[0]);
	memcpy(of_seeded, once[1], sizeof once[1]);
}

static void check(struct rig *r, uint32_t slot_greedy, uint32_t slot_seeded)
{
	int32_t expected[2][N], got[2][N];
	reference(expected[0], expected[1]);
	collect(r, slot_greedy, &greedy, got[0]);
	collect(r, slot_seeded, &seeded, got[1]);
	assert_memory_equal(got[0], expected[0], sizeof got[0]);
	assert_memory_equal(got[1], expected[1], sizeof got[1]);
}

static void greedy_and_seeded_runs_differ_and_vary(void **state)
{
	(void)state;
	int32_t a[N], b[N];
	reference(a, b);
	assert_memory_not_equal(a, b, sizeof a);
	int changes = 0;
	for (int i = 1; i < N; i++)
		changes += b[i] != b[i - 1];
	assert_true(changes > N / 2);
}

static void threads_and_instruction_sets_change_no_token(void **state)
{
	(void)state;
	static const struct { unsigned threads; const char *isa; } kinds[] = {
		{2, "portable"}, {1, NULL}, {2, NULL}, {3, "avx2"}, {1, "avx512"}};
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		struct rig r;
		rig_open(&r, weights, &shape);
		rig_start(&r, kinds[i].threads, kinds[i].isa);
		assert_int_equal(r.board.header->threads, kinds[i].threads);
		rig_begin(&r, 0, &greedy);
		rig_begin(&r, 1, &seeded);
		check(&r, 0, 1);
		rig_close(&r);
	}
}

static void other_sessions_coming_and_going_change_no_token(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, weights, &shape);
	rig_start(&r, 2, NULL);
	for (uint32_t slot = 2; slot < SLOTS; slot++) {
		struct rig_run other = {.owner = slot, .ids = prompt + slot, .n_ids = 5 * slot, .n = 10 * slot, .temp = 0.7f,
			.seed = slot, .flags = BOARD_IGNORE_EOS};
		rig_begin(&r, slot, &other);
		if (slot == 5)
			rig_begin(&r, 0, &greedy);
		if (slot == 8)
			rig_begin(&r, 1, &seeded);
	}
	check(&r, 0, 1);
	assert_true(r.board.header->batch_max > 2);
	rig_close(&r);
}

static void a_prompt_in_many_pieces_gives_the_same_tokens(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, weights, &shape);
	rig_start(&r, 2, NULL);
	struct rig_run runs[2] = {greedy, seeded};
	for (uint32_t slot = 0; slot < 2; slot++) {
		runs[slot].pages = 1;
		rig_begin(&r, slot, &runs[slot]);
	}
	for (uint32_t n_pages = 2; n_pages <= (PROMPT + N + PAGE_TOKENS - 1) / PAGE_TOKENS; n_pages++) {
		rig_listen(&r, 20);
		for (uint32_t slot = 0; slot < 2; slot++)
			rig_grant(&r, slot, n_pages);
	}
	check(&r, 0, 1);
	rig_close(&r);
}

static void a_prefix_computed_by_another_run_gives_the_same_tokens(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, weights, &shape);
	rig_start(&r, 1, NULL);
	/* The first run computes two pages and nothing more; the second session holds them as its first two. */
	struct rig_run first = greedy;
	first.n_ids = 64;
	first.n = 0;
	rig_begin(&r, 5, &first);
	assert_int_equal(rig_finish(&r, 5), BOARD_LENGTH);
	assert_int_equal(rig_n_kv(&r, 5), 64);
	struct pages_head head;
	struct pages_header arena;
	assert_int_equal(pread(r.pages, &arena, sizeof arena, 0), sizeof arena);
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t page = *board_page(&r.board, 5, i);
		off_t at = (off_t)(arena.heads_offset + page * sizeof head);
		assert_int_equal(pread(r.pages, &head, sizeof head, at), sizeof head);
		assert_memory_equal(head.ids, prompt + i * PAGE_TOKENS, sizeof head);
	}
	rig_write(&r, 0, &greedy);
	*board_page(&r.board, 0, 0) = *board_page(&r.board, 5, 0);
	*board_page(&r.board, 0, 1) = *board_page(&r.board, 5, 1);
	board_record(&r.board, 0)->kv_from = 64;
	rig_publish(&r, 0);
	rig_begin(&r, 1, &seeded);
	check(&r, 0, 1);
	rig_close(&r);
}

static void killed_after_any_token_the_session_goes_on_with_the_same_bytes(void **state)
{
	(void)state;
	struct rig r;
	rig_open(&r, weights, &shape);
	rig_begin(&r, 0, &greedy);
	rig_begin(&r, 1, &seeded);
	/* Every engine is killed as soon as the first session has one token more, so each boundary between two steps is met. */
	uint32_t n_tokens = PROMPT;
	while (n_tokens < PROMPT + N) {
		rig_start(&r, 1 + n_tokens % 2, n_tokens % 3 ? NULL : "portable");
		rig_expect_tokens(&r, 0, n_tokens + 1);
		rig_kill(&r);
		n_tokens = rig_n_tokens(&r, 0);
	}
	rig_start(&r, 1, NULL);
	check(&r, 0, 1);
	rig_close(&r);
}

static void killed_at_random_moments_the_sessions_go_on_with_the_same_bytes(void **state)
{
	(void)state;
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	struct rig r;
	rig_open(&r, weights, &shape);
	rig_begin(&r, 0, &greedy);
	rig_begin(&r, 1, &seeded);
	int within = 0;
	for (int kills = 0; kills < 25 && board_low(r.board.words[0].is) != BOARD_DONE; kills++) {
		rig_start(&r, 2, NULL);
		if (kills % 2)
			rig_expect_tokens(&r, 0, rig_n_tokens(&r, 0) + 1);
		usleep((useconds_t)(rand_r(&seed) % 5000));
		rig_kill(&r);
		within += r.board.header->step & 1;
	}
	print_message("%d engines died within a step\n", within);
	rig_start(&r, 2, NULL);
	check(&r, 0, 1);
	assert_int_equal(r.board.header->step & 1, 0);
	rig_close(&r);
}

static void every_kind_of_keys_and_values_survives_a_kill(void **state)
{
	(void)state;
	for (uint32_t kv = 0; pages_kv_name(kv) != NULL; kv++) {
		struct rig_shape its = shape;
		struct rig r;
		int32_t undisturbed[N], killed[N];
		its.kv = kv;
		rig_open(&r, weights, &its);
		rig_start(&r, 1, NULL);
		rig_begin(&r, 0, &seeded);
		collect(&r, 0, &seeded, undisturbed);
		for (uint32_t n = 1; n < 6; n += 2) {
			if (n == 1)
				rig_begin(&r, 1, &seeded);
			rig_expect_tokens(&r, 1, seeded.n_ids + n);
			rig_kill(&r);
			rig_start(&r, n == 5 ? 2 : 1, n == 3 ? "portable" : NULL);
		}
		collect(&r, 1, &seeded, killed);
		assert_memory_equal(killed, undisturbed, sizeof killed);
		rig_close(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greedy_and_seeded_runs_differ_and_vary),
		cmocka_unit_test(threads_and_instruction_sets_change_no_token),
		cmocka_unit_test(other_sessions_coming_and_going_change_no_token),
		cmocka_unit_test(a_prompt_in_many_pieces_gives_the_same_tokens),
		cmocka_unit_test(a_prefix_computed_by_another_run_gives_the_same_tokens),
		cmocka_unit_test(killed_after_any_token_the_session_goes_on_with_the_same_bytes),
		cmocka_unit_test(killed_at_random_moments_the_sessions_go_on_with_the_same_bytes),
		cmocka_unit_test(every_kind_of_keys_and_values_survives_a_kill),
	};
	return cmocka_run_group_tests(tests, pack_once, close_weights);
}
