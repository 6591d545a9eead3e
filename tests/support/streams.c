/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/streams.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/wire.h"

static const char *const prompts[] = {"Once upon a time", "The king said to his daughter", "A wolf came out of the wood",
				      "There was a poor tailor who"};
enum { PROMPTS = sizeof prompts / sizeof prompts[0], LONG = 40 };

void streams_begin(struct streams *s, int c, const char *prefix, unsigned n, unsigned tokens)
{
	*s = (struct streams){.c = c, .n = n};
	for (unsigned i = 0; i < n; i++) {
		struct streams_one *o = &s->of[i];
		char prompt[LONG * 40] = "";
		size_t length = 0;
		for (unsigned k = 0; k < (i % 3 == 2 ? LONG : 1); k++)
			length += (size_t)snprintf(prompt + length, sizeof prompt - length, "%s%s", k ? " " : "", prompts[(i + k) % PROMPTS]);
		snprintf(o->name, sizeof o->name, "%s-%u", prefix, i);
		json_t *r = wire_ask(c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"prompt\":\"%s\",\"n\":%u,\"seed\":%u,"
				     "\"ignore_eos\":true,\"repeat_penalty\":1.1}", o->name, o->name, prompt, tokens, i);
		assert_null(json_object_get(r, "error"));
		o->given = o->cursor = json_integer_value(json_object_get(r, "cursor"));
		o->ids = json_array();
		json_decref(r);
	}
}

static void copy(char *to, size_t size, const json_t *text)
{
	snprintf(to, size, "%s", json_is_string(text) ? json_string_value(text) : "");
}

static void read_one(struct streams *s, struct streams_one *o, int wait_ms)
{
	json_t *r = wire_ask(s->c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":%d}", o->name, o->cursor, wait_ms);
	const json_t *error = json_object_get(r, "error");
	if (error != NULL) {
		copy(o->code, sizeof o->code, json_object_get(error, "code"));
		copy(o->message, sizeof o->message, json_object_get(error, "message"));
		o->over = true;
	} else {
		json_array_extend(o->ids, json_object_get(r, "ids"));
		o->cursor = json_integer_value(json_object_get(r, "cursor"));
		copy(o->finish, sizeof o->finish, json_object_get(r, "finish"));
		o->over = json_is_true(json_object_get(r, "done"));
	}
	json_decref(r);
}

bool streams_read(struct streams *s, int wait_ms)
{
	bool more = false;
	for (unsigned i = 0; i < s->n; i++) {
		if (!s->of[i].over)
			read_one(s, &s->of[i], wait_ms);
		more |= !s->of[i].over;
	}
	return more;
}

void streams_expect_equal(const struct streams *a, const struct streams *b, int except)
{
	assert_int_equal(a->n, b->n);
	for (unsigned i = 0; i < a->n; i++) {
		size_t n = json_array_size(a->of[i].ids);
		if ((int)i != except && (n != json_array_size(b->of[i].ids) || strcmp(a->of[i].finish, b->of[i].finish) != 0))
			fail_msg("stream %u has %zu tokens and finish \"%s\" (%s), expected %zu and \"%s\"", i, n, a->of[i].finish,
				 a->of[i].message, json_array_size(b->of[i].ids), b->of[i].finish);
		for (size_t k = 0; k < n; k++)
			if (!json_equal(json_array_get(a->of[i].ids, k), json_array_get(b->of[i].ids, k)))
				fail_msg("stream %u differs from its token %zu on", i, k);
	}
}

void streams_done(struct streams *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		json_decref(wire_ask(s->c, "{\"op\":\"drop\",\"session\":\"%s\"}", s->of[i].name));
		json_decref(s->of[i].ids);
	}
}

long long streams_status(int c, const char *object, const char *field)
{
	json_t *status = wire_ask(c, "{\"op\":\"status\"}");
	const json_t *value = json_object_get(object ? json_object_get(status, object) : status, field);
	assert_true(json_is_integer(value));
	long long n = json_integer_value(value);
	json_decref(status);
	return n;
}

pid_t streams_engine(int c)
{
	for (int i = 0; i < 60000; i++, usleep(1000)) {
		pid_t pid = (pid_t)streams_status(c, "engine", "pid");
		if (pid > 0)
			return pid;
	}
	fail_msg("no engine was started");
	return 0;
}
