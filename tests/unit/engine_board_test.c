/* SPDX-License-Identifier: Apache-2.0 */
/* What a real engine process answers to what stands on the board, sound or not. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/spawn.h"
#include "tests/support/rig.h"

enum { PROMPT = 40 };

static const struct rig_shape shape = {.n_slots = 8, .n_context = 128, .n_pages = 256, .chunk_ms = 50};
static int weights;
static int32_t prompt[PROMPT];

static int pack_once(void **state)
{
	(void)state;
	weights = rig_pack(RIG_MODEL);
	for (uint32_t i = 0; i < PROMPT; i++)
		prompt[i] = (int32_t)(300 + i * 97 % 3000);
	return 0;
}

static int close_weights(void **state)
{
	(void)state;
	return close(weights);
}

static int open_rig(void **state)
{
	struct rig *r = calloc(1, sizeof *r);
	rig_open(r, weights, &shape);
	rig_start(r, 1, NULL);
	*state = r;
	return 0;
}

static int close_rig(void **state)
{
	rig_close(*state);
	free(*state);
	return 0;
}

/* A run of n tokens whatever is drawn. */
static struct rig_run run_of(uint32_t n)
{
	return (struct rig_run){.owner = 7, .ids = prompt, .n_ids = PROMPT, .n = n, .flags = BOARD_IGNORE_EOS};
}

static void a_paused_run_stands_still_and_goes_on_when_resumed(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(60);
	run.pages = 2; /* so that it cannot end before it is paused */
	rig_begin(r, 0, &run);
	rig_expect_tokens(r, 0, PROMPT + 3);
	rig_want(r, 0, BOARD_PAUSE);
	rig_expect(r, 0, BOARD_PAUSED);
	uint32_t n_tokens = rig_n_tokens(r, 0);
	rig_grant(r, 0, 4);
	usleep(30000);
	assert_int_equal(rig_n_tokens(r, 0), n_tokens);
	rig_want(r, 0, BOARD_RUN);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(rig_n_tokens(r, 0), PROMPT + 60);
	rig_want(r, 0, BOARD_PAUSE); /* what is DONE stays DONE */
	struct rig_run other = run_of(1);
	rig_begin(r, 1, &other);
	rig_finish(r, 1);
	assert_int_equal(board_low(r->board.words[0].is), BOARD_DONE);
}

static void a_run_that_is_paused_before_it_was_taken_starts_where_its_record_says(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(4);
	rig_write(r, 0, &run);
	rig_kill(r);
	rig_publish(r, 0);
	rig_want(r, 0, BOARD_PAUSE);
	rig_start(r, 1, NULL);
	rig_expect(r, 0, BOARD_PAUSED);
	assert_int_equal(rig_n_tokens(r, 0), PROMPT);
	rig_want(r, 0, BOARD_RUN);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(rig_n_tokens(r, 0), PROMPT + 4);
}

static void a_cancelled_run_ends_and_a_closed_slot_can_be_used_again(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(200);
	run.pages = 2; /* so that it cannot end by itself */
	rig_begin(r, 0, &run);
	rig_expect_tokens(r, 0, PROMPT + 1);
	rig_want(r, 0, BOARD_CANCEL);
	assert_int_equal(rig_finish(r, 0), BOARD_CANCELLED);
	rig_want(r, 0, BOARD_CLOSE);
	rig_expect(r, 0, BOARD_CLOSED);
	rig_want(r, 0, BOARD_NONE);
	struct rig_run next = run_of(2);
	rig_begin(r, 0, &next);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(rig_n_tokens(r, 0), PROMPT + 2);
	rig_begin(r, 0, &run);
	rig_expect_tokens(r, 0, PROMPT + 1);
	rig_want(r, 0, BOARD_CLOSE); /* in the middle of a run */
	rig_expect(r, 0, BOARD_CLOSED);
}

