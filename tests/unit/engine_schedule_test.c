/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/schedule.h"

static const struct schedule_limits limits = {.spans = 256, .tokens = 512, .prompt = 128};

static void everybody_who_generates_gets_a_token_before_any_prompt(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[] = {
		{.owner = 1, .ready = 10000, .rank = 10000}, {.owner = 1, .ready = 1, .decode = true},
		{.owner = 2, .ready = 1, .decode = true},    {.owner = 3, .ready = 5, .rank = 5},
	};
	schedule_share(&s, items, 4, limits);
	assert_int_equal(items[1].n, 1);
	assert_int_equal(items[2].n, 1);
	assert_int_equal(items[3].n, 5);
	assert_int_equal(items[0].n, 128 - 5);
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
	for (int step = 0; step < 50; step++) {
		schedule_share(&s, items, 9, (struct schedule_limits){.spans = 256, .tokens = 512, .prompt = 96});
		for (int i = 0; i < 9; i++)
			got[i == 8] += items[i].n;
	}
	assert_int_equal(got[0], got[1]);
}

static void a_step_without_room_for_all_serves_them_in_turn(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[40];
	uint32_t got[40] = {0};
	for (uint32_t i = 0; i < 40; i++)
		items[i] = (struct schedule_item){.owner = i % 4, .ready = 1, .decode = true};
	for (uint32_t step = 1; step <= 10; step++) {
		schedule_share(&s, items, 40, (struct schedule_limits){.spans = 8, .tokens = 512, .prompt = 128});
		uint32_t sum = 0;
		for (uint32_t i = 0; i < 40; i++) {
			sum += items[i].n;
			got[i] += items[i].n;
			items[i].rank = items[i].n ? step : items[i].rank;
		}
		assert_int_equal(sum, 8);
	}
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(got[i], 2);
}

static void prompts_go_on_beside_more_generating_sessions_than_fit(void **state)
{
	(void)state;
	struct schedule s = {0};
	struct schedule_item items[300];
	for (uint32_t i = 0; i < 300; i++)
		items[i] = (struct schedule_item){.owner = 1, .ready = 1, .decode = true};
	items[299] = (struct schedule_item){.owner = 2, .ready = 64, .rank = 64};
	schedule_share(&s, items, 300, limits);
	assert_int_equal(items[299].n, 64);
	uint32_t sum = 0;
	for (uint32_t i = 0; i < 299; i++)
		sum += items[i].n;
	assert_int_equal(sum, 224);
}

static void no_limit_is_ever_exceeded(void **state)
{
	(void)state;
	struct schedule s = {0};
	uint32_t seed = 1;
	for (int round = 0; round < 2000; round++) {
		struct schedule_item items[48];
		uint32_t n = 1 + round % 48, tokens = 0, spans = 0, prompt = 0;
		struct schedule_limits l = {.spans = 1 + round % 20, .tokens = 40 + round % 100, .prompt = 1 + round % 70};
		for (uint32_t i = 0; i < n; i++) {
			seed = seed * 1664525 + 1013904223;
			items[i] = (struct schedule_item){.owner = seed >> 29, .decode = seed >> 28 & 1, .rank = seed >> 8};
			items[i].ready = items[i].decode ? 1 : 1 + (seed >> 16 & 255);
		}
		schedule_share(&s, items, n, l);
		for (uint32_t i = 0; i < n; i++) {
			assert_true(items[i].n <= items[i].ready);
			tokens += items[i].n;
			spans += items[i].n > 0;
			prompt += items[i].decode ? 0 : items[i].n;
		}
		assert_true(tokens > 0 && tokens <= l.tokens && spans <= l.spans && prompt <= l.prompt);
	}
}

static void a_prompt_chunk_fits_its_time_once_that_is_known(void **state)
{
	(void)state;
	struct schedule s = {0};
	assert_int_equal(schedule_prompt(&s, 100, true), 32);
	assert_int_equal(schedule_prompt(&s, 100, false), 128);
	for (int i = 0; i < 20; i++)
		schedule_measure(&s, 64, 64, 64 * 250000);
	assert_in_range(schedule_prompt(&s, 100, true), 396, 400);
	schedule_measure(&s, 4, 4, 1000000000); /* a few tokens say nothing about a prompt's */
	assert_in_range(schedule_prompt(&s, 100, true), 396, 400);
	for (int i = 0; i < 40; i++)
		schedule_measure(&s, 64, 64, 64 * UINT64_C(50000000));
	assert_int_equal(schedule_prompt(&s, 100, true), 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everybody_who_generates_gets_a_token_before_any_prompt),
		cmocka_unit_test(an_owner_gains_nothing_by_opening_many_sessions),
		cmocka_unit_test(a_step_without_room_for_all_serves_them_in_turn),
		cmocka_unit_test(prompts_go_on_beside_more_generating_sessions_than_fit),
		cmocka_unit_test(no_limit_is_ever_exceeded),
		cmocka_unit_test(a_prompt_chunk_fits_its_time_once_that_is_known),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
