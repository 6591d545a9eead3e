/* SPDX-License-Identifier: Apache-2.0 */
/* The operations as a client sees them, against one falcond with the bundled model. */
#include <math.h>
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
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

static struct daemon d;
static int c; /* a connection */

#define PROMPT "\"prompt\":\"Once upon a time\""

static long long number(const json_t *reply, const char *field)
{
	const json_t *v = json_object_get(reply, field);
	if (!json_is_integer(v))
		fail_msg("no number %s in %s", field, json_dumps(reply, 0));
	return json_integer_value(v);
}

/* Reads a run from the cursor to its end: the ids; the text is appended to `text`. */
static json_t *read_on(const char *session, long long cursor, struct buf *text, char *finish)
{
	json_t *ids = json_array();
	for (bool done = false; !done;) {
		json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		assert_string_equal(wire_code(r), "none");
		json_array_extend(ids, json_object_get(r, "ids"));
		const json_t *piece = json_object_get(r, "text");
		buf_add(text, json_string_value(piece), json_string_length(piece));
		cursor = number(r, "cursor");
		done = json_is_true(json_object_get(r, "done"));
		if (done && finish != NULL)
			snprintf(finish, 16, "%s", json_string_value(json_object_get(r, "finish")));
		json_decref(r);
	}
	return ids;
}

static void drop(const char *session)
{
	json_t *r = wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s\"}", session);
	assert_true(json_is_true(json_object_get(r, "dropped")));
	json_decref(r);
}

static void expect_code(const char *message, const char *code)
{
	json_t *r = wire_ask(c, "%s", message);
	if (strcmp(wire_code(r), code) != 0)
		fail_msg("%s: expected %s, got %s", message, code, json_dumps(r, 0));
	if (strcmp(code, "none") != 0)
		assert_true(json_string_length(json_object_get(json_object_get(r, "error"), "message")) > 0);
	json_decref(r);
}

static void hello_tells_the_model_and_who_asks(void **state)
{
	(void)state;
	json_t *r = wire_ask(c, "{\"op\":\"hello\"}");
	assert_int_equal(number(r, "protocol"), 1);
	assert_int_equal(number(r, "vocab"), 4096);
	assert_int_equal(number(r, "context"), 2048);
	assert_int_equal(number(r, "uid"), getuid());
	assert_true(json_is_true(json_object_get(r, "admin")));
	assert_int_equal(number(json_object_get(r, "limits"), "message"), 1 << 20);
	json_decref(r);
}

static void a_reply_is_a_function_of_the_cursor(void **state)
{
	(void)state;
	struct buf text = {0}, again = {0};
	char finish[16];
	json_t *g = wire_ask(c, "{\"op\":\"generate\",\"session\":\"tale\",\"request_id\":\"t\"," PROMPT ",\"n\":40,\"seed\":7}");
	long long from = number(g, "cursor");
	assert_int_equal(from, number(g, "n_given"));
	json_t *ids = read_on("tale", from, &text, finish);
	assert_int_equal(json_array_size(ids), 40);
	assert_string_equal(finish, "length");
	for (long long at = from; at <= from + 40; at++) {
		json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"tale\",\"cursor\":%lld}", at);
		assert_int_equal(json_array_size(json_object_get(r, "ids")), (size_t)(from + 40 - at));
		const json_t *rest = json_object_get(r, "text");
		size_t n = json_string_length(rest);
		assert_true(n <= text.length);
		assert_memory_equal(text.data + text.length - n, json_string_value(rest), n);
		json_decref(r);
	}
	json_t *first = read_on("tale", 0, &again, NULL);
	assert_true(json_equal(first, ids));
	assert_string_equal(again.data, text.data);
	buf_done(&text);
	buf_done(&again);
	json_decref(g);
	json_decref(first);
	json_decref(ids);
	drop("tale");
}

