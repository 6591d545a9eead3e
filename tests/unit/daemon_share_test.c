/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts with a common beginning against one falcond. The engine is stopped while requests arrive, so that they are together
 * whatever the machine is doing. What a session says may not depend on who computed the beginning of its prompt.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { PREFIX = 1000, OWN = 3, PROMPT = PREFIX + OWN, FULL = PREFIX / 32, SHARED = FULL * 32, N = 8 };

static struct daemon d;
static int c; /* a connection */

static long long number(const json_t *reply, const char *field)
{
	const json_t *v = json_object_get(reply, field);
	if (!json_is_integer(v))
		fail_msg("no number %s in %s", field, json_dumps(reply, 0));
	return json_integer_value(v);
}

static long long counter(const char *group, const char *field)
{
	json_t *status = wire_get(c, "{\"op\":\"status\"}");
	long long n = number(json_object_get(status, group), field);
	json_decref(status);
	return n;
}

/* A run of the text's beginning, the same for all of one text, and three tokens that `own` makes. Returns its n_cached. */
static long long generate(const char *session, unsigned text, unsigned own, unsigned seed)
{
	struct buf ids = {0};
	for (unsigned i = 0; i < PREFIX; i++)
		buf_printf(&ids, "%u,", 300 + (text * 37 + i * i) % 3000);
	json_t *r = wire_get(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"ids\":[%s%u,%u,%u],\"n\":%d,\"temp\":1,"
				     "\"top_k\":0,\"top_p\":1,\"seed\":%u,\"ignore_eos\":true}", session, session, ids.data, 400 + own,
				  500 + own, 600 + own, N, seed);
	long long cached = number(r, "n_cached");
	buf_done(&ids);
	json_decref(r);
	return cached;
}

static json_t *read_whole(const char *session)
{
	json_t *ids = json_array();
	long long cursor = 0;
	for (bool done = false; !done;) {
		json_t *r = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		json_array_extend(ids, json_object_get(r, "ids"));
		cursor = number(r, "cursor");
		done = json_is_true(json_object_get(r, "done"));
		json_decref(r);
	}
	return ids;
}

static void drop(const char *session)
{
	json_decref(wire_get(c, "{\"op\":\"drop\",\"session\":\"%s\"}", session));
}

static pid_t engine(void)
{
	return (pid_t)counter("engine", "pid");
}

/* The session says what `expected` says, which is let go of. */
static void expect_read(const char *session, json_t *expected)
{
	json_t *ids = read_whole(session);
	assert_int_equal(json_array_size(ids), N);
	assert_true(json_equal(ids, expected));
	json_decref(ids);
	json_decref(expected);
}

static void thirty_two_prompts_that_arrive_together_have_their_beginning_computed_once(void **state)
{
	(void)state;
	enum { SESSIONS = 32 };
	char name[16];
	long long prefill = counter("tokens", "prefill"), cached = counter("tokens", "cached"), pages = counter("pages", "free");
	pid_t pid = engine();
	assert_int_equal(kill(pid, SIGSTOP), 0);
	for (unsigned i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof name, "s%u", i);
		assert_int_equal(generate(name, 1, i, i), i == 0 ? 0 : SHARED);
	}
	assert_int_equal(kill(pid, SIGCONT), 0);
	for (unsigned i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof name, "s%u", i);
		json_decref(read_whole(name));
	}
	/* A prompt's last token counts as decoded where it was left over for a step of its own. */
	enum { COMPUTED = PROMPT + (SESSIONS - 1) * (PROMPT - SHARED) };
	assert_in_range(counter("tokens", "prefill") - prefill, COMPUTED - SESSIONS, COMPUTED);
	assert_int_equal(counter("tokens", "cached") - cached, (SESSIONS - 1) * SHARED);
	assert_int_equal(pages - counter("pages", "free"), FULL + SESSIONS); /* one copy, and a page of its own each */
	for (unsigned i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof name, "s%u", i);
		drop(name);
	}
}

