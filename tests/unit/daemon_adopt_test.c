/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcond dies and is started again over the segments that it left in a folder of a tmpfs: sessions go on where they were, with
 * the same bytes; and what a falcond does that finds segments which it cannot take over as they are.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "shm/board.h"
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { CLIENTS = 8, RUN_TOKENS = 600 };

/* A falcond with a segments folder, and how it is configured. */
struct keeper {
	struct daemon d;
	char segments[64], yaml[256];
};

static void keeper_configure(struct keeper *k, const char *more)
{
	snprintf(k->yaml, sizeof k->yaml, "segments: %s\n%s", k->segments, more ? more : "");
}

static void keeper_launch(struct keeper *k)
{
	daemon_launch(&k->d, k->yaml);
	daemon_expect(&k->d, "ready: ");
}

static void keeper_start(struct keeper *k)
{
	daemon_prepare(&k->d);
	snprintf(k->segments, sizeof k->segments, "/dev/shm/falcond-test-%d", (int)getpid());
	keeper_configure(k, NULL);
	keeper_launch(k);
}

static void keeper_kill(struct keeper *k)
{
	assert_int_equal(kill(k->d.pid, SIGKILL), 0);
	assert_int_equal(daemon_reap(&k->d), -SIGKILL);
	unlink(k->d.log);
}

/* Stops falcond, which takes its segments with it. */
static void keeper_end(struct keeper *k)
{
	char lock[96];
	assert_int_equal(daemon_stop(&k->d), 0);
	snprintf(lock, sizeof lock, "%s/lock", k->segments);
	unlink(lock);
	assert_int_equal(rmdir(k->segments), 0); /* nothing else is left there */
	daemon_clean(&k->d);
}

/* A client that reads one session by cursor. */
struct reader {
	int c;
	char session[8];
	long long cursor;
	json_t *ids;
	char *text;
	size_t length;
	bool done;
	const char *finish;
};

static json_t *generate(struct reader *r, int number)
{
	static const char *const more[] = {"\"temp\":0", "\"top_k\":0", "\"repeat_penalty\":1.1", "\"stop\":[\"zebra crossing\"]"};
	return wire_get(r->c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\","
			      "\"prompt\":\"Once upon a time there was %d\",\"n\":%d,\"seed\":%d,\"ignore_eos\":true,%s}", r->session, r->session, number, RUN_TOKENS, number + 1,
			     more[number % 4]);
}

static void read_some(struct reader *r)
{
	json_t *reply = wire_get(r->c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", r->session, r->cursor);
	const char *text = json_string_value(json_object_get(reply, "text"));
	size_t n = strlen(text);
	json_array_extend(r->ids, json_object_get(reply, "ids"));
	r->text = realloc(r->text, r->length + n + 1);
	memcpy(r->text + r->length, text, n + 1);
	r->length += n;
	r->cursor = json_integer_value(json_object_get(reply, "cursor"));
	r->done = json_is_true(json_object_get(reply, "done"));
	json_decref(reply);
}

static void readers_connect(struct keeper *k, struct reader *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_true((r[i].c = wire_open(k->d.path)) >= 0);
}

static void readers_start(struct keeper *k, struct reader *r, unsigned n, char prefix)
{
	memset(r, 0, n * sizeof *r);
	readers_connect(k, r, n);
	for (unsigned i = 0; i < n; i++) {
		snprintf(r[i].session, sizeof r[i].session, "%c%u", prefix, i);
		r[i].ids = json_array();
		json_t *reply = generate(&r[i], (int)i);
		r[i].cursor = json_integer_value(json_object_get(reply, "cursor"));
		json_decref(reply);
	}
}

static void readers_close(struct reader *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(r[i].c);
}

static void readers_done(struct reader *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		json_decref(r[i].ids);
		free(r[i].text);
		close(r[i].c);
	}
}