static void a_stop_string_ends_the_text_before_it(void **state)
{
	(void)state;
	struct buf whole = {0}, cut = {0};
	char finish[16];
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"a\",\"request_id\":\"a\"," PROMPT ",\"n\":30,\"temp\":0}"));
	json_decref(read_on("a", 0, &whole, NULL));
	assert_true(whole.length > 20);
	char stop[4];
	snprintf(stop, sizeof stop, "%.3s", whole.data + 10);
	json_t *request = json_pack("{s:s,s:s,s:s,s:s,s:i,s:i,s:[s]}", "op", "generate", "session", "b", "request_id", "b", "prompt",
				    "Once upon a time", "n", 30, "temp", 0, "stop", stop);
	char *message = json_dumps(request, 0);
	expect_code(message, "none");
	json_decref(read_on("b", 0, &cut, finish));
	assert_string_equal(finish, "stop");
	const char *expected = strstr(whole.data, stop);
	assert_int_equal(cut.length, expected - whole.data);
	assert_memory_equal(cut.data, whole.data, cut.length);
	free(message);
	json_decref(request);
	buf_done(&whole);
	buf_done(&cut);
	drop("a");
	drop("b");
}

static void a_creating_request_may_arrive_twice(void **state)
{
	(void)state;
	static const char generate[] = "{\"op\":\"generate\",\"request_id\":\"same\"," PROMPT ",\"n\":5}";
	json_t *one = wire_ask(c, "%s", generate), *two = wire_ask(c, "%s", generate);
	assert_string_equal(wire_code(one), "none");
	assert_true(json_equal(one, two));
	const char *name = json_string_value(json_object_get(one, "session"));
	struct buf text = {0};
	json_decref(read_on(name, 0, &text, NULL));
	json_t *f = wire_ask(c, "{\"op\":\"fork\",\"session\":\"%s\",\"new\":\"f\",\"request_id\":\"fork\"}", name);
	json_t *g = wire_ask(c, "{\"op\":\"fork\",\"session\":\"%s\",\"new\":\"f\",\"request_id\":\"fork\"}", name);
	assert_string_equal(wire_code(f), "none");
	assert_true(json_equal(f, g));
	expect_code("{\"op\":\"generate\",\"session\":\"f\",\"request_id\":\"other\"," PROMPT "}", "exists");
	drop("f");
	drop(name);
	json_t *gone = wire_ask(c, "{\"op\":\"drop\",\"session\":\"%s\"}", name);
	assert_true(json_is_false(json_object_get(gone, "dropped")));
	buf_done(&text);
	json_t *all[] = {one, two, f, g, gone};
	for (size_t i = 0; i < 5; i++)
		json_decref(all[i]);
}

static void an_append_may_arrive_twice_and_goes_nowhere_else(void **state)
{
	(void)state;
	struct buf text = {0};
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[1,2,3],\"n\":4,\"ignore_eos\":true}"));
	json_decref(read_on("s", 0, &text, NULL));
	static const char append[] = "{\"op\":\"append\",\"session\":\"s\",\"at\":7,\"ids\":[9,8],\"n\":6}";
	json_t *one = wire_ask(c, "%s", append);
	assert_int_equal(number(one, "n_given"), 9);
	assert_int_equal(number(one, "n_cached"), 6); /* all but the last token, which nothing was computed from yet */
	json_t *ids = read_on("s", 9, &text, NULL);
	assert_int_equal(json_array_size(ids), 6);
	json_t *two = wire_ask(c, "%s", append);
	assert_true(json_equal(one, two));
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":7,\"ids\":[9,7]}", "at_mismatch");
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":99,\"ids\":[9,7]}", "at_mismatch");
	json_decref(one);
	json_decref(two);
	json_decref(ids);
	buf_done(&text);
	drop("s");
}

