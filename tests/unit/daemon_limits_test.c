/* SPDX-License-Identifier: Apache-2.0 */
/* Limits, and what becomes of sessions when memory is short or nobody reads them. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

static void expect(int c, const char *message, const char *code)
{
	json_t *r = wire_ask(c, "%s", message);
	if (strcmp(wire_code(r), code) != 0)
		fail_msg("%s: expected %s, got %s", message, code, json_dumps(r, 0));
	json_decref(r);
}

static const char *state_of(int c, const char *session)
{
	static char state[16];
	json_t *r = wire_ask(c, "{\"op\":\"sessions\"}"), *s;
	size_t i;
	state[0] = '\0';
	json_array_foreach (json_object_get(r, "sessions"), i, s)
		if (strcmp(json_string_value(json_object_get(s, "session")), session) == 0)
			snprintf(state, sizeof state, "%s", json_string_value(json_object_get(s, "state")));
	json_decref(r);
	return state;
}

static json_t *read_whole(int c, const char *session)
{
	json_t *ids = json_array();
	long long cursor = 0;
	for (bool done = false; !done;) {
		json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		if (strcmp(wire_code(r), "none") != 0)
			fail_msg("next: %s", json_dumps(r, 0));
		json_array_extend(ids, json_object_get(r, "ids"));
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
		json_decref(r);
	}
	return ids;
}

static void an_owner_has_no_more_than_the_limits(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, "limits:\n  sessions: 2\n  queued_tokens: 100\n  pages: 20\n");
	int c = wire_open(d.path);
	json_t *g = wire_ask(c, "{\"op\":\"generate\",\"request_id\":\"1\",\"ids\":[1],\"n\":1}");
	const char *unnamed = json_string_value(json_object_get(g, "session"));
	json_decref(read_whole(c, unnamed));
	expect(c, "{\"op\":\"generate\",\"request_id\":\"2\",\"ids\":[1],\"n\":1,\"session\":\"a\"}", "none");
	json_decref(read_whole(c, "a"));
	/* The one without a name goes, the ones with names stay. */
	expect(c, "{\"op\":\"generate\",\"request_id\":\"3\",\"ids\":[1],\"n\":1,\"session\":\"b\"}", "none");
	assert_string_equal(state_of(c, unnamed), "");
	json_decref(read_whole(c, "b"));
	expect(c, "{\"op\":\"generate\",\"request_id\":\"4\",\"ids\":[1],\"n\":1}", "too_many");
	expect(c, "{\"op\":\"drop\",\"session\":\"a\"}", "none");
	expect(c, "{\"op\":\"generate\",\"request_id\":\"5\",\"ids\":[1],\"n\":2000}", "no_memory");
	struct buf ids = {0};
	for (int i = 0; i < 102; i++)
		buf_printf(&ids, i ? ",1" : "1");
	json_t *many = wire_ask(c, "{\"op\":\"generate\",\"request_id\":\"6\",\"ids\":[%s],\"n\":1}", ids.data);
	buf_done(&ids);
	assert_string_equal(wire_code(many), "too_many");
	json_decref(g);
	json_decref(many);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* With an engine that stands still, so that no run ends meanwhile. The context has room for 64 pages. */
static void a_run_counts_for_no_more_pages_than_the_context_lets_it_have(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, "limits:\n  pages: 130\n");
	int c = wire_open(d.path);
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	pid_t engine = (pid_t)json_integer_value(json_object_get(json_object_get(status, "engine"), "pid"));
	json_decref(status);
	assert_int_equal(kill(engine, SIGSTOP), 0);
	for (int i = 1; i <= 3; i++) {
		json_t *r = wire_ask(c, "{\"op\":\"generate\",\"session\":\"%d\",\"request_id\":\"%d\",\"ids\":[1],\"n\":2147483647}", i, i);
		assert_string_equal(wire_code(r), i < 3 ? "none" : "no_memory");
		json_decref(r);
	}
	assert_int_equal(kill(engine, SIGCONT), 0);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* Another user, who may do what the first one's limits refuse: 0, or which check failed. */
