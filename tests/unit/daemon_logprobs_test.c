/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-probabilities of generated tokens, as a client sees them: they are what a score run of the same text says, and nothing
 * changes a byte of them: neither the instruction set, threads, chunks and neighbours nor the death of the engine or of falcond
 * in mid-stream, nor a stop with files, nor a move to another daemon.
 */
#define _GNU_SOURCE
#include <math.h>
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

#include "base/base64.h"
#include "base/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/streams.h"
#include "tests/support/tree.h"
#include "tests/support/wire.h"

enum { N = 300, TOP = 5, VOCAB = 4096 };

#define PROMPT "\"prompt\":\"Once upon a time there was a king, and the king, and the king\""
#define SAMPLING "\"n\":300,\"temp\":0.9,\"repeat_penalty\":1.3,\"logit_bias\":{\"262\":-2,\"300\":4},\"seed\":11,\"ignore_eos\":true"

static void begin(int c, const char *session, const char *more)
{
	json_decref(wire_get(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\"," PROMPT "," SAMPLING "%s}",
			     session, session, more));
}

/* What a session has said behind the cursor so far: one reply, put behind what is there. False: it is over. */
static bool read_some(int c, const char *session, json_t *said)
{
	static const char *const lists[] = {"ids", "logprobs", "top_logprobs"};
	json_int_t cursor = json_integer_value(json_object_get(said, "cursor"));
	json_t *r = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, (long long)cursor);
	size_t n = json_array_size(json_object_get(r, "ids"));
	for (size_t i = 0; i < 3; i++) {
		json_t *list = json_object_get(r, lists[i]);
		if (list == NULL)
			continue;
		assert_int_equal(json_array_size(list), n);
		if (json_object_get(said, lists[i]) == NULL)
			json_object_set_new(said, lists[i], json_array());
		json_array_extend(json_object_get(said, lists[i]), list);
	}
	json_object_set(said, "cursor", json_object_get(r, "cursor"));
	bool done = json_is_true(json_object_get(r, "done"));
	json_decref(r);
	return !done;
}

/* {ids, logprobs, top_logprobs, cursor} of a session's run from its beginning to its end. */
static json_t *read_all(int c, const char *session)
{
	json_t *said = json_pack("{s:i}", "cursor", 0);
	while (read_some(c, session, said))
		;
	return said;
}

static void drop(int c, const char *session)
{
	json_decref(wire_get(c, "{\"op\":\"drop\",\"session\":\"%s\"}", session));
}

static void expect_equal(const json_t *a, const json_t *b)
{
	if (!json_equal(a, b))
		fail_msg("%s\nis not\n%s", json_dumps(a, 0), json_dumps(b, 0));
}

static json_t *said_of(int c, const char *more)
{
	begin(c, "s", more);
	json_t *said = read_all(c, "s");
	drop(c, "s");
	return said;
}

/* What every test below compares with: told by a falcond of two threads and the best instruction set. */
static json_t *expected;

static int make_expected(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	expected = said_of(c, ",\"logprobs\":5");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
	return 0;
}

static int free_expected(void **state)
{
	(void)state;
	json_decref(expected);
	return 0;
}

/* What a score run says of the same tokens: [n] numbers, and rows [n][VOCAB] if they are wanted. */
static json_t *score(int c, const json_t *ids, float *rows, json_t *tops)
{
	char *text = json_dumps(ids, JSON_COMPACT);
	json_t *r = wire_get(c, "{\"op\":\"score\",\"request_id\":\"score\",\"ids\":%s,\"rows\":true,\"logprobs\":5}", text);
	json_t *all = json_array();
	char *session = strdup(json_string_value(json_object_get(r, "session")));
	json_decref(r);
	long long cursor = 0;
	for (bool done = false; !done;) {
		r = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		const json_t *data = json_object_get(r, "rows");
		json_array_extend(all, json_object_get(r, "logprobs"));
		json_array_extend(tops, json_object_get(r, "top_logprobs"));
		assert_int_equal(json_array_size(tops), json_array_size(all));
		assert_true(base64_decode(json_string_value(data), json_string_length(data), (uint8_t *)(rows + cursor * VOCAB)) >= 0);
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
		json_decref(r);
	}
	drop(c, session);
	free(session);
	free(text);
	return all;
}