static void an_append_without_a_prompt_goes_on_as_if_the_run_had_not_ended(void **state)
{
	(void)state;
	static const char append[] = "{\"op\":\"append\",\"session\":\"s\",\"at\":13,\"n\":14}";
	struct buf whole = {0}, parts = {0};
	char finish[16];
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"w\",\"request_id\":\"w\",\"ids\":[1,2,3],\"seed\":5,\"n\":24,\"ignore_eos\":true}"));
	json_t *all = read_on("w", 0, &whole, NULL);
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[1,2,3],\"seed\":5,\"n\":10,\"ignore_eos\":true}"));
	json_t *ids = read_on("s", 0, &parts, NULL);
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":12}", "at_mismatch");
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":14}", "at_mismatch");
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":13,\"template\":\"plain\"}", "bad_request");
	expect_code("{\"op\":\"append\",\"session\":\"s\",\"at\":13,\"ids\":[1],\"prompt\":\"x\"}", "bad_request");
	json_t *one = wire_ask(c, append), *two = wire_ask(c, append); /* in its run */
	assert_int_equal(number(one, "n_given"), 13);
	assert_true(json_equal(one, two));
	json_t *rest = read_on("s", 13, &parts, finish), *three = wire_ask(c, append); /* and after it */
	assert_true(json_equal(one, three));
	assert_string_equal(finish, "length");
	json_array_extend(ids, rest);
	assert_true(json_equal(ids, all));
	assert_string_equal(parts.data, whole.data);
	drop("s");
	drop("w");
	buf_done(&parts);
	buf_done(&whole);
	json_t *gone[] = {all, ids, one, two, three, rest};
	for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
		json_decref(gone[i]);
}

/* The words at which an answer was stopped stay in the session: the next turn is the text of a conversation all the same. */
static void a_turn_behind_a_stop_has_the_text_of_a_conversation(void **state)
{
	(void)state;
	struct buf one = {0}, two = {0};
	json_t *colon = wire_ask(c, "{\"op\":\"tokenize\",\"text\":\":\"}");
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"prompt\":\"A king.\\n\\nUser\",\"n\":1,\"temp\":0,"
				"\"logit_bias\":{\"%lld\":100}}", json_integer_value(json_array_get(json_object_get(colon, "ids"), 0))));
	json_t *stopped = read_on("s", 0, &one, NULL);
	assert_string_equal(one.data, ":"); /* as if the model had said it */
	json_t *s = wire_ask(c, "{\"op\":\"sessions\"}");
	json_t *turn = wire_ask(c, "{\"op\":\"append\",\"session\":\"s\",\"at\":%lld,\"messages\":[{\"role\":\"user\",\"content\":\"Who?\"}],"
				   "\"template\":\"falcon-instruct\",\"n\":8,\"logit_bias\":{}}",
				number(json_array_get(json_object_get(s, "sessions"), 0), "n_tokens"));
	json_t *whole = wire_ask(c, "{\"op\":\"generate\",\"session\":\"w\",\"request_id\":\"w\",\"n\":8,\"temp\":0,"
				    "\"prompt\":\"A king.\\n\\nUser: Who?\\n\\nAssistant:\"}");
	assert_int_equal(number(turn, "n_given"), number(whole, "n_given"));
	one.length = 0;
	json_t *ids = read_on("s", 0, &one, NULL), *same = read_on("w", 0, &two, NULL);
	assert_true(json_equal(ids, same));
	drop("s");
	drop("w");
	buf_done(&one);
	buf_done(&two);
	json_t *gone[] = {colon, stopped, s, turn, whole, ids, same};
	for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
		json_decref(gone[i]);
}

