/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drawn text is a function of its prompt, parameters and seed: at temperature 1, where the last bit of a logit can turn a
 * token, a session of falcond gets the tokens that plain C on one thread gives it alone, whatever the instruction set and the
 * threads, and while up to 31 others join and leave. tests/unit/invariance_test.c compares the logits themselves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { N = 64 };

static json_t *expected; /* the tokens of plain C */

/* A reply that is no error. */
/* Prompts of 8 to 47 ids, so that others also prefill while the session generates; the run is longer than the session's. */
static void join(int c, unsigned number)
{
	char ids[256] = "";
	int length = 0;
	for (unsigned i = 0; i < 8 + number * 13 % 40; i++)
		length += snprintf(ids + length, sizeof ids - (size_t)length, "%s%u", i ? "," : "",
				   300 + (number * 31 + i * 17) % 600);
	json_decref(wire_get(c, "{\"op\":\"generate\",\"session\":\"other%u\",\"request_id\":\"%u\",\"ids\":[%s],\"n\":%u,"
				     "\"temp\":0.7,\"seed\":%u,\"ignore_eos\":true}", number, number, ids, 4 * N, number));
}

static void leave(int c, unsigned number)
{
	json_decref(wire_get(c, "{\"op\":\"drop\",\"session\":\"other%u\"}", number));
}

/*
 * Runs the session beside others: half of them are there before it, the rest join at one token each of its own, and at every
 * third token one that was there leaves. Its tokens.
 */
static json_t *run_beside(int c, unsigned others)
{
	unsigned joined = 0, left = 0;
	while (joined < others / 2)
		join(c, joined++);
	json_t *r = wire_get(c, "{\"op\":\"generate\",\"session\":\"mine\",\"request_id\":\"mine\",\"prompt\":\"Once "
				     "upon a time there was a king who had three sons, and the youngest of them was called\","
				     "\"n\":%d,\"temp\":1,\"top_k\":0,\"top_p\":1,\"min_p\":0,\"seed\":20240229,"
				     "\"ignore_eos\":true}", N);
	long long cursor = json_integer_value(json_object_get(r, "cursor"));
	json_t *ids = json_array();
	for (bool done = false; !done;) {
		json_decref(r);
		r = wire_get(c, "{\"op\":\"next\",\"session\":\"mine\",\"cursor\":%lld,\"wait_ms\":20000}", cursor);
		json_array_extend(ids, json_object_get(r, "ids"));
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
		size_t n = json_array_size(ids);
		while (joined < others && others / 2 + n > joined)
			join(c, joined++);
		while (left < others / 2 && n / 3 > left)
			leave(c, left++);
	}
	json_decref(r);
	json_decref(wire_get(c, "{\"op\":\"drop\",\"session\":\"mine\"}"));
	while (left < joined)
		leave(c, left++);
	return ids;
}

static void expect_same(int c, unsigned others, const char *isa, unsigned threads)
{
	json_t *got = run_beside(c, others), *status = wire_ask(c, "{\"op\":\"status\"}");
	if (!json_equal(got, expected))
		fail_msg("%s, %u threads, %u others: %s, not %s", isa, threads, others, json_dumps(got, JSON_COMPACT),
			 json_dumps(expected, JSON_COMPACT));
	assert_true(json_is_true(json_object_get(status, "batch_invariant")));
	assert_int_equal(json_integer_value(json_object_get(status, "threads")), threads);
	assert_true(json_integer_value(json_object_get(status, "batch_max")) > (json_int_t)others / 2);
	json_decref(status);
	json_decref(got);
}

/* A falcond held to an instruction set; the connection. */
static int start(struct daemon *d, const char *isa, unsigned threads)
{
	assert_int_equal(setenv("FALCON_ISA", isa, 1), 0);
	daemon_prepare(d);
	d->threads = threads;
	daemon_launch(d, NULL);
	daemon_expect(d, "ready: ");
	int c = wire_open(d->path);
	assert_true(c >= 0);
	return c;
}

static void stop(struct daemon *d, int c)
{
	close(c);
	assert_int_equal(daemon_stop(d), 0);
	daemon_clean(d);
}

static int know_plain_c(void **state)
{
	(void)state;
	struct daemon d;
	int c = start(&d, "portable", 1);
	expected = run_beside(c, 0);
	stop(&d, c);
	return 0;
}

static void a_drawn_text_varies(void **state)
{
	(void)state;
	size_t changes = 0;
	assert_int_equal(json_array_size(expected), N);
	for (size_t i = 1; i < N; i++)
		changes += !json_equal(json_array_get(expected, i), json_array_get(expected, i - 1));
	assert_true(changes > N / 2);
}

/* Where the CPU has not got one of them, the best below it stands in. */
static void others_threads_and_instruction_sets_change_no_token(void **state)
{
	(void)state;
	static const struct { const char *isa; unsigned threads, others[3]; } cases[] = {
		{"avx2", 3, {1, 7}}, {"avx512", 1, {1, 31}}, {"amx", 2, {0, 7, 31}}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct daemon d;
		int c = start(&d, cases[i].isa, cases[i].threads);
		for (size_t j = 0; j < 3; j++)
			if (j == 0 || cases[i].others[j])
				expect_same(c, cases[i].others[j], cases[i].isa, cases[i].threads);
		stop(&d, c);
	}
}

static int forget(void **state)
{
	(void)state;
	json_decref(expected);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_drawn_text_varies),
		cmocka_unit_test(others_threads_and_instruction_sets_change_no_token),
	};
	return cmocka_run_group_tests(tests, know_plain_c, forget);
}
