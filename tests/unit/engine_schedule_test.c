/* SPDX-License-Identifier: Apache-2.0 */
/* Shares of a step, over a machine made up for the purpose: a step takes FIXED ns, and each row beyond FREE of them ROW ns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/schedule.h"

static const struct schedule_limits limits = {.spans = 256, .tokens = 512, .chunk_ns = 50e6f};

static const float FIXED = 20e6f, FREE = 4, ROW = 4e6f;

static float machine(float rows)
{
	return FIXED + (rows > FREE ? rows - FREE : 0) * ROW;
}

static uint32_t total(const struct schedule_item *items, uint32_t n)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += items[i].n;
	return sum;
}

/* Shares a step out and lets it pass. Returns its ns. */
static float step(struct schedule *s, struct schedule_item *items, uint32_t n, struct schedule_limits l)
{
	schedule_share(s, items, n, l);
	float ns = machine(s->rows);
	schedule_measure(s, (uint64_t)ns);
	return ns;
}

static void everybody_who_generates_gets_a_token_before_any_prompt(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[] = {
		{.owner = 1, .ready = 10000, .rank = 10000}, {.owner = 1, .ready = 1, .decode = true},
		{.owner = 2, .ready = 1, .decode = true},    {.owner = 3, .ready = 5, .rank = 5},
	};
	/* What the two take alone is not known: the first step shows it. */
	step(&s, items, 4, limits);
	assert_int_equal(total(items, 4), 2);
	for (int i = 0; i < 20; i++) {
		schedule_share(&s, items, 4, limits);
		assert_int_equal(items[1].n, 1);
		assert_int_equal(items[2].n, 1);
		assert_true(items[0].n + items[3].n > 0);
		schedule_measure(&s, (uint64_t)machine(s.rows));
	}
	schedule_done(&s);
}

static void a_prompt_adds_no_more_than_chunk_ms_to_a_step_from_the_first_step_on(void **state)
{
	(void)state;
	static const float chunks[] = {10e6f, 50e6f, 200e6f};
	for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
		struct schedule s = {0};
		struct schedule_item items[] = {{.owner = 1, .ready = 10000}, {.owner = 2, .ready = 1, .decode = true}};
		struct schedule_limits l = limits;
		uint32_t last = 0;
		l.chunk_ns = chunks[c];
		for (int i = 0; i < 40; i++) {
			float ns = step(&s, items, 2, l);
			assert_true(ns <= machine(1) + 1.02f * l.chunk_ns);
			last = items[0].n;
		}
		/* And it comes near to what would fit. */
		float fits = FREE - 1 + l.chunk_ns / ROW;
		assert_true((float)last > 0.6f * fits);
		schedule_done(&s);
	}
}

static void deep_in_a_context_a_chunk_has_fewer_tokens(void **state)
{
	(void)state;
	struct schedule s = {.pace = {.deep = 1000}};
	struct schedule_item items[] = {{.owner = 1, .ready = 10000}, {.owner = 2, .ready = 1, .decode = true}};
	for (int i = 0; i < 40; i++)
		step(&s, items, 2, limits);
	uint32_t shallow = items[0].n;
	items[0].first = 3000;
	assert_true(step(&s, items, 2, limits) <= machine(1) + 1.02f * limits.chunk_ns);
	assert_in_range(items[0].n, shallow / 4, shallow / 4 + 1);
	schedule_done(&s);
}

static void a_chunk_grows_again_where_rows_cost_less_than_they_did(void **state)
{
	(void)state;
	struct schedule s = {.pace = {.deep = 1000}};
	struct schedule_item items[] = {{.owner = 1, .ready = 10000}, {.owner = 2, .ready = 1, .decode = true}};
	for (int i = 0; i < 40; i++)
		step(&s, items, 2, limits);
	items[0].first = 6000; /* seven rows a token: one more goes far beyond what the last steps had */
	for (int i = 0; i < 400; i++) {
		schedule_share(&s, items, 2, limits);
		schedule_measure(&s, (uint64_t)(machine(s.rows) / 3));
	}
	/* 5.8 would fit. */
	assert_in_range(items[0].n, 4, 6);
	schedule_done(&s);
}

