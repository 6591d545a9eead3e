/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine is stopped and killed between any two stores to the board: at every stopping place that its sources name, the first
 * time that it is passed and later. Generating, scoring, cancelling and dropping then go on as if nothing had happened.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/hooks.h"
#include "tests/support/streams.h"
#include "tests/support/wire.h"

enum { STREAMS = 3, TOKENS = 40, SCORED = 50 };

/* What clients do meanwhile; what they got is in `s` and `logprobs`. */
struct work {
	struct streams s;
	json_t *logprobs;
};

static json_t *score(int c, const char *name)
{
	char ids[SCORED * 6] = "7";
	size_t length = 1;
	for (int i = 1; i < SCORED; i++)
		length += (size_t)snprintf(ids + length, sizeof ids - length, ",%d", 300 + i * 17);
	json_t *r = wire_ask(c, "{\"op\":\"score\",\"request_id\":\"%s\",\"ids\":[%s]}", name, ids), *all = json_array();
	char *session = strdup(json_string_value(json_object_get(r, "session")));
	json_decref(r);
	long long cursor = 0;
	for (bool done = false; !done;) {
		r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		assert_null(json_object_get(r, "error"));
		json_array_extend(all, json_object_get(r, "logprobs"));
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
		json_decref(r);
	}
	json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s\"}", session));
	free(session);
	return all;
}

static void cancel(int c, const char *name)
{
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"ids\":[7],\"n\":1000,\"ignore_eos\":true}", name,
			     name));
	json_t *r = wire_ask(c, "{\"op\":\"cancel\",\"session\":\"%s\"}", name);
	assert_true(json_is_integer(json_object_get(r, "cursor")));
	json_decref(r);
	json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s\"}", name));
}

static void do_work(struct work *w, int c, const char *prefix)
{
	char name[64];
	streams_begin(&w->s, c, prefix, STREAMS, TOKENS);
	snprintf(name, sizeof name, "%s-score", prefix);
	w->logprobs = score(c, name);
	snprintf(name, sizeof name, "%s-cancel", prefix);
	cancel(c, name);
	streams_finish(&w->s);
}

static void work_done(struct work *w)
{
	streams_done(&w->s);
	json_decref(w->logprobs);
}

/* A process of its own that kills whatever stops at the armed place. */
static pid_t start_guard(struct hooks *h)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		pid_t stopped = hooks_await_stopped(h, 1000);
		if (stopped > 0)
			kill(stopped, SIGKILL);
	}
}

static void nothing_is_lost_wherever_the_engine_is_killed(void **state)
{
	static const uint32_t passes[] = {0, 2};
	(void)state;
	struct daemon d;
	struct hooks *h = hooks_start(&d, NULL);
	struct work quiet, killed;
	int c = wire_open(d.path), reached = 0;
	do_work(&quiet, c, "quiet");
	assert_int_equal(json_array_size(quiet.logprobs), SCORED - 1);
	pid_t guard = start_guard(h);
	char **places = hooks_places("engine");
	for (int i = 0; places[i] != NULL; i++, reached++)
		for (size_t k = 0; k < sizeof passes / sizeof passes[0]; k++) {
			hooks_arm(h, places[i], passes[k], 1, SIGSTOP);
			assert_int_equal(kill(streams_engine(c), SIGKILL), 0); /* some are passed at start */
			do_work(&killed, c, "killed");
			if (passes[k] == 0 && atomic_load(&h->times) != 0)
				fail_msg("%s was never passed", places[i]);
			streams_expect_equal(&killed.s, &quiet.s, -1);
			if (!json_equal(killed.logprobs, quiet.logprobs))
				fail_msg("killed at %s, what was scored differs", places[i]);
			work_done(&killed);
		}
	assert_true(reached >= 15);
	hooks_disarm(h);
	kill(guard, SIGKILL);
	assert_int_equal(waitpid(guard, NULL, 0), guard);
	free(places);
	work_done(&quiet);
	assert_int_equal(streams_status(c, "engine", "crashes"), 0);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	hooks_done(h);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_wherever_the_engine_is_killed),
	};
	return cmocka_run_group_tests_name("places", tests, NULL, NULL);
}