/* Reads each in turn until it has `least` ids, or all are done. */
static void readers_read(struct reader *r, unsigned n, size_t least)
{
	for (bool more = true; more;) {
		more = false;
		for (unsigned i = 0; i < n; i++) {
			if (r[i].done || json_array_size(r[i].ids) >= least)
				continue;
			read_some(&r[i]);
			more = true;
		}
	}
}

static void assert_same(const struct reader *a, const struct reader *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(json_array_size(a[i].ids), RUN_TOKENS);
		assert_true(json_equal(a[i].ids, b[i].ids));
		assert_string_equal(a[i].text, b[i].text);
	}
}

static bool log_says(const struct keeper *k, const char *text)
{
	char *log = daemon_log(&k->d);
	bool said = strstr(log, text) != NULL;
	free(log);
	return said;
}

static void streams_go_on_when_falcond_is_killed(void **state)
{
	(void)state;
	struct keeper k;
	struct reader whole[CLIENTS], broken[CLIENTS];
	keeper_start(&k);
	readers_start(&k, whole, CLIENTS, 'w');
	readers_read(whole, CLIENTS, RUN_TOKENS);
	readers_start(&k, broken, CLIENTS, 'b');
	for (int kills = 1; kills <= 3; kills++) {
		readers_read(broken, CLIENTS, (size_t)kills * RUN_TOKENS / 5);
		keeper_kill(&k);
		readers_close(broken, CLIENTS);
		uint64_t start = clock_ns();
		keeper_launch(&k);
		readers_connect(&k, broken, CLIENTS);
		read_some(&broken[0]);
		print_message("next token %.0f ms after the start\n", (double)(clock_ns() - start) / 1e6);
		assert_true(log_says(&k, "taken over with 16 sessions"));
		assert_false(log_says(&k, "packing"));
	}
	readers_read(broken, CLIENTS, RUN_TOKENS + 1);
	assert_same(broken, whole, CLIENTS);
	readers_done(whole, CLIENTS);
	readers_done(broken, CLIENTS);
	keeper_end(&k);
}

/* Opens the board's file of the folder, of which there is one set. */
static int open_board(const struct keeper *k)
{
	char path[512];
	int fd = -1;
	DIR *d = opendir(k->segments);
	assert_non_null(d);
	for (struct dirent *f; fd < 0 && (f = readdir(d)) != NULL;)
		if (strncmp(f->d_name, "set-", 4) == 0) {
			snprintf(path, sizeof path, "%s/%s/board", k->segments, f->d_name);
			fd = open(path, O_RDWR | O_CLOEXEC);
		}
	closedir(d);
	assert_true(fd >= 0);
	return fd;
}

static void write_at(const struct keeper *k, size_t offset, const void *bytes, size_t n)
{
	int fd = open_board(k);
	assert_int_equal(pwrite(fd, bytes, n, (off_t)offset), n);
	close(fd);
}

static uint64_t read_word(const struct keeper *k, size_t offset)
{
	uint64_t word;
	int fd = open_board(k);
	assert_int_equal(pread(fd, &word, sizeof word, (off_t)offset), sizeof word);
	close(fd);
	return word;
}

static uint32_t deaths(const struct keeper *k)
{
	return board_adoptions(read_word(k, offsetof(struct board_header, adoptions)));
}

/* Two streams that are cut off, something done to the board, and how the next falcond goes on. */
static void streams_survive(void (*harm)(const struct keeper *k), const char *said)
{
	struct keeper k;
	struct reader whole[2], broken[2];
	keeper_start(&k);
	readers_start(&k, whole, 2, 'w');
	readers_read(whole, 2, RUN_TOKENS + 1);
	readers_start(&k, broken, 2, 'b');
	readers_read(broken, 2, RUN_TOKENS / 4);
	keeper_kill(&k);
	readers_close(broken, 2);
	harm(&k);
	keeper_launch(&k);
	if (!log_says(&k, said) || !log_says(&k, "4 of 4 sessions go on from their token logs") || log_says(&k, "packing"))
		fail_msg("%s", daemon_log(&k.d));
	readers_connect(&k, broken, 2);
	readers_read(broken, 2, RUN_TOKENS + 1);
	assert_same(broken, whole, 2);
	readers_done(whole, 2);
	readers_done(broken, 2);
	keeper_end(&k);
}