static void a_session_without_a_page_waits_and_holds_up_nobody(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(60);
	run.pages = 2;
	rig_begin(r, 0, &run);
	rig_expect_tokens(r, 0, 65); /* position 64 has no page: token 65 cannot be drawn */
	struct rig_run other = run_of(60);
	rig_begin(r, 1, &other);
	assert_int_equal(rig_finish(r, 1), BOARD_LENGTH);
	assert_int_equal(rig_n_tokens(r, 0), 65);
	assert_int_equal(rig_n_kv(r, 0), 64);
	rig_grant(r, 0, 4);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_memory_equal(board_log(&r->board, 0), board_log(&r->board, 1), (PROMPT + 60) * sizeof(int32_t));
}

static void a_run_of_no_tokens_computes_every_given_position(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(0);
	rig_begin(r, 0, &run);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(rig_n_kv(r, 0), PROMPT);
	assert_int_equal(rig_n_tokens(r, 0), PROMPT);
	/* The next run wants a token after the same ones: the last position is computed again for its logits. */
	struct rig_run more = run_of(5);
	more.keep = true;
	rig_write(r, 0, &more);
	board_record(&r->board, 0)->kv_from = PROMPT;
	rig_publish(r, 0);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	more.keep = false;
	rig_begin(r, 1, &more);
	assert_int_equal(rig_finish(r, 1), BOARD_LENGTH);
	assert_memory_equal(board_log(&r->board, 0), board_log(&r->board, 1), (PROMPT + 5) * sizeof(int32_t));
}

static void a_run_ends_where_the_context_does(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(1000);
	run.pages = 4;
	rig_begin(r, 0, &run);
	assert_int_equal(rig_finish(r, 0), BOARD_CONTEXT);
	assert_int_equal(rig_n_tokens(r, 0), 128);
}

static void bad_records_end_their_own_run_alone(void **state)
{
	struct rig *r = *state;
	struct rig_run good = run_of(40), bad = run_of(10);
	rig_begin(r, 0, &good);
	struct board_record *record = board_record(&r->board, 1);
	for (int kind = 0; kind < 9; kind++) {
		rig_write(r, 1, &bad);
		switch (kind) {
		case 0: record->version++; break;
		case 1: record->n_from = 1u << 30; break;
		case 2: record->n_given = record->n_from + 1; break;
		case 3: record->params.temp = NAN; break;
		case 4: record->n_stops = 99; break;
		case 5: record->n_biases = 1; record->biases[0].id = 1 << 24; break;
		case 6: board_log(&r->board, 1)[7] = -1; break;
		case 7: board_log(&r->board, 1)[PROMPT - 1] = (int32_t)r->hp.n_vocab; break;
		case 8: record->n_given = record->n_from = 0; break;
		}
		rig_publish(r, 1);
		assert_int_equal(rig_finish(r, 1), BOARD_ERROR);
	}
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	rig_begin(r, 1, &bad); /* the slot itself is as good as before */
	assert_int_equal(rig_finish(r, 1), BOARD_LENGTH);
}

static void bad_page_tables_end_their_own_run_alone(void **state)
{
	struct rig *r = *state;
	struct rig_run good = run_of(40), bad = run_of(10);
	rig_begin(r, 0, &good);
	for (int kind = 0; kind < 3; kind++) {
		rig_write(r, 1, &bad);
		if (kind == 0)
			*board_page(&r->board, 1, 1) = r->n_pages;
		else if (kind == 1)
			*board_page(&r->board, 1, 0) = UINT32_MAX;
		else
			r->board.words[1].n_pages = 5; /* of a table of 4 */
		rig_publish(r, 1);
		assert_int_equal(rig_finish(r, 1), BOARD_ERROR);
	}
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
}

static uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* Spoils a record, its first tokens and its words at random, but names no page that belongs to somebody else. */
static void damage(struct rig *r, uint32_t slot, uint32_t *seed)
{
	uint8_t *record = (void *)board_record(&r->board, slot);
	for (uint32_t n = next_random(seed) % 4; n > 0; n--)
		record[next_random(seed) % 232] ^= (uint8_t)(1u << next_random(seed) % 8);
	if (next_random(seed) % 4 == 0)
		board_log(&r->board, slot)[next_random(seed) % PROMPT] = (int32_t)next_random(seed);
	if (next_random(seed) % 4 == 0)
		*board_page(&r->board, slot, next_random(seed) % 2) = r->n_pages + next_random(seed) % 1000;
	if (next_random(seed) % 4 == 0)
		r->board.words[slot].n_pages = next_random(seed) % 5;
	if (next_random(seed) % 4 == 0)
		r->board.words[slot].rows_until = next_random(seed);
}