static void a_token_at_any_depth_fits_in_the_end(void **state)
{
	(void)state;
	struct schedule s = {.pace = {.deep = 10}};
	struct schedule_item items[] = {{.owner = 1, .ready = 10000, .first = 100000}, {.owner = 2, .ready = 1, .decode = true}};
	uint32_t sum = 0;
	for (int i = 0; i < 4; i++) {
		step(&s, items, 2, (struct schedule_limits){.spans = 256, .tokens = 512, .chunk_ns = 1});
		sum += items[0].n;
	}
	assert_int_equal(sum, 3);
	schedule_done(&s);
}

static void an_owner_gains_nothing_by_opening_many_sessions(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[9];
	for (int i = 0; i < 8; i++)
		items[i] = (struct schedule_item){.owner = 1, .ready = 1000, .rank = 1000};
	items[8] = (struct schedule_item){.owner = 2, .ready = 1000, .rank = 1000};
	uint64_t got[2] = {0};
	for (int i = 0; i < 200; i++) {
		step(&s, items, 9, limits);
		for (int j = 0; j < 9; j++)
			got[j == 8] += items[j].n;
	}
	assert_true(got[0] < got[1] + 100 && got[1] < got[0] + 100 && got[0] > 1000);
	schedule_done(&s);
}

static void generated_tokens_are_paid_for_by_prompts_of_the_same_owner(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[12];
	for (int i = 0; i < 10; i++)
		items[i] = (struct schedule_item){.owner = 1, .ready = 1, .decode = true};
	items[10] = (struct schedule_item){.owner = 1, .ready = 10000};
	items[11] = (struct schedule_item){.owner = 2, .ready = 10000};
	uint64_t got[2] = {0}, generated = 0;
	for (int i = 0; i < 400; i++) {
		step(&s, items, 12, (struct schedule_limits){.spans = 256, .tokens = 512, .chunk_ns = 200e6f});
		got[0] += items[10].n;
		got[1] += items[11].n;
		generated += total(items, 10);
	}
	assert_int_equal(generated, 4000);
	/* Together they have the same: the ten that generate cost their owner's prompt as many tokens. */
	assert_true(got[0] + generated < got[1] + 100 && got[1] < got[0] + generated + 100);
	schedule_done(&s);
}

static void batch_sessions_have_an_eighth_of_the_time_beside_interactive_ones_and_all_of_it_alone(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[] = {
		{.owner = 1, .ready = 1, .decode = true},
		{.owner = 2, .ready = 1, .decode = true, .batch = true},
		{.owner = 3, .ready = 10000, .batch = true},
	};
	float with = 0;
	uint32_t tokens = 0, generated = 0;
	for (int i = 0; i < 400; i++) {
		with += step(&s, items, 3, limits);
		assert_int_equal(items[0].n, 1);
		generated += items[1].n;
		tokens += items[2].n;
	}
	assert_true(generated > 40 && tokens > 40);
	assert_true(with < 400 * machine(1) * 8 / 7 * 1.05f);
	step(&s, items + 1, 2, limits);
	assert_int_equal(items[1].n, 1);
	for (int i = 0; i < 20; i++)
		step(&s, items + 1, 2, limits);
	assert_true(items[2].n > 10);
	schedule_done(&s);
}

static void a_step_without_room_for_all_serves_them_in_turn(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[40];
	uint32_t got[40] = {0};
	for (uint32_t i = 0; i < 40; i++)
		items[i] = (struct schedule_item){.owner = i % 4, .ready = 1, .decode = true};
	for (uint32_t i = 1; i <= 10; i++) {
		step(&s, items, 40, (struct schedule_limits){.spans = 8, .tokens = 512, .chunk_ns = 50e6f});
		assert_int_equal(total(items, 40), 8);
		for (uint32_t j = 0; j < 40; j++) {
			got[j] += items[j].n;
			items[j].rank = items[j].n ? i : items[j].rank;
		}
	}
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(got[i], 2);
	schedule_done(&s);
}

static void prompts_go_on_beside_more_generating_sessions_than_fit(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[300];
	for (uint32_t i = 0; i < 300; i++)
		items[i] = (struct schedule_item){.owner = 1, .ready = 1, .decode = true};
	items[299] = (struct schedule_item){.owner = 2, .ready = 64, .rank = 64};
	step(&s, items, 300, limits);
	assert_int_equal(total(items, 299), 224);
	step(&s, items, 300, limits);
	assert_true(items[299].n > 0);
	assert_int_equal(total(items, 299), 224);
	schedule_done(&s);
}