static void damage_table(const struct keeper *k)
{
	static const uint32_t nowhere = UINT32_MAX;
	write_at(k, read_word(k, offsetof(struct board_header, tables_offset)), &nowhere, sizeof nowhere);
}

static void damage_header(const struct keeper *k)
{
	char zeros[256] = {0};
	write_at(k, 0, zeros, sizeof zeros);
}

static void change_abi(const struct keeper *k)
{
	static const uint32_t other = BOARD_ABI + 1;
	write_at(k, offsetof(struct board_header, abi), &other, sizeof other);
}

static void change_fingerprint(const struct keeper *k)
{
	write_at(k, offsetof(struct board_header, fingerprint), "another one", 11);
}

static void count_three_deaths(const struct keeper *k)
{
	uint64_t word = board_adoptions_word(3);
	write_at(k, offsetof(struct board_header, adoptions), &word, sizeof word);
}

static void a_damaged_page_table_costs_nothing_but_time(void **state)
{
	(void)state;
	streams_survive(damage_table, "page 4294967295 of an arena");
}

static void a_board_without_a_header_still_has_its_token_logs(void **state)
{
	(void)state;
	streams_survive(damage_header, "not a board segment");
}

static void a_board_of_another_version_says_so_and_still_has_its_token_logs(void **state)
{
	(void)state;
	char said[96];
	snprintf(said, sizeof said, "board segment: layout %u, features 0, this build reads layout %u", BOARD_ABI + 1, BOARD_ABI);
	streams_survive(change_abi, said);
}

static void sessions_of_another_arithmetic_are_computed_again(void **state)
{
	(void)state;
	streams_survive(change_fingerprint, "computed by another arithmetic");
}

static void after_three_deaths_over_a_board_its_token_logs_alone_are_trusted(void **state)
{
	(void)state;
	streams_survive(count_three_deaths, "3 falconds in a row ended over them");
}

static void each_falcond_that_dies_early_over_a_board_is_counted(void **state)
{
	(void)state;
	struct keeper k;
	keeper_start(&k);
	keeper_kill(&k);
	for (uint32_t n = 1; n <= 3; n++) {
		daemon_launch(&k.d, k.yaml);
		for (int i = 0; deaths(&k) != n; i++, usleep(1000))
			assert_true(i < 60000);
		keeper_kill(&k);
	}
	keeper_launch(&k);
	assert_true(log_says(&k, "3 falconds in a row ended over them"));
	keeper_end(&k);
}

static void after_six_deaths_falcond_starts_clean_and_says_so(void **state)
{
	(void)state;
	struct keeper k;
	struct reader r;
	keeper_start(&k);
	readers_start(&k, &r, 1, 'r');
	readers_read(&r, 1, 10);
	keeper_kill(&k);
	readers_done(&r, 1);
	uint64_t word = board_adoptions_word(6);
	write_at(&k, offsetof(struct board_header, adoptions), &word, sizeof word);
	keeper_launch(&k);
	assert_true(log_says(&k, "their sessions are given up"));
	int c = wire_open(k.d.path);
	json_t *sessions = wire_ask(c, "{\"op\":\"sessions\"}");
	assert_int_equal(json_array_size(json_object_get(sessions, "sessions")), 0);
	json_decref(sessions);
	close(c);
	keeper_end(&k);
}

