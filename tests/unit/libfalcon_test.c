/* SPDX-License-Identifier: Apache-2.0 */
/* libfalcon as a program in C uses it, while its falcond is killed and started again: every token comes once. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "client/falcon.h"
#include "tests/support/daemon.h"

enum { TOKENS = 400, KILLS = 3, AWAY_S = 60, WAIT_MS = 20000 };

static struct daemon d;
static char segments[64], yaml[128];

static int start(void **state)
{
	(void)state;
	d.program = "./falcond";
	setenv("FALCON_ISA", "portable", 1); /* slow enough for things to happen */
	snprintf(segments, sizeof segments, "/dev/shm/falcond-libfalcon-%d", (int)getpid());
	snprintf(yaml, sizeof yaml, "segments: %s\n", segments);
	daemon_start(&d, yaml);
	return 0;
}

static int stop(void **state)
{
	char lock[96];
	(void)state;
	assert_int_equal(daemon_stop(&d), 0);
	snprintf(lock, sizeof lock, "%s/lock", segments);
	unlink(lock);
	rmdir(segments);
	daemon_clean(&d);
	return 0;
}

static struct falcon *open_connection(void)
{
	struct falcon_error e;
	struct falcon *f = falcon_open(d.url, WAIT_MS, &e);
	if (f == NULL)
		fail_msg("%s", e.message);
	return f;
}

static void set(struct falcon_request *r, const char *name, uint32_t n)
{
	struct falcon_error e;
	assert_int_equal(falcon_set_text(r, "session", name, strlen(name), &e), 0);
	assert_int_equal(falcon_set_text(r, "prompt", "Once upon a time", 16, &e), 0);
	assert_int_equal(falcon_set_int(r, "n", n, &e), 0);
	assert_int_equal(falcon_set_int(r, "seed", 5, &e), 0);
	assert_int_equal(falcon_set_bool(r, "ignore_eos", true, &e), 0);
}

/* What a run says. */
struct said {
	struct ids ids;
	struct buf text;
};

/* One piece more. Returns whether it was the last. */
static bool read_piece(struct falcon *f, const char *session, uint32_t *cursor, struct said *said)
{
	struct falcon_error e;
	struct falcon_piece piece;
	uint32_t before = *cursor;
	if (falcon_next(f, session, cursor, WAIT_MS, &piece, &e) < 0)
		fail_msg("%s: %s", e.code, e.message);
	assert_int_equal(*cursor - before, piece.n_ids); /* a token a position */
	for (size_t i = 0; i < piece.n_ids; i++)
		ids_add(&said->ids, piece.ids[i]);
	buf_add(&said->text, piece.text, piece.text_length);
	return piece.done;
}

static void done(struct said *said)
{
	ids_done(&said->ids);
	buf_done(&said->text);
}

static void assert_same(const struct said *a, const struct said *b)
{
	assert_int_equal(a->ids.length, b->ids.length);
	assert_memory_equal(a->ids.data, b->ids.data, a->ids.length * sizeof *a->ids.data);
	assert_string_equal(a->text.data, b->text.data);
}

/* What an undisturbed session says; the request may be used for another. */
static void say_whole(struct falcon *f, struct falcon_request *r, int64_t n, struct said *whole)
{
	struct falcon_run run;
	struct falcon_error e;
	set(r, "whole", n);
	assert_int_equal(falcon_generate(f, r, &run, &e), 0);
	while (!read_piece(f, run.session, &run.cursor, whole))
		continue;
	falcon_request_again(r);
}

/* kill -9, and another falcond over the same segments, as systemd would start one. */
static void replace_falcond(void)
{
	assert_int_equal(kill(d.pid, SIGKILL), 0);
	assert_int_equal(daemon_reap(&d), -SIGKILL);
	daemon_launch(&d, yaml);
}

static void every_token_comes_once_while_falcond_is_killed_in_mid_stream(void **state)
{
	(void)state;
	struct falcon *f = open_connection();
	struct falcon_request *r = falcon_request_new();
	struct falcon_run run;
	struct falcon_error e;
	struct said whole = {0}, said = {0};
	say_whole(f, r, TOKENS, &whole);
	set(r, "killed", TOKENS);
	assert_int_equal(falcon_generate(f, r, &run, &e), 0);
	for (size_t kills = 0;;) {
		bool over = read_piece(f, run.session, &run.cursor, &said);
		if (over)
			break;
		if (kills < KILLS && said.ids.length > (kills + 1) * TOKENS / (KILLS + 1) - TOKENS / 8) {
			uint64_t begin = clock_ns();
			size_t before = said.ids.length;
			replace_falcond();
			kills++;
			while (said.ids.length == before)
				read_piece(f, run.session, &run.cursor, &said);
			uint64_t ms = (clock_ns() - begin) / 1000000;
			printf("from the kill to the next token: %llu ms\n", (unsigned long long)ms);
			assert_true(ms < AWAY_S * 1000);
		}
	}
	assert_same(&whole, &said);
	assert_int_equal(said.ids.length, TOKENS);
	assert_int_equal(falcon_drop(f, "whole", NULL, &e), 0);
	assert_int_equal(falcon_drop(f, "killed", NULL, &e), 0);
	done(&whole);
	done(&said);
	falcon_request_free(r);
	falcon_close(f);
}

static void an_append_without_a_prompt_goes_on(void **state)
{
	(void)state;
	struct falcon *f = open_connection();
	struct falcon_request *r = falcon_request_new();
	struct falcon_run run;
	struct falcon_error e;
	struct said whole = {0}, said = {0};
	say_whole(f, r, 30, &whole);
	set(r, "parts", 10);
	assert_int_equal(falcon_generate(f, r, &run, &e), 0);
	for (int part = 0; part < 3; part++) {
		while (!read_piece(f, run.session, &run.cursor, &said))
			continue;
		struct falcon_request *none = falcon_request_new();
		if (part < 2)
			assert_int_equal(falcon_append(f, "parts", run.cursor, none, &run, &e), 0);
		falcon_request_free(none);
	}
	assert_same(&whole, &said);
	assert_int_equal(falcon_drop(f, "whole", NULL, &e), 0);
	assert_int_equal(falcon_drop(f, "parts", NULL, &e), 0);
	done(&whole);
	done(&said);
	falcon_request_free(r);
	falcon_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_token_comes_once_while_falcond_is_killed_in_mid_stream),
		cmocka_unit_test(an_append_without_a_prompt_goes_on),
	};
	return cmocka_run_group_tests_name("libfalcon", tests, start, stop);
}
