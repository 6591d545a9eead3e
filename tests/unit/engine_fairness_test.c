/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one user's sessions cost another's, counted in steps of a real engine, not in time: how long a step may be is the business
 * of engine_schedule_test.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/rig.h"

enum { CONTEXT = 2048, PROMPT = 1900, GENERATED = 1900 };

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

static void open_engine(struct rig *r)
{
	const struct rig_shape shape = {.n_slots = 4, .n_context = CONTEXT, .n_pages = 256, .chunk_ms = 2};
	rig_open(r, weights, &shape);
	rig_start(r, 1, NULL);
}

static void generate(struct rig *r, uint32_t slot, uint64_t owner, uint32_t priority)
{
	const struct rig_run run = {.owner = owner, .ids = prompt, .n_ids = 1, .n = GENERATED, .flags = BOARD_IGNORE_EOS, .temp = 1,
		.seed = slot, .priority = priority};
	rig_begin(r, slot, &run);
}

static void begin_prompt(struct rig *r, uint32_t slot, uint64_t owner)
{
	const struct rig_run run = {.owner = owner, .ids = prompt, .n_ids = PROMPT, .n = 1, .flags = BOARD_IGNORE_EOS};
	rig_begin(r, slot, &run);
}

/* How far slots are, and how many steps were done, at one moment. */
struct moment {
	uint64_t steps;
	uint32_t tokens[4], computed[4];
};

static struct moment look(const struct rig *r, uint32_t n_slots)
{
	struct moment m = {0};
	int status;
	kill(r->engine, SIGSTOP);
	assert_int_equal(waitpid(r->engine, &status, WUNTRACED), r->engine);
	m.steps = r->board.header->step / 2;
	for (uint32_t i = 0; i < n_slots; i++) {
		m.tokens[i] = rig_n_tokens(r, i);
		m.computed[i] = rig_n_kv(r, i);
	}
	kill(r->engine, SIGCONT);
	return m;
}

static void a_long_prompt_takes_no_step_from_another_user_who_generates(void **state)
{
	(void)state;
	struct rig r;
	open_engine(&r);
	generate(&r, 0, 1, BOARD_INTERACTIVE);
	rig_expect_tokens(&r, 0, 10);
	begin_prompt(&r, 1, 2);
	rig_expect_taken(&r, 1);
	struct moment before = look(&r, 2), now;
	do {
		usleep(1000);
		now = look(&r, 2);
	} while (now.computed[1] < PROMPT / 2 && now.tokens[0] < GENERATED);
	assert_true(now.computed[1] > before.computed[1]);
	uint64_t steps = now.steps - before.steps, tokens = now.tokens[0] - before.tokens[0];
	assert_true(steps > 1);
	/* The last step's token may be published when the step is not yet counted, or the first one's. */
	assert_true(tokens + 1 >= steps && tokens <= steps + 1);
	rig_close(&r);
}

static void a_batch_session_gets_on_beside_interactive_ones_which_miss_no_step(void **state)
{
	(void)state;
	struct rig r;
	open_engine(&r);
	generate(&r, 0, 1, BOARD_BATCHED);
	generate(&r, 1, 1, BOARD_INTERACTIVE);
	rig_expect_tokens(&r, 1, 10);
	struct moment before = look(&r, 2), now;
	do {
		usleep(1000);
		now = look(&r, 2);
	} while (now.tokens[0] < before.tokens[0] + 20 && now.tokens[1] < GENERATED);
	assert_true(now.tokens[0] >= before.tokens[0] + 20);
	uint64_t steps = now.steps - before.steps, tokens = now.tokens[1] - before.tokens[1];
	assert_true(tokens + 1 >= steps && tokens <= steps + 1);
	assert_int_equal(rig_finish(&r, 1), BOARD_LENGTH);
	rig_close(&r);
}

static void owners_compute_their_prompts_side_by_side(void **state)
{
	(void)state;
	struct rig r;
	open_engine(&r);
	/* Three prompts of one owner and one of another, which comes last. */
	for (uint32_t i = 0; i < 3; i++)
		begin_prompt(&r, i, 1);
	begin_prompt(&r, 3, 2);
	rig_expect_taken(&r, 3);
	struct moment now;
	do {
		usleep(1000);
		now = look(&r, 4);
	} while (now.computed[3] < PROMPT);
	/* All three had together no more than the one, but for what was done before it came and a quantum. */
	uint32_t others = now.computed[0] + now.computed[1] + now.computed[2];
	assert_true(others < 2 * PROMPT);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_long_prompt_takes_no_step_from_another_user_who_generates),
		cmocka_unit_test(a_batch_session_gets_on_beside_interactive_ones_which_miss_no_step),
		cmocka_unit_test(owners_compute_their_prompts_side_by_side),
	};
	return cmocka_run_group_tests(tests, pack_once, close_weights);
}