static void random_damage_to_a_slot_harms_no_other(void **state)
{
	struct rig *r = *state;
	struct rig_run good = run_of(60), spoilt = run_of(6);
	uint32_t seed = 1795567;
	rig_begin(r, 0, &good);
	rig_finish(r, 0);
	spoilt.pages = 4;
	rig_write(r, 2, &spoilt);
	uint32_t own[4];
	memcpy(own, board_page(&r->board, 2, 0), sizeof own);
	good.keep = spoilt.keep = true;
	int refused = 0;
	for (int round = 0; round < 60; round++) {
		if (round % 20 == 0)
			rig_begin(r, 1, &good);
		rig_write(r, 2, &spoilt);
		memcpy(board_page(&r->board, 2, 0), own, sizeof own);
		damage(r, 2, &seed);
		rig_publish(r, 2);
		rig_expect_taken(r, 2);
		refused += r->board.words[2].is == board_word(board_run(r->board.words[2].want), BOARD_DONE) &&
			   r->board.words[2].reason == BOARD_ERROR;
		rig_want(r, 2, BOARD_CLOSE);
		rig_expect(r, 2, BOARD_CLOSED);
		if (round % 20 == 19) {
			assert_int_equal(rig_finish(r, 1), BOARD_LENGTH);
			assert_memory_equal(board_log(&r->board, 1), board_log(&r->board, 0), (PROMPT + 60) * sizeof(int32_t));
		}
	}
	assert_in_range(refused, 10, 59); /* some of it goes unnoticed */
}

/* Takes everything out of the ring and gives credit up to `until`; returns how many positions it heard of. */
static uint32_t drain(struct rig *r, uint32_t slot, uint32_t until, float *logprobs, float *logits)
{
	struct board_header *h = r->board.header;
	uint32_t heard = 0;
	for (uint64_t head = atomic_load(&h->ring_head), tail = h->ring_tail; tail < head; tail++) {
		const struct board_row *row = board_row(&r->board, tail);
		const float *payload = (const float *)(const void *)(row + 1);
		assert_int_equal(row->slot, slot);
		assert_int_equal(row->run, board_run(r->board.words[slot].want));
		assert_true(row->first + row->count <= PROMPT);
		if (logits != NULL) {
			assert_int_equal(row->count, 1);
			memcpy(logits + (size_t)row->first * r->hp.n_vocab, payload, r->hp.n_vocab * sizeof *logits);
			payload += r->hp.n_vocab;
		}
		memcpy(logprobs + row->first, payload, row->count * sizeof *logprobs);
		heard += row->count;
	}
	atomic_store(&h->ring_tail, h->ring_head);
	atomic_store(&r->board.words[slot].rows_until, until);
	rig_wake(r);
	return heard;
}

static void a_score_run_says_every_position_within_its_credit(void **state)
{
	struct rig *r = *state;
	struct rig_run run = run_of(0);
	run.flags |= BOARD_SCORE;
	float plain[PROMPT], rows[PROMPT], *logits = calloc((size_t)PROMPT * r->hp.n_vocab, sizeof *logits);
	rig_begin(r, 0, &run);
	usleep(20000);
	assert_int_equal(rig_n_kv(r, 0), 0); /* no credit yet */
	drain(r, 0, 13, plain, NULL);
	uint64_t start = clock_ns();
	while (rig_n_kv(r, 0) < 13 && clock_ns() - start < UINT64_C(10000000000))
		rig_listen(r, 100);
	assert_int_equal(rig_n_kv(r, 0), 13);
	uint32_t heard = drain(r, 0, PROMPT, plain, NULL);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(heard + drain(r, 0, 0, plain, NULL), PROMPT - 1);

	run.flags |= BOARD_ROWS;
	rig_begin(r, 0, &run);
	atomic_store(&r->board.words[0].rows_until, PROMPT);
	rig_wake(r);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
	assert_int_equal(drain(r, 0, 0, rows, logits), PROMPT);
	assert_memory_equal(rows, plain, (PROMPT - 1) * sizeof *rows);
	for (uint32_t i = 0; i + 1 < PROMPT; i++) {
		const float *row = logits + (size_t)i * r->hp.n_vocab;
		double sum = 0;
		for (uint32_t j = 0; j < r->hp.n_vocab; j++)
			sum += exp((double)row[j]);
		assert_float_equal(rows[i], (double)row[prompt[i + 1]] - log(sum), 1e-4);
	}
	free(logits);
}

