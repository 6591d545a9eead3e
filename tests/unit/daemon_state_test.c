/* SPDX-License-Identifier: Apache-2.0 */
/* What falcond keeps in its state folder: over a stop, while a session is idle, and when the folder is damaged or full. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/spill_format.h"
#include "tests/support/daemon.h"
#include "tests/support/tree.h"
#include "tests/support/wire.h"

enum { SESSIONS = 8, HEAD = 256 + 2048 + 16 }; /* HEAD: bytes of a file beside its tokens and pages */

/* Starts it with a state folder and these further lines of configuration. */
static void start(struct daemon *d, const char *yaml)
{
	char lines[256];
	snprintf(lines, sizeof lines, "state: %s/state\n%s", d->folder, yaml ? yaml : "");
	daemon_restart(d, lines);
}

static void clean(struct daemon *d)
{
	char path[96];
	snprintf(path, sizeof path, "%s/state", d->folder);
	tree_remove(path);
	daemon_clean(d);
}

/* Reads a run from the cursor on: its ids are added to `ids`. */
static void read_run(int c, const char *session, long long cursor, json_t *ids)
{
	for (bool done = false; !done;) {
		json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		wire_good(r);
		json_array_extend(ids, json_object_get(r, "ids"));
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
		json_decref(r);
	}
}

static void generate(int c, const char *session, unsigned seed, unsigned n, json_t *ids)
{
	json_t *r = wire_ask(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"prompt\":\"Once upon a time\",\"n\":%u,"
				"\"seed\":%u,\"temp\":1,\"ignore_eos\":true}", session, session, n, seed);
	wire_good(r);
	json_decref(r);
	read_run(c, session, 0, ids);
}

static json_t *find(int c, const char *session)
{
	json_t *r = wire_ask(c, "{\"op\":\"sessions\"}"), *found = NULL, *s;
	size_t i;
	json_array_foreach (json_object_get(r, "sessions"), i, s)
		if (strcmp(json_string_value(json_object_get(s, "session")), session) == 0)
			found = json_incref(s);
	json_decref(r);
	return found;
}

static long long length_of(int c, const char *session)
{
	json_t *s = find(c, session);
	assert_non_null(s);
	long long n = json_integer_value(json_object_get(s, "n_tokens"));
	json_decref(s);
	return n;
}

static bool is_in(int c, const char *session, const char *where)
{
	json_t *s = find(c, session);
	bool is = s != NULL && strcmp(json_string_value(json_object_get(s, "where")), where) == 0;
	json_decref(s);
	return is;
}

/* A second run of the session. Returns its n_cached. */
static long long append(int c, const char *session, json_t *ids)
{
	json_t *r = wire_ask(c, "{\"op\":\"append\",\"session\":\"%s\",\"at\":%lld,\"prompt\":\" and the king\",\"n\":40}", session,
			     length_of(c, session));
	wire_good(r);
	long long cached = json_integer_value(json_object_get(r, "n_cached"));
	read_run(c, session, 0, ids);
	json_decref(r);
	return cached;
}

/* The one folder below that, or fails. */
static void only_entry(char *path, size_t size)
{
	DIR *folder = opendir(path);
	assert_non_null(folder);
	size_t length = strlen(path);
	for (struct dirent *at; (at = readdir(folder)) != NULL;)
		if (at->d_name[0] != '.')
			snprintf(path + length, size - length, "/%s", at->d_name);
	closedir(folder);
	assert_true(strlen(path) > length);
}

static void file_of(const struct daemon *d, const char *session, char *path, size_t size)
{
	snprintf(path, size, "%s/state", d->folder);
	only_entry(path, size);
	size_t length = strlen(path);
	snprintf(path + length, size - length, "/%u/%s.session", (unsigned)getuid(), session);
}

