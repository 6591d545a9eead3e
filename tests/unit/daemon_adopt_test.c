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

static const char *code_of(const json_t *reply)
{
	const char *code = json_string_value(json_object_get(json_object_get(reply, "error"), "code"));
	return code ? code : "none";
}

static json_t *good(json_t *reply)
{
	if (strcmp(code_of(reply), "none") != 0)
		fail_msg("%s", json_dumps(reply, 0));
	return reply;
}

static json_t *generate(struct reader *r, int number)
{
	static const char *const more[] = {"\"temp\":0", "\"top_k\":0", "\"repeat_penalty\":1.1", "\"stop\":[\"zebra crossing\"]"};
	return good(wire_ask(r->c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"prompt\":\"Once upon a time there was %d\","
			     "\"n\":%d,\"seed\":%d,\"ignore_eos\":true,%s}", r->session, r->session, number, RUN_TOKENS, number + 1,
			     more[number % 4]));
}

static void read_some(struct reader *r)
{
	json_t *reply = good(wire_ask(r->c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", r->session, r->cursor));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_go_on_when_falcond_is_killed),
	};
	return cmocka_run_group_tests_name("daemon_adopt", tests, NULL, NULL);
}
