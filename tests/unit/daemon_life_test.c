/* SPDX-License-Identifier: Apache-2.0 */
/* How falcond begins and ends, what it does when its engine dies, and what it keeps from whom. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { OTHER_UID = 12345 };

/* Long enough that three engines are killed before a fast machine is through with it. */
enum { RUN_TOKENS = 1900 };
#define RUN "\"prompt\":\"Once upon a time\",\"n\":1900,\"seed\":11,\"ignore_eos\":true"

static pid_t engine_of(int c)
{
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	pid_t pid = (pid_t)json_integer_value(json_object_get(json_object_get(status, "engine"), "pid"));
	json_decref(status);
	return pid;
}

static long long status_number(int c, const char *object, const char *field)
{
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	long long n = json_integer_value(json_object_get(object ? json_object_get(status, object) : status, field));
	json_decref(status);
	return n;
}

/* Takes one reply of a run: its ids go to `ids`, the cursor moves on. Whether the run is done. */
static bool read_some(int c, const char *session, long long *cursor, json_t *ids)
{
	json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, *cursor);
	if (strcmp(wire_code(r), "none") != 0)
		fail_msg("next: %s", json_dumps(r, 0));
	json_array_extend(ids, json_object_get(r, "ids"));
	*cursor = json_integer_value(json_object_get(r, "cursor"));
	bool done = json_is_true(json_object_get(r, "done"));
	json_decref(r);
	return done;
}

static json_t *run_whole(int c, const char *session, const char *fields)
{
	json_t *ids = json_array();
	long long cursor = 0;
	json_t *g = wire_ask(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",%s}", session, session, fields);
	if (strcmp(wire_code(g), "none") != 0)
		fail_msg("generate: %s", json_dumps(g, 0));
	json_decref(g);
	while (!read_some(c, session, &cursor, ids))
		;
	return ids;
}

static void a_stream_goes_on_when_its_engine_is_killed(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	json_t *expected = run_whole(c, "whole", RUN), *ids = json_array();
	long long cursor = 0;
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"broken\",\"request_id\":\"b\"," RUN "}"));
	int kills = 0;
	for (bool done = false; !done;) {
		done = read_some(c, "broken", &cursor, ids);
		pid_t engine = engine_of(c);
		if (kills < 3 && engine > 0 && !done && (size_t)kills * 300 <= json_array_size(ids)) {
			assert_int_equal(kill(engine, SIGKILL), 0);
			kills++;
		}
	}
	assert_int_equal(kills, 3);
	assert_int_equal(json_array_size(ids), RUN_TOKENS);
	assert_true(json_equal(ids, expected));
	assert_int_equal(status_number(c, "engine", "restarts"), 3);
	json_decref(ids);
	json_decref(expected);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_stop_leaves_no_socket_and_no_process(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path), waiting = wire_open(d.path);
	pid_t engine = engine_of(c);
	assert_true(daemon_process_alive(engine));
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[1],\"n\":2000,\"ignore_eos\":true}"));
	static const char next[] = "{\"op\":\"next\",\"session\":\"s\",\"cursor\":2000,\"wait_ms\":30000}";
	wire_send(waiting, next, sizeof next - 1);
	assert_int_equal(daemon_stop(&d), 0);
	assert_int_equal(access(d.path, F_OK), -1);
	assert_false(daemon_process_alive(engine));
	close(c);
	close(waiting);
	daemon_clean(&d);
}

static void a_stop_while_packing_leaves_nothing(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	daemon_launch(&d, NULL);
	usleep(30000);
	assert_int_equal(kill(d.pid, SIGTERM), 0);
	int status = daemon_reap(&d);
	assert_true(status == 0 || status == -SIGTERM); /* before it could watch for signals */
	assert_int_equal(access(d.path, F_OK), -1);
	daemon_clean(&d);
}

