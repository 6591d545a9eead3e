/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Embeddings as a client sees them: the mean of the hidden states that the forward pass gives, added up here in double; the same
 * bits on every instruction set and in every company, and over the death of either process; bounded, and fair.
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
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/daemon.h"
#include "tests/support/files.h"
#include "tests/support/lab.h"
#include "tests/support/streams.h"
#include "tests/support/wire.h"

enum { TOKENS = 700, VOCAB = 4096 }; /* several steps long */

static int32_t ids[TOKENS];
static char *ids_text;    /* the same as JSON */
static double *reference; /* [n_embd] */
static uint32_t n_embd;

/* Of the forward pass, in chunks that falcond would not make. */
static double *mean_of(const struct model *m, const int32_t *log, uint32_t n)
{
	const struct forward_options o = {.kv = PAGES_F16, .max_tokens = 64, .max_spans = 1, .max_logits = 1, .max_context = TOKENS,
		.threads = 1};
	float *hidden = xcalloc((size_t)64 * m->hp.n_embd, sizeof *hidden);
	double *sum = xcalloc(m->hp.n_embd, sizeof *sum);
	struct lab l;
	lab_init(&l, m, kernels_select("portable"), o);
	struct lab_session *s = lab_session_new(&l);
	for (uint32_t at = 0; at < n; at += 50) {
		uint32_t count = n - at < 50 ? n - at : 50;
		struct forward_span span = lab_span(s, log + at, count, FORWARD_HIDDEN, NULL);
		span.hidden_out = hidden;
		lab_run(&l, &span, 1);
		assert_false(span.failed);
		s->n_kv += count;
		for (uint32_t t = 0; t < count; t++)
			for (uint32_t i = 0; i < m->hp.n_embd; i++)
				sum[i] += (double)hidden[(size_t)t * m->hp.n_embd + i];
	}
	for (uint32_t i = 0; i < m->hp.n_embd; i++)
		sum[i] = (double)(float)(sum[i] / n);
	lab_session_free(s);
	lab_done(&l);
	free(hidden);
	return sum;
}

static int make_reference(void **state)
{
	struct err e = {0};
	struct model m;
	uint64_t size;
	uint32_t seed = 3;
	json_t *list = json_array();
	(void)state;
	for (uint32_t i = 0; i < TOKENS; i++) {
		seed = seed * 1664525u + 1013904223u;
		ids[i] = (int32_t)((seed >> 8) % VOCAB);
		json_array_append_new(list, json_integer(ids[i]));
	}
	ids_text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	void *image = lab_pack("models/falcon-tales.Q8_0.gguf", &size);
	if (model_open(image, size, &m, &e) < 0)
		fail_msg("%s", e.what);
	reference = mean_of(&m, ids, TOKENS);
	n_embd = m.hp.n_embd;
	model_close(&m);
	munmap(image, size);
	return 0;
}

static int free_reference(void **state)
{
	(void)state;
	free(ids_text);
	free(reference);
	return 0;
}

static void begin(int c, const char *request)
{
	json_t *r = wire_get(c, "{\"op\":\"embed\",\"request_id\":\"%s\",\"ids\":%s}", request, ids_text);
	assert_int_equal(json_integer_value(json_object_get(r, "n_tokens")), TOKENS);
	json_decref(r);
}

/* The session that a request has made, once more. */
static char *session_of(int c, const char *request)
{
	json_t *r = wire_get(c, "{\"op\":\"embed\",\"request_id\":\"%s\",\"ids\":%s}", request, ids_text);
	char *name = xstrdup(json_string_value(json_object_get(r, "session")));
	json_decref(r);
	return name;
}

/* Waits for its vector, which must be the reference's to the bit, and drops it. */
static void expect_reference(int c, const char *request)
{
	char *session = session_of(c, request);
	json_t *r = NULL;
	for (bool is_over = false; !is_over;) {
		json_decref(r);
		r = wire_get(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":0,\"wait_ms\":20000}", session);
		is_over = json_is_true(json_object_get(r, "done"));
		assert_true(is_over || json_object_get(r, "embedding") == NULL);
	}
	const json_t *v = json_object_get(r, "embedding");
	assert_string_equal(json_string_value(json_object_get(r, "finish")), "length");
	assert_int_equal(json_array_size(v), n_embd);
	for (uint32_t i = 0; i < n_embd; i++)
		if ((float)json_real_value(json_array_get(v, i)) != (float)reference[i])
			fail_msg("element %u is %a, the reference %a", i, json_real_value(json_array_get(v, i)), reference[i]);
	json_decref(r);
	r = wire_get(c, "{\"op\":\"drop\",\"session\":\"%s\"}", session);
	assert_true(json_is_true(json_object_get(r, "dropped")));
	json_decref(r);
	free(session);
}