/* The top list of one token against the row of logits: the largest, in falling order, the lower id first of equals. */
static void check_top(const json_t *list, const float *row)
{
	double sum = 0, max = -INFINITY;
	bool seen[VOCAB] = {false};
	for (int i = 0; i < VOCAB; i++)
		max = row[i] > max ? row[i] : max;
	for (int i = 0; i < VOCAB; i++)
		sum += exp(row[i] - max);
	assert_int_equal(json_array_size(list), TOP);
	for (size_t i = 0; i < TOP; i++) {
		int best = -1;
		for (int id = 0; id < VOCAB; id++)
			if (!seen[id] && (best < 0 || row[id] > row[best]))
				best = id;
		seen[best] = true;
		const json_t *pair = json_array_get(list, i);
		assert_int_equal(json_integer_value(json_array_get(pair, 0)), best);
		double got = json_real_value(json_array_get(pair, 1)), wanted = row[best] - max - log(sum);
		if (!(fabs(got - wanted) < 1e-4))
			fail_msg("token %d: %g, the logits say %g", best, got, wanted);
	}
}

static void they_are_the_log_softmax_of_the_logits_that_a_score_run_gives(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	json_t *t = wire_get(c, "{\"op\":\"tokenize\",\"text\":\"Once upon a time there was a king, and the king, and the king\"}");
	json_t *ids = json_object_get(t, "ids");
	size_t given = json_array_size(ids);
	json_array_extend(ids, json_object_get(expected, "ids"));
	assert_int_equal(json_array_size(ids), given + N);
	float *rows = calloc((given + N) * VOCAB, sizeof *rows);
	json_t *tops = json_array(), *scores = score(c, ids, rows, tops);
	for (size_t i = 0; i < N; i++) {
		const json_t *got = json_array_get(json_object_get(expected, "logprobs"), i), *wanted = json_array_get(scores, given + i - 1);
		assert_true(json_real_value(wanted) < 0);
		assert_true(json_equal(got, wanted)); /* to the bit */
		expect_equal(json_array_get(json_object_get(expected, "top_logprobs"), i), json_array_get(tops, given + i - 1));
		check_top(json_array_get(json_object_get(expected, "top_logprobs"), i), rows + (given + i - 1) * VOCAB);
	}
	free(rows);
	json_decref(scores);
	json_decref(tops);
	json_decref(t);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void asking_for_fewer_or_none_changes_no_token_and_tells_as_many(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	json_t *none = said_of(c, ""), *zero = said_of(c, ",\"logprobs\":0"), *all = said_of(c, ",\"logprobs\":20");
	expect_equal(json_object_get(none, "ids"), json_object_get(expected, "ids"));
	assert_null(json_object_get(none, "logprobs"));
	expect_equal(json_object_get(zero, "logprobs"), json_object_get(expected, "logprobs"));
	assert_null(json_object_get(zero, "top_logprobs"));
	for (size_t i = 0; i < N; i++) {
		const json_t *long_list = json_array_get(json_object_get(all, "top_logprobs"), i);
		assert_int_equal(json_array_size(long_list), 20);
		for (size_t j = 0; j < TOP; j++)
			expect_equal(json_array_get(long_list, j), json_array_get(json_array_get(json_object_get(expected, "top_logprobs"), i), j));
	}
	json_decref(none);
	json_decref(zero);
	json_decref(all);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* Beside others that come and go, on other threads and instruction sets, in other chunks, with drafts and without. */
static void nothing_of_the_machine_changes_a_bit(void **state)
{
	static const struct { const char *isa, *yaml; unsigned threads; } ways[] = {
		{"portable", "speculate: off\n", 1}, {"avx2", "chunk_ms: 1\n", 2}, {NULL, "speculate: off\nchunk_ms: 1\n", 3}};
	(void)state;
	for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
		struct daemon d;
		struct streams others;
		daemon_start_as(&d, ways[w].isa, ways[w].threads, ways[w].yaml);
		int c = wire_open(d.path);
		streams_begin(&others, c, "other", 3, 40);
		json_t *said = said_of(c, ",\"logprobs\":5");
		expect_equal(said, expected);
		json_decref(said);
		streams_done(&others);
		close(c);
		assert_int_equal(daemon_stop(&d), 0);
		daemon_clean(&d);
	}
}

static void the_engine_may_be_killed_at_any_time(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	begin(c, "k", ",\"logprobs\":5");
	json_t *said = json_pack("{s:i}", "cursor", 0);
	for (unsigned i = 0; read_some(c, "k", said); i++)
		if (i % 8 == 3 && i < 40)
			kill(streams_engine(c), SIGKILL);
	expect_equal(said, expected);
	json_decref(said);
	said = read_all(c, "k"); /* and asked again from the beginning */
	expect_equal(said, expected);
	json_decref(said);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* Begins a run and reads some of it; what it has said. */
static json_t *begin_mid(int c)
{
	begin(c, "mid", ",\"logprobs\":5");
	json_t *said = json_pack("{s:i}", "cursor", 0);
	for (int i = 0; i < 4 && read_some(c, "mid", said); i++)
		;
	return said;
}

/* Reads the rest of it, and another that is over from the beginning; takes `said`. */
static void expect_rest(int c, json_t *said, const char *over)
{
	while (read_some(c, "mid", said))
		;
	json_t *again = read_all(c, over);
	expect_equal(said, expected);
	expect_equal(again, expected);
	json_decref(said);
	json_decref(again);
}

static void a_new_falcond_tells_the_same_from_any_cursor(void **state)
{
	struct daemon d;
	char yaml[96], lock[96], folder[64];
	(void)state;
	snprintf(folder, sizeof folder, "/dev/shm/falcond-logprobs-%d", (int)getpid());
	snprintf(yaml, sizeof yaml, "segments: %s\n", folder);
	snprintf(lock, sizeof lock, "%s/lock", folder);
	daemon_start(&d, yaml);
	int c = wire_open(d.path);
	begin(c, "over", ",\"logprobs\":5");
	json_decref(read_all(c, "over"));
	json_t *said = begin_mid(c);
	close(c);
	daemon_replace(&d, yaml);
	c = wire_open(d.path);
	expect_rest(c, said, "over");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	unlink(lock);
	rmdir(folder);
	daemon_clean(&d);
}

static void they_are_in_the_files_of_a_stop(void **state)
{
	struct daemon d;
	char yaml[96], folder[96];
	(void)state;
	daemon_prepare(&d);
	snprintf(folder, sizeof folder, "%s/state", d.folder);
	snprintf(yaml, sizeof yaml, "state: %.80s\n", folder);
	daemon_launch(&d, yaml);
	daemon_expect(&d, "ready: ");
	int c = wire_open(d.path);
	json_t *said = begin_mid(c);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_restart(&d, yaml);
	c = wire_open(d.path);
	expect_rest(c, said, "mid");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	tree_remove(folder);
	daemon_clean(&d);
}

static void a_fork_has_its_donors_and_an_append_those_it_asks_for(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	begin(c, "donor", ",\"logprobs\":5");
	json_t *said = json_pack("{s:i}", "cursor", 0);
	for (int i = 0; i < 3 && read_some(c, "donor", said); i++)
		;
	json_decref(wire_get(c, "{\"op\":\"fork\",\"session\":\"donor\",\"new\":\"fork\",\"request_id\":\"f\"}"));
	json_t *fork = read_all(c, "fork"), *donor = read_all(c, "donor");
	expect_equal(fork, expected);
	expect_equal(donor, expected);
	long long at = (long long)json_integer_value(json_object_get(donor, "cursor"));
	json_t *plain, *told;
	json_decref(wire_get(c, "{\"op\":\"append\",\"session\":\"donor\",\"at\":%lld,\"ids\":[9,8],\"n\":7}", at));
	json_decref(wire_get(c, "{\"op\":\"append\",\"session\":\"fork\",\"at\":%lld,\"ids\":[9,8],\"n\":7,\"logprobs\":1}", at));
	plain = read_all(c, "donor");
	told = read_all(c, "fork");
	assert_null(json_object_get(plain, "logprobs"));
	expect_equal(json_object_get(plain, "ids"), json_object_get(told, "ids"));
	assert_int_equal(json_array_size(json_object_get(told, "logprobs")), 7);
	assert_int_equal(json_array_size(json_array_get(json_object_get(told, "top_logprobs"), 0)), 1);
	json_t *all[] = {said, fork, donor, plain, told};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		json_decref(all[i]);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void what_they_need_is_bounded_and_bad_values_are_told(void **state)
{
	static const struct { const char *more, *code; } asks[] = {
		{",\"logprobs\":21", "bad_request"}, {",\"logprobs\":-1", "bad_request"}, {",\"logprobs\":1.0", "bad_request"},
		{",\"logprobs\":true", "bad_request"}, {",\"logprobs\":null", "bad_request"}, {",\"logprobs\":5", "none"},
		{",\"logprobs\":5", "too_many"}, {",\"logprobs\":3", "none"}, {"", "none"}};
	struct daemon d;
	(void)state;
	daemon_start(&d, "limits:\n  logprobs: 25000\n"); /* 300 tokens of 48 bytes, then 300 of 32 */
	int c = wire_open(d.path);
	json_t *r;
	for (size_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
		r = wire_ask(c, "{\"op\":\"generate\",\"session\":\"s%zu\",\"request_id\":\"%zu\"," PROMPT "," SAMPLING "%s}", i, i, asks[i].more);
		if (strcmp(wire_code(r), asks[i].code) != 0)
			fail_msg("%s: expected %s, got %s", asks[i].more, asks[i].code, json_dumps(r, 0));
		if (strcmp(asks[i].code, "bad_request") == 0)
			assert_non_null(strstr(json_string_value(json_object_get(json_object_get(r, "error"), "message")), "`logprobs`"));
		json_decref(r);
	}
	drop(c, "s5");
	begin(c, "later", ",\"logprobs\":5");
	json_decref(read_all(c, "later"));
	r = wire_ask(c, "{\"op\":\"fork\",\"session\":\"later\",\"request_id\":\"f\"}");
	assert_string_equal(wire_code(r), "too_many");
	json_decref(r);
	static const struct { const char *op, *code; } others[] = {
		{"{\"op\":\"score\",\"request_id\":\"sc\",\"ids\":[1],\"logprobs\":21}", "bad_request"},
		{"{\"op\":\"score\",\"request_id\":\"sc\",\"ids\":[1,2,3],\"logprobs\":1}", "none"},
		{"{\"op\":\"embed\",\"request_id\":\"em\",\"ids\":[1],\"logprobs\":1}", "bad_request"}};
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		r = wire_ask(c, "%s", others[i].op);
		assert_string_equal(wire_code(r), others[i].code);
		json_decref(r);
	}
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(they_are_the_log_softmax_of_the_logits_that_a_score_run_gives),
		cmocka_unit_test(asking_for_fewer_or_none_changes_no_token_and_tells_as_many),
		cmocka_unit_test(nothing_of_the_machine_changes_a_bit),
		cmocka_unit_test(the_engine_may_be_killed_at_any_time),
		cmocka_unit_test(a_new_falcond_tells_the_same_from_any_cursor),
		cmocka_unit_test(they_are_in_the_files_of_a_stop),
		cmocka_unit_test(a_fork_has_its_donors_and_an_append_those_it_asks_for),
		cmocka_unit_test(what_they_need_is_bounded_and_bad_values_are_told),
	};
	return cmocka_run_group_tests(tests, make_expected, free_expected);
}