static void a_prompt_sent_again_says_the_same_and_computes_only_what_is_new(void **state)
{
	(void)state;
	assert_int_equal(generate("cold", 2, 0, 77), 0);
	json_t *cold = read_whole("cold");
	assert_int_equal(generate("beside", 2, 0, 77), SHARED);
	expect_read("beside", json_incref(cold));
	drop("beside");
	drop("cold");
	/* Nobody has it any more, and it is still there. */
	assert_int_equal(generate("again", 2, 0, 77), SHARED);
	expect_read("again", cold);
	drop("again");
}

static void a_run_that_waits_for_another_goes_on_when_that_is_cancelled(void **state)
{
	(void)state;
	static const char cancel[] = "{\"op\":\"cancel\",\"session\":\"first\"}";
	pid_t pid = engine();
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(generate("first", 3, 0, 1), 0);
	assert_int_equal(generate("second", 3, 0, 5), SHARED);
	assert_int_equal(generate("third", 3, 0, 5), SHARED);
	int other = wire_open(d.path); /* is answered once the engine has seen it */
	assert_true(wire_send(other, cancel, sizeof cancel - 1));
	counter("tokens", "cached");
	assert_int_equal(kill(pid, SIGCONT), 0);
	json_decref(wire_good(wire_receive(other)));
	close(other);
	json_t *second = read_whole("second");
	expect_read("third", second);
	drop("first");
	drop("second");
	drop("third");
}

static void an_engine_that_dies_changes_nothing_for_those_that_wait(void **state)
{
	(void)state;
	pid_t pid = engine();
	assert_int_equal(kill(pid, SIGSTOP), 0);
	generate("first", 4, 0, 9);
	assert_int_equal(generate("second", 4, 0, 9), SHARED);
	assert_int_equal(kill(pid, SIGKILL), 0);
	json_t *first = read_whole("first");
	assert_int_equal(json_array_size(first), N);
	expect_read("second", first);
	assert_int_not_equal(engine(), pid);
	drop("first");
	drop("second");
}

static void a_score_uses_nothing_that_is_there_already(void **state)
{
	(void)state;
	long long prefill;
	struct buf ids = {0};
	generate("there", 5, 0, 1);
	json_decref(read_whole("there"));
	for (unsigned i = 0; i < 100; i++)
		buf_printf(&ids, "%s%u", i ? "," : "", 300 + (5 * 37 + i * i) % 3000);
	prefill = counter("tokens", "prefill");
	json_t *r = wire_get(c, "{\"op\":\"score\",\"request_id\":\"score\",\"ids\":[%s]}", ids.data);
	json_t *session = json_object_get(r, "session"), *scored = json_array();
	for (long long at = 0; json_array_size(scored) < 99;) {
		json_t *next = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}",
					     json_string_value(session), at);
		json_array_extend(scored, json_object_get(next, "logprobs"));
		at = number(next, "cursor");
		json_decref(next);
	}
	assert_true(counter("tokens", "prefill") - prefill >= 99);
	buf_done(&ids);
	json_decref(scored);
	json_decref(r);
	drop("there");
}

static int start(void **state)
{
	(void)state;
	daemon_start(&d, NULL);
	c = wire_open(d.path);
	return c < 0;
}

static int stop(void **state)
{
	(void)state;
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(thirty_two_prompts_that_arrive_together_have_their_beginning_computed_once),
		cmocka_unit_test(a_prompt_sent_again_says_the_same_and_computes_only_what_is_new),
		cmocka_unit_test(a_run_that_waits_for_another_goes_on_when_that_is_cancelled),
		cmocka_unit_test(an_engine_that_dies_changes_nothing_for_those_that_wait),
		cmocka_unit_test(a_score_uses_nothing_that_is_there_already),
	};
	return cmocka_run_group_tests_name("daemon_share", tests, start, stop);
}