static void an_engine_ends_with_its_falcond_and_a_stale_socket_is_replaced(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	pid_t engine = engine_of(c);
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[1],\"n\":2000,\"ignore_eos\":true}"));
	assert_int_equal(kill(d.pid, SIGKILL), 0);
	assert_int_equal(daemon_reap(&d), -SIGKILL);
	close(c);
	for (int i = 0; daemon_process_alive(engine); i++, usleep(10000))
		assert_true(i < 1000);
	assert_int_equal(access(d.path, F_OK), 0);
	daemon_restart(&d, NULL);
	assert_true((c = wire_open(d.path)) >= 0);
	json_decref(wire_ask(c, "{\"op\":\"hello\"}"));
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_live_socket_is_refused(void **state)
{
	(void)state;
	struct daemon d, second;
	daemon_start(&d, NULL);
	second = d;
	snprintf(second.log, sizeof second.log, "%s/yaml.log", d.folder);
	daemon_launch(&second, NULL);
	assert_int_equal(daemon_reap(&second), 1);
	char *log = daemon_log(&second);
	assert_non_null(strstr(log, "another process listens there"));
	free(log);
	unlink(second.log);
	int c = wire_open(d.path);
	json_decref(wire_ask(c, "{\"op\":\"hello\"}"));
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_wrong_configuration_ends_the_start_with_what_would_be_right(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	char yaml[160];
	snprintf(yaml, sizeof yaml, "modell: %s/yaml\n", d.folder);
	daemon_launch(&d, yaml);
	assert_int_equal(daemon_reap(&d), 2);
	char *log = daemon_log(&d);
	assert_non_null(strstr(log, "/yaml:4:1: unknown key \"modell\""));
	assert_non_null(strstr(log, "the nearest key is \"model\""));
	free(log);
	unlink(d.log);
	daemon_launch(&d, "memory: 1M\n");
	assert_int_equal(daemon_reap(&d), 1);
	log = daemon_log(&d);
	assert_non_null(strstr(log, "raise `memory`"));
	free(log);
	daemon_clean(&d);
}

/* What the client of another uid finds, as an exit status: the first check that failed, 0 if none did. */
static int other_user(const struct daemon *d)
{
	int c = wire_open(d->path);
	if (c < 0)
		return 1;
	static const char *const hidden[] = {
		"{\"op\":\"next\",\"session\":\"mine\",\"cursor\":0}", "{\"op\":\"next\",\"session\":\"0:mine\",\"cursor\":0}",
		"{\"op\":\"append\",\"session\":\"mine\",\"at\":0,\"ids\":[1]}", "{\"op\":\"cancel\",\"session\":\"mine\"}",
		"{\"op\":\"fork\",\"session\":\"mine\",\"request_id\":\"f\"}",
	};
	for (int i = 0; i < 5; i++)
		if (strcmp(wire_code(wire_ask(c, "%s", hidden[i])), "no_session") != 0)
			return 2 + i;
	if (json_is_true(json_object_get(wire_ask(c, "{\"op\":\"drop\",\"session\":\"mine\"}"), "dropped")))
		return 10;
	if (json_array_size(json_object_get(wire_ask(c, "{\"op\":\"sessions\"}"), "sessions")) != 0)
		return 11;
	json_t *status = wire_ask(c, "{\"op\":\"status\"}"), *hello = wire_ask(c, "{\"op\":\"hello\"}");
	if (json_object_get(status, "engine") != NULL || json_object_get(status, "pages") != NULL ||
	    json_integer_value(json_object_get(json_object_get(status, "tokens"), "decode")) != 0)
		return 12;
	if (json_is_true(json_object_get(hello, "admin")) || json_integer_value(json_object_get(hello, "uid")) != OTHER_UID)
		return 13;
	/* The same name and request id are free for it. */
	json_t *made = wire_ask(c, "{\"op\":\"generate\",\"session\":\"mine\",\"request_id\":\"mine\",\"ids\":[7],\"n\":3}");
	if (strcmp(wire_code(made), "none") != 0)
		return 14;
	return 0;
}

static int as_other_user(const struct daemon *d, int (*what)(const struct daemon *d))
{
	pid_t pid = fork();
	if (pid == 0) {
		if (setresgid(OTHER_UID, OTHER_UID, OTHER_UID) < 0 || setresuid(OTHER_UID, OTHER_UID, OTHER_UID) < 0)
			_exit(99);
		_exit(what(d));
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int cannot_connect(const struct daemon *d)
{
	return wire_open(d->path) < 0 ? 0 : 1;
}

static void a_session_is_its_owners_alone(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	struct daemon d;
	daemon_start(&d, "socket_mode: 0666\n");
	int c = wire_open(d.path);
	json_decref(run_whole(c, "mine", RUN));
	assert_int_equal(as_other_user(&d, other_user), 0);
	/* The administrator sees both, and may drop the other's. */
	json_t *sessions = wire_ask(c, "{\"op\":\"sessions\"}");
	assert_int_equal(json_array_size(json_object_get(sessions, "sessions")), 2);
	json_t *r = wire_ask(c, "{\"op\":\"drop\",\"session\":\"%d:mine\"}", OTHER_UID);
	assert_true(json_is_true(json_object_get(r, "dropped")));
	json_decref(r);
	json_decref(sessions);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void the_sockets_mode_keeps_others_out(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	struct daemon d;
	struct stat st;
	daemon_start(&d, "socket_mode: 0600\n");
	assert_int_equal(stat(d.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(as_other_user(&d, cannot_connect), 0);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_goes_on_when_its_engine_is_killed),
		cmocka_unit_test(a_stop_leaves_no_socket_and_no_process),
		cmocka_unit_test(a_stop_while_packing_leaves_nothing),
		cmocka_unit_test(an_engine_ends_with_its_falcond_and_a_stale_socket_is_replaced),
		cmocka_unit_test(a_live_socket_is_refused),
		cmocka_unit_test(a_wrong_configuration_ends_the_start_with_what_would_be_right),
		cmocka_unit_test(a_session_is_its_owners_alone),
		cmocka_unit_test(the_sockets_mode_keeps_others_out),
	};
	return cmocka_run_group_tests_name("daemon_life", tests, NULL, NULL);
}