static void a_falcond_that_serves_well_takes_its_count_back(void **state)
{
	(void)state;
	struct keeper k;
	keeper_start(&k);
	keeper_kill(&k);
	uint64_t word = board_adoptions_word(2);
	write_at(&k, offsetof(struct board_header, adoptions), &word, sizeof word);
	keeper_launch(&k);
	assert_true(log_says(&k, "taken over with 0 sessions"));
	for (int i = 0; deaths(&k) != 0; i++, usleep(10000))
		assert_true(i < 6000);
	keeper_end(&k);
}

/* Reads the session to its end, and returns all that it says from the beginning. */
static json_t *read_whole(int c, const char *session)
{
	for (long long cursor = 0;;) {
		json_t *reply = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		cursor = json_integer_value(json_object_get(reply, "cursor"));
		bool done = json_is_true(json_object_get(reply, "done"));
		json_decref(reply);
		if (done)
			return wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":0}", session);
	}
}

static void sessions_keep_names_replies_and_order(void **state)
{
	(void)state;
	struct keeper k;
	keeper_start(&k);
	int c = wire_open(k.d.path);
	static const char ask[] = "{\"op\":\"generate\",\"request_id\":\"first\",\"ids\":[5,6,7],\"n\":4,\"ignore_eos\":true}";
	json_t *first = wire_get(c, "%s", ask);
	json_t *whole = read_whole(c, "~1");
	json_decref(wire_get(c, "{\"op\":\"fork\",\"session\":\"~1\",\"new\":\"fork\",\"request_id\":\"f\"}"));
	json_decref(wire_get(c, "{\"op\":\"generate\",\"session\":\"gone\",\"request_id\":\"g\",\"ids\":[5],\"n\":900}"));
	json_decref(wire_get(c, "{\"op\":\"drop\",\"session\":\"gone\"}"));
	keeper_kill(&k);
	close(c);
	keeper_launch(&k);
	c = wire_open(k.d.path);
	json_t *again = wire_get(c, "%s", ask), *read = wire_get(c, "{\"op\":\"next\",\"session\":\"~1\",\"cursor\":0}");
	assert_true(json_equal(again, first));
	assert_true(json_equal(read, whole));
	json_t *sessions = wire_ask(c, "{\"op\":\"sessions\"}");
	assert_int_equal(json_array_size(json_object_get(sessions, "sessions")), 2);
	json_t *next = wire_get(c, "{\"op\":\"append\",\"session\":\"fork\",\"at\":7,\"ids\":[8],\"n\":2}");
	assert_int_equal(json_integer_value(json_object_get(next, "n_given")), 8);
	/* Nobody who still has the name of a dropped session finds another's there. */
	json_t *unnamed = wire_get(c, "{\"op\":\"generate\",\"request_id\":\"u\",\"ids\":[5],\"n\":1}");
	assert_true(atoi(json_string_value(json_object_get(unnamed, "session")) + 1) > 1000);
	json_t *const replies[] = {first, whole, again, read, sessions, next, unnamed};
	for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++)
		json_decref(replies[i]);
	close(c);
	keeper_end(&k);
}

static void an_upgrade_in_mid_stream_loses_nothing(void **state)
{
	(void)state;
	struct keeper k;
	struct reader whole[CLIENTS], broken[CLIENTS];
	keeper_start(&k);
	readers_start(&k, whole, CLIENTS, 'w');
	readers_read(whole, CLIENTS, RUN_TOKENS + 1);
	readers_start(&k, broken, CLIENTS, 'b');
	readers_read(broken, CLIENTS, RUN_TOKENS / 3);
	int c = wire_open(k.d.path);
	json_t *reply = wire_get(c, "{\"op\":\"upgrade\"}");
	assert_true(json_is_true(json_object_get(reply, "upgrading")));
	json_decref(reply);
	close(c);
	readers_close(broken, CLIENTS);
	daemon_expect(&k.d, "taken over with 16 sessions");
	for (unsigned i = 0; i < CLIENTS; i++)
		for (int tries = 0; (broken[i].c = wire_open(k.d.path)) < 0; tries++, usleep(10000))
			assert_true(tries < 6000);
	readers_read(broken, CLIENTS, RUN_TOKENS + 1);
	assert_same(broken, whole, CLIENTS);
	assert_true(daemon_process_alive(k.d.pid)); /* the same process */
	readers_done(whole, CLIENTS);
	readers_done(broken, CLIENTS);
	keeper_end(&k);
}