static void no_limit_is_ever_exceeded(void **state)
{
	(void)state;
	struct schedule s = {.pace = {.deep = 500}};
	uint32_t seed = 1, given = 0;
	for (int round = 0; round < 2000; round++) {
		struct schedule_item items[48];
		uint32_t n = 1 + round % 48, spans = 0;
		struct schedule_limits l = {.spans = 1 + round % 20, .tokens = 40 + round % 100, .chunk_ns = 1e6f * (float)(round % 99)};
		for (uint32_t i = 0; i < n; i++) {
			seed = seed * 1664525 + 1013904223;
			items[i] = (struct schedule_item){.owner = seed >> 29, .decode = seed >> 28 & 1, .rank = seed >> 8,
				.batch = seed >> 27 & 1, .first = seed >> 20 & 1023};
			items[i].ready = items[i].decode ? 1 : 1 + (seed >> 16 & 255);
		}
		step(&s, items, n, l);
		for (uint32_t i = 0; i < n; i++) {
			assert_true(items[i].n <= items[i].ready);
			spans += items[i].n > 0;
		}
		given += total(items, n);
		assert_true(total(items, n) > 0 && total(items, n) <= l.tokens && spans <= l.spans);
	}
	assert_true(given > 20000);
	schedule_done(&s);
}

static void a_prompt_that_nobody_waits_for_fills_the_step(void **state)
{
	(void)state;
	struct schedule s = {0};
	for (int i = 0; i < 10; i++) {
		struct schedule_item item = {.owner = 1, .ready = 10000};
		step(&s, &item, 1, (struct schedule_limits){.spans = 8, .tokens = 256, .chunk_ns = 1e12f});
		assert_int_equal(item.n, i == 0 ? 32 : 256);
	}
	schedule_done(&s);
}

static void the_pace_between_and_beyond_what_was_measured_is_never_too_fast(void **state)
{
	(void)state;
	struct pace p = {.pass_ns = 3e6f};
	assert_int_equal(pace_expect(&p, 10), 30000001);
	assert_true(pace_ns(&p, 1) == 0 && pace_room(&p, 1, 1e9f) == 0 && !pace_known(&p, 1));
	pace_measure(&p, 1, (uint64_t)machine(1));
	assert_true(pace_ns(&p, 10) >= machine(10));
	assert_true(pace_room(&p, 1, FIXED) <= 1.001f);
	assert_true(pace_room(&p, 0, FIXED / 2) < 1 && pace_room(&p, 0, 3 * machine(1)) > 2.9f);
	for (int i = 0; i < 20; i++) {
		pace_measure(&p, 1, (uint64_t)machine(1));
		pace_measure(&p, 8, (uint64_t)machine(8));
		pace_measure(&p, 64, (uint64_t)machine(64));
	}
	assert_true(pace_known(&p, 1) && pace_known(&p, 8) && !pace_known(&p, 2.9f));
	for (float rows = 1; rows < 500; rows++)
		assert_true(pace_ns(&p, rows) > 0.999f * machine(rows));
	for (float ns = 0; ns < 500e6f; ns += 7e6f) {
		float rows = pace_room(&p, 8, ns);
		assert_true(rows >= 0 && machine(8 + rows) <= machine(8) + 1.001f * ns);
	}
	/* What was measured long ago is to be measured again. */
	for (int i = 0; i < 100; i++)
		pace_measure(&p, 8, (uint64_t)machine(8));
	assert_false(pace_known(&p, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everybody_who_generates_gets_a_token_before_any_prompt),
		cmocka_unit_test(a_prompt_adds_no_more_than_chunk_ms_to_a_step_from_the_first_step_on),
		cmocka_unit_test(deep_in_a_context_a_chunk_has_fewer_tokens),
		cmocka_unit_test(a_chunk_grows_again_where_rows_cost_less_than_they_did),
		cmocka_unit_test(a_token_at_any_depth_fits_in_the_end),
		cmocka_unit_test(an_owner_gains_nothing_by_opening_many_sessions),
		cmocka_unit_test(generated_tokens_are_paid_for_by_prompts_of_the_same_owner),
		cmocka_unit_test(batch_sessions_have_an_eighth_of_the_time_beside_interactive_ones_and_all_of_it_alone),
		cmocka_unit_test(a_step_without_room_for_all_serves_them_in_turn),
		cmocka_unit_test(prompts_go_on_beside_more_generating_sessions_than_fit),
		cmocka_unit_test(no_limit_is_ever_exceeded),
		cmocka_unit_test(a_prompt_that_nobody_waits_for_fills_the_step),
		cmocka_unit_test(the_pace_between_and_beyond_what_was_measured_is_never_too_fast),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