static void a_score_run_longer_than_the_ring_waits_for_falcond_to_take_its_rows(void **state)
{
	struct rig *r = *state;
	int32_t text[120];
	for (int i = 0; i < 120; i++)
		text[i] = prompt[i % PROMPT];
	struct rig_run run = {.owner = 7, .ids = text, .n_ids = 120, .flags = BOARD_SCORE | BOARD_ROWS};
	rig_begin(r, 0, &run);
	atomic_store(&r->board.words[0].rows_until, 120);
	rig_wake(r);
	uint32_t heard = 0;
	uint64_t start = clock_ns();
	while (heard < 120 && clock_ns() - start < UINT64_C(30000000000)) {
		uint64_t head = atomic_load(&r->board.header->ring_head), tail = r->board.header->ring_tail;
		assert_true(head - tail <= BOARD_RING);
		for (; tail < head; tail++)
			assert_int_equal(board_row(&r->board, tail)->first, heard++);
		atomic_store(&r->board.header->ring_tail, tail);
		rig_wake(r);
		rig_listen(r, 50);
	}
	assert_int_equal(heard, 120);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
}

static void a_dense_model_runs_with_either_product_inside_the_cage(void **state)
{
	(void)state;
	int dense_weights = rig_pack("tests/golden/falcon-7b");
	for (uint32_t dense = 0; dense < 2; dense++) {
		struct rig_shape its = shape;
		struct rig r;
		its.dense = dense;
		rig_open(&r, dense_weights, &its);
		rig_start(&r, 2, NULL);
		int32_t ids[PROMPT];
		for (uint32_t i = 0; i < PROMPT; i++)
			ids[i] = (int32_t)(i * 5 % r.hp.n_vocab);
		struct rig_run run = {.owner = 7, .ids = ids, .n_ids = PROMPT, .n = 20, .flags = BOARD_IGNORE_EOS};
		rig_begin(&r, 0, &run);
		assert_int_equal(rig_finish(&r, 0), BOARD_LENGTH);
		rig_close(&r);
	}
	close(dense_weights);
}

static void a_second_engine_is_refused(void **state)
{
	struct rig *r = *state;
	pid_t second = rig_spawn(r, 1, NULL);
	int code;
	assert_int_equal(waitpid(second, &code, 0), second);
	assert_true(WIFEXITED(code));
	assert_int_equal(WEXITSTATUS(code), 1);
	assert_int_equal(r->board.header->ready, r->engine);
	struct rig_run run = run_of(3);
	rig_begin(r, 0, &run);
	assert_int_equal(rig_finish(r, 0), BOARD_LENGTH);
}

static void segments_that_do_not_belong_together_are_refused(void **state)
{
	struct rig *r = *state;
	rig_kill(r);
	for (int kind = 0; kind < 4; kind++) {
		struct pages_header arena;
		struct board_header *board = r->board.header;
		uint8_t *const places[] = {board->set_id, arena.set_id, arena.fingerprint, board->fingerprint};
		uint8_t *damaged = places[kind];
		assert_int_equal(pread(r->pages, &arena, sizeof arena, 0), sizeof arena);
		damaged[3] ^= 1;
		assert_int_equal(pwrite(r->pages, &arena, sizeof arena, 0), sizeof arena);
		pid_t pid = rig_spawn(r, 1, NULL);
		int code;
		assert_int_equal(waitpid(pid, &code, 0), pid);
		assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 1);
		damaged[3] ^= 1;
		assert_int_equal(pwrite(r->pages, &arena, sizeof arena, 0), sizeof arena);
	}
	rig_start(r, 1, NULL);
}