static void a_memfd_set_is_handed_over_an_upgrade(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	json_decref(wire_get(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[5],\"n\":3,\"ignore_eos\":true}"));
	json_t *whole = read_whole(c, "s");
	json_decref(wire_get(c, "{\"op\":\"upgrade\"}"));
	close(c);
	daemon_expect(&d, "taken over with 1 sessions");
	for (int tries = 0; (c = wire_open(d.path)) < 0; tries++, usleep(10000))
		assert_true(tries < 6000);
	json_t *read = wire_get(c, "{\"op\":\"next\",\"session\":\"s\",\"cursor\":0}");
	assert_true(json_equal(read, whole));
	json_decref(read);
	json_decref(whole);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_folder_in_use_is_refused(void **state)
{
	(void)state;
	struct keeper k;
	struct daemon second;
	keeper_start(&k);
	daemon_prepare(&second);
	daemon_launch(&second, k.yaml);
	assert_int_equal(daemon_reap(&second), 1);
	char *log = daemon_log(&second), expected[160];
	snprintf(expected, sizeof expected, "another falcond, process %d, uses the folder %s", (int)k.d.pid, k.segments);
	if (strstr(log, expected) == NULL)
		fail_msg("%s", log);
	free(log);
	daemon_clean(&second);
	int c = wire_open(k.d.path);
	json_decref(wire_get(c, "{\"op\":\"hello\"}"));
	close(c);
	keeper_end(&k);
}

static void a_folder_on_a_disk_or_open_to_others_is_refused(void **state)
{
	(void)state;
	struct daemon d;
	char yaml[128], path[64];
	daemon_prepare(&d);
	snprintf(path, sizeof path, "/dev/shm/falcond-open-%d", (int)getpid());
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, 0755), 0);
	snprintf(yaml, sizeof yaml, "segments: %s\n", path);
	daemon_launch(&d, yaml);
	assert_int_equal(daemon_reap(&d), 1);
	snprintf(yaml, sizeof yaml, "segments: /proc/self\n");
	daemon_launch(&d, yaml);
	assert_int_equal(daemon_reap(&d), 1);
	char *log = daemon_log(&d);
	assert_non_null(strstr(log, "the mode 0755"));
	assert_non_null(strstr(log, "segments: the folder /proc/self"));
	free(log);
	rmdir(path);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_go_on_when_falcond_is_killed),
		cmocka_unit_test(a_damaged_page_table_costs_nothing_but_time),
		cmocka_unit_test(a_board_without_a_header_still_has_its_token_logs),
		cmocka_unit_test(a_board_of_another_version_says_so_and_still_has_its_token_logs),
		cmocka_unit_test(sessions_of_another_arithmetic_are_computed_again),
		cmocka_unit_test(after_three_deaths_over_a_board_its_token_logs_alone_are_trusted),
		cmocka_unit_test(each_falcond_that_dies_early_over_a_board_is_counted),
		cmocka_unit_test(after_six_deaths_falcond_starts_clean_and_says_so),
		cmocka_unit_test(a_falcond_that_serves_well_takes_its_count_back),
		cmocka_unit_test(sessions_keep_names_replies_and_order),
		cmocka_unit_test(an_upgrade_in_mid_stream_loses_nothing),
		cmocka_unit_test(a_memfd_set_is_handed_over_an_upgrade),
		cmocka_unit_test(a_folder_in_use_is_refused),
		cmocka_unit_test(a_folder_on_a_disk_or_open_to_others_is_refused),
	};
	return cmocka_run_group_tests_name("daemon_adopt", tests, NULL, NULL);
}