static int unaffected(const struct daemon *d)
{
	static const char *const asked[] = {
		"{\"op\":\"generate\",\"request_id\":\"1\",\"ids\":[1,2,3],\"n\":4,\"session\":\"a\"}",
		"{\"op\":\"generate\",\"request_id\":\"2\",\"ids\":[1,2,3],\"n\":4,\"session\":\"b\",\"priority\":\"batch\"}",
	};
	int c = wire_open(d->path);
	if (c < 0)
		return 1;
	for (int i = 0; i < 2; i++)
		if (strcmp(wire_code(wire_ask(c, "%s", asked[i])), "none") != 0)
			return 2 + i;
	return json_array_size(read_whole(c, "a")) == 4 && json_array_size(read_whole(c, "b")) == 4 ? 0 : 4;
}

static void what_one_owner_is_refused_another_may_do(void **state)
{
	(void)state;
	enum { OTHER_UID = 65533 };
	if (getuid() != 0)
		skip();
	struct daemon d;
	daemon_start(&d, "socket_mode: 0666\nlimits:\n  sessions: 2\n  queued_tokens: 10\n  pages: 40\n"); /* the run takes them for a while, on a fast machine too */
	int c = wire_open(d.path);
	expect(c, "{\"op\":\"generate\",\"request_id\":\"1\",\"ids\":[1],\"n\":1200,\"session\":\"a\",\"ignore_eos\":true}", "none");
	expect(c, "{\"op\":\"generate\",\"request_id\":\"2\",\"ids\":[1],\"n\":1200,\"session\":\"b\"}", "no_memory");
	expect(c, "{\"op\":\"generate\",\"request_id\":\"2\",\"ids\":[1,1,1,1,1,1,1,1,1,1,1,1],\"n\":1,\"session\":\"b\"}", "too_many");
	json_decref(read_whole(c, "a"));
	expect(c, "{\"op\":\"generate\",\"request_id\":\"2\",\"ids\":[1],\"n\":1,\"session\":\"b\"}", "none");
	expect(c, "{\"op\":\"generate\",\"request_id\":\"3\",\"ids\":[1],\"n\":1,\"session\":\"c\"}", "too_many");
	pid_t pid = fork();
	if (pid == 0)
		_exit(setresgid(OTHER_UID, OTHER_UID, OTHER_UID) < 0 || setresuid(OTHER_UID, OTHER_UID, OTHER_UID) < 0 ? 99 : unaffected(&d));
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void one_request_too_many_is_refused_and_those_that_wait_are_not(void **state)
{
	(void)state;
	enum { LIMIT = 3 };
	static const char next[] = "{\"op\":\"next\",\"session\":\"r\",\"cursor\":1,\"wait_ms\":30000}";
	struct daemon d;
	daemon_start(&d, "limits:\n  requests: 3\n");
	int c = wire_open(d.path), waiting[LIMIT];
	json_t *status = wire_ask(c, "{\"op\":\"status\"}"), *r;
	pid_t engine = (pid_t)json_integer_value(json_object_get(json_object_get(status, "engine"), "pid"));
	assert_int_equal(kill(engine, SIGSTOP), 0);
	expect(c, "{\"op\":\"generate\",\"request_id\":\"r\",\"ids\":[1],\"n\":1,\"session\":\"r\"}", "none");
	for (int i = 0; i < LIMIT; i++) {
		assert_true((waiting[i] = wire_open(d.path)) >= 0);
		assert_true(wire_send(waiting[i], next, sizeof next - 1));
	}
	/* They arrive on threads of their own: once all wait, whoever asks is refused. */
	const char *code = "none";
	for (int tries = 0; tries < 1000 && strcmp(code, "none") == 0; tries++, usleep(10000)) {
		r = wire_ask(c, "{\"op\":\"hello\"}");
		code = strcmp(wire_code(r), "too_many") == 0 ? "too_many" : wire_code(r);
		json_decref(r);
	}
	assert_string_equal(code, "too_many");
	assert_int_equal(kill(engine, SIGCONT), 0);
	for (int i = 0; i < LIMIT; i++) {
		assert_non_null(r = wire_receive(waiting[i]));
		assert_int_equal(json_array_size(json_object_get(r, "ids")), 1);
		json_decref(r);
		close(waiting[i]);
	}
	expect(c, "{\"op\":\"hello\"}", "none");
	json_decref(status);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* Starts N runs; with `together` all before any is read. */
static void run_all(const struct daemon *d, uint32_t n, bool together, json_t **ret)
{
	int c = wire_open(d->path);
	char name[16];
	for (uint32_t i = 0; i < n; i++) {
		json_t *g = wire_ask(c, "{\"op\":\"generate\",\"session\":\"s%u\",\"request_id\":\"s%u\",\"prompt\":\"Once upon a time\","
				     "\"n\":300,\"seed\":%u,\"ignore_eos\":true}", i, i, i);
		assert_string_equal(wire_code(g), "none");
		json_decref(g);
		snprintf(name, sizeof name, "s%u", i);
		if (!together)
			ret[i] = read_whole(c, name);
	}
	for (uint32_t i = 0; together && i < n; i++) {
		snprintf(name, sizeof name, "s%u", i);
		ret[i] = read_whole(c, name);
	}
	close(c);
}

static void runs_that_do_not_fit_together_all_end_with_their_own_bytes(void **state)
{
	(void)state;
	enum { N = 4, LENGTH = 300, PAGES = (LENGTH + 4 + 31) / 32 };
	struct daemon d;
	json_t *alone[N], *together[N];
	daemon_start(&d, NULL);
	run_all(&d, N, false, alone);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
	daemon_start(&d, "memory: 7M\n");
	int c = wire_open(d.path);
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	long long total = json_integer_value(json_object_get(json_object_get(status, "pages"), "total"));
	assert_true(total >= PAGES && total < 3 * PAGES);
	run_all(&d, N, true, together);
	for (int i = 0; i < N; i++) {
		assert_int_equal(json_array_size(alone[i]), LENGTH);
		assert_true(json_equal(alone[i], together[i]));
		json_decref(alone[i]);
		json_decref(together[i]);
	}
	/* A session whose pages went to others goes on as well. */
	expect(c, "{\"op\":\"append\",\"session\":\"s0\",\"at\":304,\"ids\":[1],\"n\":10}", "none");
	json_decref(read_whole(c, "s0"));
	json_decref(status);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_run_that_nobody_reads_is_paused_and_goes_on_when_somebody_does(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, "detach_after: 1\n");
	int c = wire_open(d.path);
	expect(c, "{\"op\":\"generate\",\"session\":\"p\",\"request_id\":\"p\",\"ids\":[1],\"n\":2000,\"ignore_eos\":true}", "none");
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	pid_t engine = (pid_t)json_integer_value(json_object_get(json_object_get(status, "engine"), "pid"));
	assert_int_equal(kill(engine, SIGSTOP), 0);
	for (int i = 0; strcmp(state_of(c, "p"), "paused") != 0; i++, usleep(10000))
		assert_true(i < 1000);
	assert_int_equal(kill(engine, SIGCONT), 0);
	json_t *ids = read_whole(c, "p");
	assert_int_equal(json_array_size(ids), 2000);
	json_decref(ids);
	json_decref(status);
	/* Its keys and values were kept: but for the prompt's one token nothing was computed twice. */
	status = wire_ask(c, "{\"op\":\"status\"}");
	assert_in_range(json_integer_value(json_object_get(json_object_get(status, "tokens"), "prefill")), 0, 1);
	json_decref(status);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_owner_has_no_more_than_the_limits),
		cmocka_unit_test(a_run_counts_for_no_more_pages_than_the_context_lets_it_have),
		cmocka_unit_test(what_one_owner_is_refused_another_may_do),
		cmocka_unit_test(one_request_too_many_is_refused_and_those_that_wait_are_not),
		cmocka_unit_test(a_run_that_nobody_reads_is_paused_and_goes_on_when_somebody_does),
		cmocka_unit_test(runs_that_do_not_fit_together_all_end_with_their_own_bytes),
	};
	return cmocka_run_group_tests_name("daemon_limits", tests, NULL, NULL);
}