static void a_fork_in_mid_run_says_what_its_donor_says(void **state)
{
	(void)state;
	struct buf one = {0}, two = {0};
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"p\",\"request_id\":\"p\"," PROMPT ",\"n\":400,\"seed\":3,\"ignore_eos\":true}"));
	json_t *some = wire_ask(c, "{\"op\":\"next\",\"session\":\"p\",\"cursor\":0,\"wait_ms\":20000}");
	json_t *f = wire_ask(c, "{\"op\":\"fork\",\"session\":\"p\",\"new\":\"q\",\"request_id\":\"q\"}");
	assert_true(number(f, "cursor") > 4 && number(f, "cursor") < 404);
	json_t *donor = read_on("p", 0, &one, NULL), *fork = read_on("q", 0, &two, NULL);
	assert_int_equal(json_array_size(donor), 400);
	assert_true(json_equal(donor, fork));
	assert_string_equal(one.data, two.data);
	json_t *all[] = {some, f, donor, fork};
	for (size_t i = 0; i < 4; i++)
		json_decref(all[i]);
	buf_done(&one);
	buf_done(&two);
	drop("p");
	drop("q");
}

static void a_cancelled_run_ends_and_its_session_stays(void **state)
{
	(void)state;
	struct buf text = {0};
	char finish[16];
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"x\",\"request_id\":\"x\"," PROMPT ",\"n\":2000,\"ignore_eos\":true}"));
	expect_code("{\"op\":\"append\",\"session\":\"x\",\"at\":5,\"ids\":[4095]}", "at_mismatch");
	json_t *r = wire_ask(c, "{\"op\":\"cancel\",\"session\":\"x\"}");
	json_t *ids = read_on("x", 0, &text, finish);
	assert_string_equal(finish, "cancelled");
	assert_int_equal(number(r, "cursor"), 4 + json_array_size(ids));
	json_decref(r);
	r = wire_ask(c, "{\"op\":\"append\",\"session\":\"x\",\"at\":%zu,\"ids\":[5],\"n\":2}", 4 + json_array_size(ids));
	assert_string_equal(wire_code(r), "none");
	json_decref(r);
	json_decref(ids);
	buf_done(&text);
	drop("x");
}