static void flip(const struct daemon *d, const char *session, off_t at)
{
	char path[256];
	uint8_t byte;
	file_of(d, session, path, sizeof path);
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* What sessions of seeds 0, 1, ... say when nothing happens to them: their first runs and second runs. */
static json_t *undisturbed(int c, unsigned n, unsigned first)
{
	json_t *all = json_array();
	for (unsigned i = 0; i < n; i++) {
		char name[16];
		json_t *ids = json_array();
		snprintf(name, sizeof name, "whole-%u", i);
		generate(c, name, i, first, ids);
		append(c, name, ids);
		json_array_append_new(all, ids);
		json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s\"}", name));
	}
	return all;
}

static void eight_sessions_go_on_with_the_same_bytes_after_a_stop(void **state)
{
	(void)state;
	struct daemon d;
	char name[16];
	daemon_prepare(&d);
	start(&d, NULL);
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, SESSIONS, 100), *got = json_array();
	for (unsigned i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof name, "s-%u", i);
		json_array_append_new(got, json_array());
		generate(c, name, i, 100, json_array_get(got, i));
	}
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	start(&d, NULL);
	c = wire_open(d.path);
	for (unsigned i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof name, "s-%u", i);
		assert_true(is_in(c, name, "disk"));
		/* All but the last token was computed, and is read instead of being computed again. */
		long long computed = length_of(c, name) - 1;
		assert_int_equal(append(c, name, json_array_get(got, i)), computed);
		assert_true(is_in(c, name, "memory"));
	}
	assert_true(json_equal(got, expected));
	/* The op that made a session is known by its request id. */
	json_t *again = wire_ask(c, "{\"op\":\"generate\",\"session\":\"s-3\",\"request_id\":\"s-3\",\"prompt\":\"Once upon a time\"}");
	wire_good(again);
	assert_int_equal(json_integer_value(json_object_get(again, "seed")), 3);
	json_decref(again);
	json_decref(expected);
	json_decref(got);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static void a_run_that_was_stopped_goes_on_for_whoever_reads_it(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	start(&d, NULL);
	int c = wire_open(d.path);
	json_t *expected = json_array(), *ids = json_array();
	generate(c, "whole", 11, 1900, expected);
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"broken\",\"request_id\":\"b\",\"prompt\":\"Once upon a time\",\"n\":1900,"
				"\"seed\":11,\"temp\":1,\"ignore_eos\":true}"));
	json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"broken\",\"cursor\":0,\"wait_ms\":20000}");
	json_array_extend(ids, json_object_get(r, "ids"));
	long long cursor = json_integer_value(json_object_get(r, "cursor"));
	json_decref(r);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	start(&d, NULL);
	c = wire_open(d.path);
	json_t *s = find(c, "broken");
	assert_string_equal(json_string_value(json_object_get(s, "state")), "paused");
	json_decref(s);
	read_run(c, "broken", cursor, ids);
	assert_int_equal(json_array_size(ids), 1900);
	assert_true(json_equal(ids, expected));
	json_decref(ids);
	json_decref(expected);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static void a_damaged_page_is_computed_again_and_a_damaged_record_is_refused_alone(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	start(&d, NULL);
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, 1, 100), *ids = json_array();
	generate(c, "page", 0, 100, ids);
	generate(c, "record", 0, 100, NULL);
	off_t pages = HEAD + 4 * (off_t)length_of(c, "page");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	flip(&d, "page", pages + 100000); /* of its third page */
	flip(&d, "record", 300);
	start(&d, NULL);
	c = wire_open(d.path);
	daemon_expect(&d, ":record is not restored: damaged: the checksum of record and tokens is wrong");
	assert_null(find(c, "record"));
	append(c, "page", ids);
	daemon_expect(&d, ":page: page 2 of 4 is damaged; what is missing is computed again");
	assert_true(json_equal(ids, json_array_get(expected, 0)));
	json_decref(expected);
	json_decref(ids);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static void another_kind_of_keys_and_values_keeps_the_tokens(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	start(&d, "kv: f32\n");
	int c = wire_open(d.path);
	json_t *ids = json_array(), *expected = json_array();
	generate(c, "s", 5, 60, NULL);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	start(&d, "kv: f16\n");
	c = wire_open(d.path);
	assert_true(is_in(c, "s", "log"));
	assert_int_equal(append(c, "s", ids), 0);
	assert_int_equal(json_array_size(ids), 40);
	/* As a session of the same tokens that f16 computed from the first one on. */
	json_t *r = wire_ask(c, "{\"op\":\"fork\",\"session\":\"s\",\"new\":\"t\",\"request_id\":\"t\"}");
	wire_good(r);
	json_decref(r);
	append(c, "s", expected);
	json_array_clear(ids);
	append(c, "t", ids);
	assert_true(json_equal(ids, expected));
	json_decref(ids);
	json_decref(expected);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static void wait_until_in(int c, const char *session, const char *where)
{
	for (int i = 0; !is_in(c, session, where); i++, usleep(20000))
		assert_true(i < 1000);
}

static void an_idle_session_goes_to_disk_and_comes_back(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	start(&d, "spill_after: 1\n");
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, 1, 100), *ids = json_array();
	generate(c, "idle", 0, 100, ids);
	wait_until_in(c, "idle", "disk");
	json_t *status = wire_ask(c, "{\"op\":\"status\"}"), *pages = json_object_get(status, "pages");
	assert_true(json_equal(json_object_get(pages, "free"), json_object_get(pages, "total")));
	json_decref(status);
	assert_int_equal(append(c, "idle", ids), 103);
	assert_true(json_equal(ids, json_array_get(expected, 0)));
	/* A dropped session's file goes with it. */
	wait_until_in(c, "idle", "disk");
	char path[256];
	file_of(&d, "idle", path, sizeof path);
	assert_int_equal(access(path, F_OK), 0);
	json_decref(wire_ask(c, "{\"op\":\"drop\",\"session\":\"idle\"}"));
	for (int i = 0; access(path, F_OK) == 0; i++, usleep(10000))
		assert_true(i < 1000);
	json_decref(ids);
	json_decref(expected);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

/* Sessions that together need more than twice the arena, in turn. */
static void sessions_that_do_not_fit_together_wait_on_disk_for_their_turn(void **state)
{
	(void)state;
	struct daemon d;
	char name[16];
	daemon_prepare(&d);
	start(&d, "memory: 8M\n"); /* some 50 pages */
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, 6, 500), *got = json_array();
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof name, "s-%u", i);
		json_array_append_new(got, json_array());
		generate(c, name, i, 500, json_array_get(got, i));
	}
	for (unsigned i = 0; i < 6; i++) {
		snprintf(name, sizeof name, "s-%u", i);
		if (i < 3)
			assert_true(is_in(c, name, "disk"));
		assert_true(append(c, name, json_array_get(got, i)) > 500);
	}
	assert_true(json_equal(got, expected));
	json_decref(expected);
	json_decref(got);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static void limit_files(const struct daemon *d, rlim_t bytes)
{
	const struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
	assert_int_equal(prlimit(d->pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

static void a_full_disk_is_told_and_loses_nothing(void **state)
{
	(void)state;
	struct daemon d;
	daemon_prepare(&d);
	start(&d, "spill_after: 1\n");
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, 1, 100), *ids = json_array();
	limit_files(&d, 2000);
	generate(c, "s", 0, 100, ids);
	daemon_expect(&d, "s.session: cannot write");
	assert_true(is_in(c, "s", "memory"));
	json_t *status = wire_ask(c, "{\"op\":\"status\"}"), *disk = json_object_get(status, "state");
	assert_true(json_integer_value(json_object_get(disk, "failed")) > 0);
	assert_non_null(strstr(json_string_value(json_object_get(disk, "error")), "File too large"));
	json_decref(status);
	append(c, "s", ids);
	assert_true(json_equal(ids, json_array_get(expected, 0)));
	close(c);
	/* A stop that cannot keep everything says so. */
	assert_int_equal(daemon_stop(&d), 1);
	char *log = daemon_log(&d);
	assert_non_null(strstr(log, "1 sessions could not be written as they are"));
	free(log);
	json_decref(ids);
	json_decref(expected);
	clean(&d);
}

static void kill_daemon(struct daemon *d)
{
	assert_int_equal(kill(d->pid, SIGKILL), 0);
	assert_int_equal(daemon_reap(d), -SIGKILL);
}

static void the_newer_of_memory_and_disk_wins_when_falcond_dies(void **state)
{
	(void)state;
	struct daemon d;
	char segments[96], lines[128];
	daemon_prepare(&d);
	snprintf(segments, sizeof segments, "/dev/shm/falcond-state-test-%d", (int)getpid());
	snprintf(lines, sizeof lines, "segments: %s\nspill_after: 1\n", segments);
	start(&d, lines);
	int c = wire_open(d.path);
	json_t *expected = undisturbed(c, 1, 100), *ids = json_array();
	generate(c, "s", 0, 100, ids);
	wait_until_in(c, "s", "disk");
	append(c, "s", ids);
	long long length = length_of(c, "s");
	close(c);
	kill_daemon(&d);
	start(&d, lines); /* the segments have the second run, the file has the first one */
	c = wire_open(d.path);
	assert_int_equal(length_of(c, "s"), length);
	assert_true(json_equal(ids, json_array_get(expected, 0)));
	wait_until_in(c, "s", "disk");
	close(c);
	kill_daemon(&d);
	tree_remove(segments);
	start(&d, "spill_after: 1\n"); /* the segments are lost: what the file has is there */
	c = wire_open(d.path);
	assert_int_equal(length_of(c, "s"), length);
	json_array_clear(ids);
	append(c, "s", ids);
	assert_int_equal(json_array_size(ids), 40);
	json_decref(ids);
	json_decref(expected);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

static uint32_t priority_in_file(const struct daemon *d, const char *session)
{
	char path[256];
	uint32_t priority = UINT32_MAX;
	file_of(d, session, path, sizeof path);
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	off_t at = (off_t)(sizeof(struct spill_header) + offsetof(struct board_record, priority));
	assert_int_equal(pread(fd, &priority, sizeof priority, at), sizeof priority);
	close(fd);
	return priority;
}

static void a_sessions_priority_stays_until_an_append_changes_it(void **state)
{
	(void)state;
	static const char *const appends[] = {"", ",\"priority\":\"interactive\"", ",\"priority\":\"batch\""};
	static const uint32_t expected[] = {BOARD_BATCHED, BOARD_INTERACTIVE, BOARD_BATCHED};
	struct daemon d;
	json_t *ids = json_array();
	daemon_prepare(&d);
	start(&d, NULL);
	int c = wire_open(d.path);
	json_t *r = wire_ask(c, "{\"op\":\"generate\",\"session\":\"b\",\"request_id\":\"b\",\"ids\":[1],\"n\":2,\"priority\":\"batch\"}");
	wire_good(r);
	read_run(c, "b", 0, ids);
	for (int i = 0; i < 3; i++) {
		json_decref(r);
		r = wire_ask(c, "{\"op\":\"append\",\"session\":\"b\",\"at\":%lld,\"ids\":[1],\"n\":2%s}", length_of(c, "b"), appends[i]);
		wire_good(r);
		read_run(c, "b", 0, ids);
		close(c);
		assert_int_equal(daemon_stop(&d), 0);
		assert_int_equal(priority_in_file(&d, "b"), expected[i]);
		start(&d, NULL);
		c = wire_open(d.path);
	}
	json_decref(r);
	json_decref(ids);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(eight_sessions_go_on_with_the_same_bytes_after_a_stop),
		cmocka_unit_test(a_run_that_was_stopped_goes_on_for_whoever_reads_it),
		cmocka_unit_test(a_damaged_page_is_computed_again_and_a_damaged_record_is_refused_alone),
		cmocka_unit_test(another_kind_of_keys_and_values_keeps_the_tokens),
		cmocka_unit_test(an_idle_session_goes_to_disk_and_comes_back),
		cmocka_unit_test(sessions_that_do_not_fit_together_wait_on_disk_for_their_turn),
		cmocka_unit_test(a_full_disk_is_told_and_loses_nothing),
		cmocka_unit_test(the_newer_of_memory_and_disk_wins_when_falcond_dies),
		cmocka_unit_test(a_sessions_priority_stays_until_an_append_changes_it),
	};
	return cmocka_run_group_tests_name("daemon_state", tests, NULL, NULL);
}
