/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine, or falcond itself, is stopped and killed between any two stores to the board: at every stopping place that its
 * sources name, the first time that it is passed and later. Generating, forking, scoring, cancelling and dropping then go on as
 * if nothing had happened, for clients that ask again where they got no reply.
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

enum { STREAMS = 3, AGAIN = STREAMS, TOKENS = 40, SCORED = 50 }; /* the third prompt is long: its pages are there the second time */

/* What clients do meanwhile; what they got is in `s` and `logprobs`. */
struct work {
	struct streams s, again; /* again: the same once more, after the first are over */
	json_t *logprobs, *forked;
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

/* What a fork of the session, which is over, says after one more token: ids, log-probabilities, those of the likeliest tokens. */
static json_t *fork_of(int c, const char *session)
{
	json_t *r = wire_ask(c, "{\"op\":\"fork\",\"session\":\"%s\",\"new\":\"%s-fork\",\"request_id\":\"%s-fork\"}", session, session, session);
	long long at = json_integer_value(json_object_get(r, "cursor"));
	json_decref(r);
	json_decref(wire_ask(c, "{\"op\":\"append\",\"session\":\"%s-fork\",\"at\":%lld,\"ids\":[5],\"n\":9,\"logprobs\":2}", session, at));
	static const char *const lists[] = {"ids", "logprobs", "top_logprobs"};
	json_t *said = json_pack("[[],[],[]]");
	for (bool done = false; !done; json_decref(r)) {
		r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s-fork\",\"cursor\":%lld,\"wait_ms\":20000}", session, at);
		assert_null(json_object_get(r, "error"));
		for (size_t i = 0; i < 3; i++)
			assert_int_equal(json_array_extend(json_array_get(said, i), json_object_get(r, lists[i])), 0);
		at = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
	}
	json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s-fork\"}", session));
	return said;
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
	snprintf(name, sizeof name, "%s-again", prefix);
	streams_begin(&w->again, c, name, AGAIN, TOKENS);
	streams_finish(&w->again);
	w->forked = fork_of(c, w->s.of[0].name);
}

static void expect_same_work(const struct work *w, const struct work *quiet, const char *place)
{
	print_message("%s\n", place); /* what is seen if it fails */
	streams_expect_equal(&w->s, &quiet->s, -1);
	streams_expect_equal(&w->again, &quiet->again, -1);
	if (!json_equal(w->logprobs, quiet->logprobs) || !json_equal(w->forked, quiet->forked))
		fail_msg("killed at %s, what was scored or forked differs", place);
}

/* What was dropped stays dropped, whoever died meanwhile. */
static void expect_dropped(int c, const char *prefix, const char *place)
{
	size_t i;
	json_t *r = wire_ask(c, "{\"op\":\"sessions\"}"), *s;
	json_array_foreach (json_object_get(r, "sessions"), i, s) {
		const char *name = json_string_value(json_object_get(s, "session"));
		if (strncmp(name, prefix, strlen(prefix)) == 0)
			fail_msg("killed at %s, the dropped session %s is there", place, name);
	}
	json_decref(r);
}

static void work_done(struct work *w)
{
	streams_done(&w->s);
	streams_done(&w->again);
	json_decref(w->logprobs);
	json_decref(w->forked);
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
	static const uint32_t passes[] = {0, 2, 11}; /* the first ones may be of a run's beginning, where there is least to lose */
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
			expect_same_work(&killed, &quiet, places[i]);
			work_done(&killed);
			expect_dropped(c, "killed", places[i]);
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

/* A falcond that is started again over its segments whenever it was killed. */
struct keeper {
	struct daemon d;
	char segments[64], yaml[96];
	unsigned deaths;
};

static void start_again(void *arg, int fd)
{
	struct keeper *k = arg;
	assert_int_equal(daemon_reap(&k->d), -SIGKILL);
	unlink(k->d.log);
	daemon_launch(&k->d, k->yaml);
	daemon_expect(&k->d, "ready: ");
	int c = wire_open(k->d.path);
	assert_true(c >= 0);
	assert_int_equal(dup2(c, fd), fd);
	close(c);
	k->deaths++;
}

static void keeper_end(struct keeper *k)
{
	char lock[96];
	assert_int_equal(daemon_stop(&k->d), 0);
	snprintf(lock, sizeof lock, "%s/lock", k->segments);
	unlink(lock);
	assert_int_equal(rmdir(k->segments), 0);
	daemon_clean(&k->d);
}

/*
 * A place of the search for a session that crashes the engine: one does, twice, and is not guilty of it, for another is in its step for
 * as long as the work takes, whoever else is over by then.
 */
static void provoke_search(struct hooks *h, int c, uint32_t position)
{
	json_decref(wire_get(c, "{\"op\":\"generate\",\"session\":\"beside\",\"request_id\":\"beside\",\"ids\":[7],\"n\":2000,"
				"\"ignore_eos\":true}"));
	hooks_poison(h, "killed-1", position, SIGSEGV, 2);
}

static void nothing_is_lost_wherever_falcond_is_killed(void **state)
{
	static const uint32_t passes[] = {0, 1, 6};
	(void)state;
	struct keeper k = {0};
	struct work quiet, killed;
	int reached = 0;
	struct hooks *h = hooks_prepare(&k.d);
	snprintf(k.segments, sizeof k.segments, "/dev/shm/falcond-test-places-%d", (int)getpid());
	snprintf(k.yaml, sizeof k.yaml, "segments: %s\n", k.segments);
	daemon_launch(&k.d, k.yaml);
	daemon_expect(&k.d, "ready: ");
	int c = wire_open(k.d.path);
	do_work(&quiet, c, "quiet");
	pid_t guard = start_guard(h);
	wire_on_lost(start_again, &k);
	char **places = hooks_places("daemon");
	for (int i = 0; places[i] != NULL; i++, reached++)
		for (size_t j = 0; j < sizeof passes / sizeof passes[0]; j++) {
			unsigned before = k.deaths;
			hooks_arm(h, places[i], passes[j], 1, SIGSTOP);
			if (strstr(places[i], ".trial."))
				provoke_search(h, c, (uint32_t)quiet.s.of[1].given + 10);
			do_work(&killed, c, "killed");
			json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"beside\"}"));
			if (passes[j] == 0 && k.deaths == before)
				fail_msg("%s was never passed", places[i]);
			expect_same_work(&killed, &quiet, places[i]);
			work_done(&killed);
			expect_dropped(c, "killed", places[i]);
		}
	assert_true(reached >= 12);
	hooks_disarm(h);
	kill(guard, SIGKILL);
	assert_int_equal(waitpid(guard, NULL, 0), guard);
	free(places);
	work_done(&quiet);
	wire_on_lost(NULL, NULL);
	close(c);
	keeper_end(&k);
	hooks_done(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_wherever_the_engine_is_killed),
		cmocka_unit_test(nothing_is_lost_wherever_falcond_is_killed),
	};
	return cmocka_run_group_tests_name("places", tests, NULL, NULL);
}