static void an_engine_whose_falcond_is_gone_ends(void **state)
{
	struct rig *r = *state;
	int code;
	close(r->lifeline[1]);
	r->lifeline[1] = -1;
	assert_int_equal(waitpid(r->engine, &code, 0), r->engine);
	assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
	r->engine = 0;

	/* A falcond that is killed takes its engine along even where somebody else holds the lifeline open. */
	assert_int_equal(pipe(r->lifeline), 0);
	pid_t falcond = fork();
	if (falcond == 0) {
		pid_t engine = rig_spawn(r, 1, NULL);
		r->engine = engine;
		while (atomic_load(&r->board.header->ready) != (uint32_t)engine)
			usleep(1000);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(falcond, &code, 0), falcond);
	assert_true(WIFSIGNALED(code));
	pid_t engine = (pid_t)r->board.header->ready;
	uint64_t start = clock_ns();
	while (kill(engine, 0) == 0 && clock_ns() - start < UINT64_C(5000000000)) {
		char path[64], state_letter = 0;
		snprintf(path, sizeof path, "/proc/%d/stat", (int)engine);
		FILE *f = fopen(path, "re");
		if (f == NULL || fscanf(f, "%*d %*s %c", &state_letter) != 1 || state_letter == 'Z') {
			if (f != NULL)
				fclose(f);
			return; /* reaped, or waiting for whoever adopted it to do so */
		}
		fclose(f);
		usleep(1000);
	}
	assert_int_not_equal(kill(engine, 0), 0);
}

static int exit_of(const char *const argv[])
{
	struct err e;
	pid_t pid;
	int code;
	assert_int_equal(spawn("./falcon-engine", argv, NULL, 0, &pid, &e), 0);
	assert_int_equal(waitpid(pid, &code, 0), pid);
	assert_true(WIFEXITED(code));
	return WEXITSTATUS(code);
}

static void an_engine_started_by_hand_says_what_is_missing(void **state)
{
	(void)state;
	assert_int_equal(exit_of((const char *[]){"falcon-engine", NULL}), 2);
	assert_int_equal(exit_of((const char *[]){"falcon-engine", "--serve", NULL}), 2);
	assert_int_equal(exit_of((const char *[]){"falcon-engine", "--serve", "--threads", "0", NULL}), 2);
	assert_int_equal(exit_of((const char *[]){"falcon-engine", "--serve", "--threads", "1", "--pack", "x", NULL}), 2);
	assert_int_equal(exit_of((const char *[]){"falcon-engine", "--pack", "x", "--set-id", "xyz", NULL}), 2);
	assert_int_equal(exit_of((const char *[]){"falcon-engine", "--serve", "--threads", "1", NULL}), 1);
}

#define ON_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_RIG(a_paused_run_stands_still_and_goes_on_when_resumed),
		ON_RIG(a_run_that_is_paused_before_it_was_taken_starts_where_its_record_says),
		ON_RIG(a_cancelled_run_ends_and_a_closed_slot_can_be_used_again),
		ON_RIG(a_session_without_a_page_waits_and_holds_up_nobody),
		ON_RIG(a_run_of_no_tokens_computes_every_given_position),
		ON_RIG(a_run_ends_where_the_context_does),
		ON_RIG(bad_records_end_their_own_run_alone),
		ON_RIG(bad_page_tables_end_their_own_run_alone),
		ON_RIG(random_damage_to_a_slot_harms_no_other),
		ON_RIG(a_score_run_says_every_position_within_its_credit),
		ON_RIG(a_score_run_longer_than_the_ring_waits_for_falcond_to_take_its_rows),
		cmocka_unit_test(a_dense_model_runs_with_either_product_inside_the_cage),
		ON_RIG(a_second_engine_is_refused),
		ON_RIG(segments_that_do_not_belong_together_are_refused),
		ON_RIG(an_engine_whose_falcond_is_gone_ends),
		cmocka_unit_test(an_engine_started_by_hand_says_what_is_missing),
	};
	return cmocka_run_group_tests(tests, pack_once, close_weights);
}