static void the_vector_is_the_mean_of_the_hidden_states_wherever_it_is_computed(void **state)
{
	static const struct { const char *isa, *yaml; unsigned threads; } ways[] = {
		{"portable", NULL, 2}, {"avx2", "chunk_ms: 1\n", 1}, {NULL, NULL, 2}};
	(void)state;
	for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
		struct daemon d;
		struct streams others;
		daemon_start_as(&d, ways[w].isa, ways[w].threads, ways[w].yaml);
		int c = wire_open(d.path);
		streams_begin(&others, c, "other", 3, 40);
		begin(c, "one");
		begin(c, "two"); /* both at once: they share the ring */
		expect_reference(c, "one");
		expect_reference(c, "two");
		streams_done(&others);
		close(c);
		assert_int_equal(daemon_stop(&d), 0);
		daemon_clean(&d);
	}
}

static void neither_process_s_death_changes_a_bit(void **state)
{
	struct daemon d;
	char yaml[96], folder[64], lock[96];
	(void)state;
	snprintf(folder, sizeof folder, "/dev/shm/falcond-embed-%d", (int)getpid());
	snprintf(yaml, sizeof yaml, "segments: %s\n", folder);
	snprintf(lock, sizeof lock, "%s/lock", folder);
	daemon_start(&d, yaml);
	int c = wire_open(d.path);
	begin(c, "engine");
	kill(streams_engine(c), SIGKILL);
	expect_reference(c, "engine");
	begin(c, "falcond");
	close(c);
	daemon_replace(&d, yaml);
	c = wire_open(d.path);
	expect_reference(c, "falcond");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	unlink(lock);
	rmdir(folder);
	daemon_clean(&d);
}

static void expect_code(int c, const char *message, const char *code)
{
	json_t *r = wire_ask(c, "%s", message);
	if (strcmp(wire_code(r), code) != 0)
		fail_msg("%s: expected %s, got %s", message, code, json_dumps(r, 0));
	json_decref(r);
}

static void what_cannot_be_embedded_is_told_and_limits_hold(void **state)
{
	struct daemon d;
	(void)state;
	daemon_start(&d, "limits:\n  queued_tokens: 1000\n  sessions: 3\n");
	int c = wire_open(d.path);
	expect_code(c, "{\"op\":\"embed\",\"request_id\":\"e\"}", "bad_request");
	expect_code(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":[]}", "bad_request");
	expect_code(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":[4096]}", "bad_request");
	expect_code(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":[1],\"prompt\":\"x\"}", "bad_request");
	expect_code(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":[1],\"rows\":true}", "bad_request");
	expect_code(c, "{\"op\":\"embed\",\"ids\":[1]}", "bad_request");
	json_t *list = json_array();
	for (int i = 0; i < 2100; i++)
		json_array_append_new(list, json_integer(7));
	char *text = json_dumps(list, JSON_COMPACT);
	json_t *r = wire_ask(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":%s}", text);
	assert_string_equal(wire_code(r), "context_full");
	json_decref(r);
	json_array_clear(list);
	for (int i = 0; i < 1001; i++)
		json_array_append_new(list, json_integer(7));
	free(text);
	text = json_dumps(list, JSON_COMPACT);
	r = wire_ask(c, "{\"op\":\"embed\",\"request_id\":\"e\",\"ids\":%s}", text);
	assert_string_equal(wire_code(r), "too_many");
	json_decref(r);
	free(text);
	json_decref(list);
	begin(c, "good");
	char *session = session_of(c, "good"), message[160];
	snprintf(message, sizeof message, "{\"op\":\"append\",\"session\":\"%s\",\"at\":700,\"ids\":[1]}", session);
	expect_code(c, message, "unsupported");
	snprintf(message, sizeof message, "{\"op\":\"fork\",\"session\":\"%s\",\"request_id\":\"f\"}", session);
	expect_code(c, message, "unsupported");
	snprintf(message, sizeof message, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":701}", session);
	expect_code(c, message, "bad_request");
	expect_reference(c, "good");
	free(session);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_vector_is_the_mean_of_the_hidden_states_wherever_it_is_computed),
		cmocka_unit_test(neither_process_s_death_changes_a_bit),
		cmocka_unit_test(what_cannot_be_embedded_is_told_and_limits_hold),
	};
	return cmocka_run_group_tests(tests, make_reference, free_reference);
}