/* Every kind of message that cannot be served, and its code. */
static void bad_requests_get_their_code_and_falcond_goes_on(void **state)
{
	static const struct { const char *message, *code; } cases[] = {
		{"", "bad_request"}, {"not json", "bad_request"}, {"[1]", "bad_request"}, {"{}", "bad_request"},
		{"{\"op\":\"generat\"}", "bad_request"}, {"{\"op\":\"hello\",\"x\":1}", "bad_request"},
		{"{\"op\":\"hello\",\"op\":\"status\"}", "bad_request"}, {"{\"op\":\"tokenize\",\"text\":\"\xff\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"1\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"2\",\"prompt\":\"\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"3\",\"ids\":[]}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"4\",\"ids\":[4096]}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"5\",\"ids\":[-1]}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"6\"," PROMPT ",\"temp\":\"hot\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"7\"," PROMPT ",\"top_p\":2}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"8\"," PROMPT ",\"session\":\"a b\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"9\"," PROMPT ",\"template\":\"nothing\"}", "bad_request"},
		{"{\"op\":\"generate\",\"request_id\":\"10\"," PROMPT ",\"template\":\"chatml\"}", "unsupported"},
		{"{\"op\":\"generate\",\"request_id\":\"11\"," PROMPT ",\"logit_bias\":{\"4096\":1}}", "bad_request"},
		{"{\"op\":\"detokenize\",\"ids\":[4096]}", "bad_request"},
		{"{\"op\":\"next\",\"session\":\"none\",\"cursor\":0}", "no_session"},
		{"{\"op\":\"append\",\"session\":\"none\",\"at\":0,\"ids\":[1]}", "no_session"},
		{"{\"op\":\"cancel\",\"session\":\"~99\"}", "no_session"},
		{"{\"op\":\"fork\",\"session\":\"none\",\"request_id\":\"12\"}", "no_session"},
		{"{\"op\":\"next\",\"session\":\"123:none\",\"cursor\":0}", "no_session"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_true(wire_send(c, cases[i].message, strlen(cases[i].message)));
		json_t *r = wire_receive(c);
		if (r == NULL || strcmp(wire_code(r), cases[i].code) != 0)
			fail_msg("%s: expected %s, got %s", cases[i].message, cases[i].code, r ? json_dumps(r, 0) : "nothing");
		json_decref(r);
	}
	json_t *r = wire_ask(c, "{\"op\":\"sessions\"}");
	assert_int_equal(json_array_size(json_object_get(r, "sessions")), 0); /* none of them left anything behind */
	json_decref(r);
}

static void what_is_too_long_is_told_so(void **state)
{
	(void)state;
	struct buf message = {0};
	buf_printf(&message, "{\"op\":\"generate\",\"request_id\":\"long\",\"ids\":[1");
	for (int i = 0; i < 2048; i++)
		buf_printf(&message, ",1");
	buf_printf(&message, "]}");
	expect_code(message.data, "context_full");
	message.length = 0;
	buf_printf(&message, "{\"op\":\"generate\",\"request_id\":\"longer\",\"prompt\":\"");
	while (message.length < 200000) /* beyond what is tokenized in the loop */
		buf_printf(&message, "once upon a time ");
	buf_printf(&message, "\"}");
	expect_code(message.data, "context_full");
	message.length = 0;
	buf_printf(&message, "{\"op\":\"tokenize\",\"text\":\"");
	while (message.length <= 1 << 20)
		buf_printf(&message, "aaaaaaaaaaaaaaaa");
	buf_printf(&message, "\"}");
	expect_code(message.data, "too_large");
	buf_done(&message);
	json_decref(wire_ask(c, "{\"op\":\"hello\"}"));
}

static void text_comes_back_from_its_tokens(void **state)
{
	(void)state;
	json_t *ids = wire_ask(c, "{\"op\":\"tokenize\",\"text\":\"Gr\\u00fc\\u00dfe,\\u0000 \\u65e5\\u672c <|endoftext|>\"}");
	char *list = json_dumps(json_object_get(ids, "ids"), JSON_COMPACT);
	json_t *text = wire_ask(c, "{\"op\":\"detokenize\",\"ids\":%s}", list);
	static const char expected[] = "Gr\xc3\xbc\xc3\x9f" "e,\0 \xe6\x97\xa5\xe6\x9c\xac <|endoftext|>";
	assert_int_equal(json_string_length(json_object_get(text, "text")), sizeof expected - 1);
	assert_memory_equal(json_string_value(json_object_get(text, "text")), expected, sizeof expected - 1);
	free(list);
	json_decref(ids);
	json_decref(text);
}

/* The float32 values of base64 text. */
static float *decode_rows(const json_t *rows, size_t *ret_n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *text = json_string_value(rows);
	size_t length = json_string_length(rows), n = 0;
	uint8_t *bytes = malloc(length + 8);
	for (size_t i = 0; i + 4 <= length; i += 4) {
		uint32_t group = 0;
		int valid = 0;
		for (int k = 0; k < 4; k++) {
			const char *at = text[i + k] == '=' ? NULL : strchr(digits, text[i + k]);
			group = group << 6 | (at ? (uint32_t)(at - digits) : 0);
			valid += at != NULL;
		}
		for (int k = 0; k < valid - 1; k++)
			bytes[n++] = (uint8_t)(group >> (16 - 8 * k));
	}
	*ret_n = n / sizeof(float);
	return (float *)(void *)bytes;
}

static double logprob(const float *row, size_t n, long long token)
{
	double most = -INFINITY, sum = 0;
	for (size_t i = 0; i < n; i++)
		most = row[i] > most ? row[i] : most;
	for (size_t i = 0; i < n; i++)
		sum += exp(row[i] - most);
	return row[token] - most - log(sum);
}

static void a_score_tells_every_row_once(void **state)
{
	(void)state;
	enum { N = 300 }; /* more than one reply and more than the credit window holds */
	struct buf ids = {0};
	for (int i = 0; i < N; i++)
		buf_printf(&ids, "%s%d", i ? "," : "", i * 7 % 4000);
	json_t *s = wire_ask(c, "{\"op\":\"score\",\"request_id\":\"rows\",\"ids\":[%s],\"rows\":true}", ids.data);
	assert_int_equal(number(s, "n_tokens"), N);
	const char *name = json_string_value(json_object_get(s, "session"));
	long long cursor = 0;
	for (bool done = false; !done;) {
		json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", name, cursor);
		json_t *again = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", name, cursor);
		const json_t *logprobs = json_object_get(r, "logprobs");
		size_t n, rows;
		float *values = decode_rows(json_object_get(r, "rows"), &n);
		assert_int_equal(n % 4096, 0);
		rows = n / 4096;
		assert_non_null(json_object_get(again, "rows"));
		assert_true(json_array_size(json_object_get(again, "logprobs")) > 0 || cursor == N - 1); /* nothing follows the last token */
		assert_int_equal(number(r, "cursor"), cursor + (long long)rows);
		for (size_t i = 0; i < json_array_size(logprobs); i++) {
			long long token = (cursor + (long long)i + 1) * 7 % 4000;
			double expected = logprob(values + i * 4096, 4096, token), got = json_real_value(json_array_get(logprobs, i));
			assert_true(fabs(expected - got) < 1e-3);
		}
		assert_int_equal(json_array_size(logprobs), cursor + (long long)rows == N ? rows - 1 : rows);
		cursor = number(r, "cursor");
		done = json_is_true(json_object_get(r, "done"));
		free(values);
		json_decref(r);
		json_decref(again);
	}
	assert_int_equal(cursor, N);
	drop(name);
	json_decref(s);
	buf_done(&ids);
}

static void next_answers_at_the_end_of_its_wait(void **state)
{
	(void)state;
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	pid_t engine = (pid_t)number(json_object_get(status, "engine"), "pid");
	assert_int_equal(kill(engine, SIGSTOP), 0);
	json_decref(wire_ask(c, "{\"op\":\"generate\",\"session\":\"w\",\"request_id\":\"w\"," PROMPT ",\"n\":3}"));
	uint64_t start = clock_ns();
	json_t *r = wire_ask(c, "{\"op\":\"next\",\"session\":\"w\",\"cursor\":4,\"wait_ms\":200}");
	uint64_t took = clock_ns() - start;
	assert_int_equal(kill(engine, SIGCONT), 0);
	assert_true(took >= 190000000u);
	assert_int_equal(json_array_size(json_object_get(r, "ids")), 0);
	assert_true(json_is_false(json_object_get(r, "done")));
	json_decref(r);
	json_decref(status);
	drop("w");
}

static int start(void **state)
{
	(void)state;
	daemon_start(&d, NULL);
	c = wire_open(d.path);
	assert_true(c >= 0);
	return 0;
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
		cmocka_unit_test(hello_tells_the_model_and_who_asks),
		cmocka_unit_test(a_reply_is_a_function_of_the_cursor),
		cmocka_unit_test(a_stop_string_ends_the_text_before_it),
		cmocka_unit_test(a_creating_request_may_arrive_twice),
		cmocka_unit_test(an_append_may_arrive_twice_and_goes_nowhere_else),
		cmocka_unit_test(an_append_without_a_prompt_goes_on_as_if_the_run_had_not_ended),
		cmocka_unit_test(a_turn_behind_a_stop_has_the_text_of_a_conversation),
		cmocka_unit_test(a_fork_in_mid_run_says_what_its_donor_says),
		cmocka_unit_test(a_cancelled_run_ends_and_its_session_stays),
		cmocka_unit_test(bad_requests_get_their_code_and_falcond_goes_on),
		cmocka_unit_test(what_is_too_long_is_told_so),
		cmocka_unit_test(text_comes_back_from_its_tokens),
		cmocka_unit_test(a_score_tells_every_row_once),
		cmocka_unit_test(next_answers_at_the_end_of_its_wait),
	};
	return cmocka_run_group_tests_name("daemon_ops", tests, start, stop);
}
