/* SPDX-License-Identifier: Apache-2.0 */
/* Exports and imports in parts, as clients send them: twice, out of order, by others, and with lies in them. */
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

#include "base/base64.h"
#include "base/hash.h"
#include "daemon/spill_format.h"
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { OTHER_UID = 12345 };

static void expect(json_t *reply, const char *code)
{
	if (strcmp(wire_code(reply), code) != 0)
		fail_msg("expected %s, got %s", code, json_dumps(reply, 0));
	json_decref(reply);
}

/* Generates n tokens in a session and waits for the end; its ids. */
static json_t *generate(int c, const char *op, const char *session, const char *fields)
{
	json_t *ids = json_array(), *r = wire_ask(c, "{\"op\":\"%s\",\"session\":\"%s\",%s}", op, session, fields);
	long long cursor = json_integer_value(json_object_get(r, "cursor"));
	if (strcmp(wire_code(r), "none") != 0)
		fail_msg("%s", json_dumps(r, 0));
	for (bool done = false; !done;) {
		json_decref(r);
		r = wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%lld,\"wait_ms\":20000}", session, cursor);
		json_array_extend(ids, json_object_get(r, "ids"));
		cursor = json_integer_value(json_object_get(r, "cursor"));
		done = json_is_true(json_object_get(r, "done"));
	}
	json_decref(r);
	return ids;
}

#define RUN "\"request_id\":\"r\",\"prompt\":\"Once upon a time\",\"n\":60,\"seed\":3,\"temp\":1,\"ignore_eos\":true"
#define MORE "\"at\":64,\"prompt\":\" and\",\"n\":40"

/* The whole file, each part asked for twice. */
static void export(int c, const char *session, const char *id, struct buf *file)
{
	for (bool last = false; !last;) {
		json_t *r = NULL;
		for (int i = 0; i < 2; i++) {
			json_t *before = r;
			r = wire_ask(c, "{\"op\":\"export\",\"session\":\"%s\",\"request_id\":\"%s\",\"offset\":%zu}", session, id, file->length);
			if (strcmp(wire_code(r), "none") != 0)
				fail_msg("%s", json_dumps(r, 0));
			assert_true(before == NULL || json_equal(before, r));
			json_decref(before);
		}
		const json_t *data = json_object_get(r, "data");
		ptrdiff_t n = base64_decode(json_string_value(data), json_string_length(data),
					    (uint8_t *)buf_reserve(file, json_string_length(data)));
		assert_true(n > 0);
		file->length += (size_t)n;
		last = json_is_true(json_object_get(r, "last"));
		assert_int_equal(last, file->length == (size_t)json_integer_value(json_object_get(r, "size")));
		json_decref(r);
	}
}

static json_t *send_part(int c, const char *id, size_t offset, const void *bytes, size_t n, const char *more)
{
	struct buf text = {0};
	base64_encode(bytes, n, &text);
	json_t *r = wire_ask(c, "{\"op\":\"import\",\"request_id\":\"%s\",\"offset\":%zu,\"data\":\"%s\"%s}", id, offset,
			     text.length ? text.data : "", more);
	buf_done(&text);
	return r;
}

static void sessions_pass_in_parts_that_may_come_twice(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, "limits:\n  message: 16K\n");
	int c = wire_open(d.path);
	struct buf file = {0};
	json_decref(generate(c, "generate", "s", RUN));
	export(c, "s", "x", &file);
	json_t *expected = generate(c, "append", "s", MORE);
	size_t half = 9000;
	for (int i = 0; i < 2; i++)
		expect(send_part(c, "i", 0, file.data, half, ""), "none");
	expect(send_part(c, "i", half + 1, file.data, 10, ""), "bad_request"); /* a gap */
	for (size_t at = half; at < file.length; at += half)
		expect(send_part(c, "i", at, file.data + at, file.length - at < half ? file.length - at : half, ""), "none");
	expect(send_part(c, "i", file.length, "", 0, ",\"last\":true"), "exists");
	for (int i = 0; i < 2; i++) {
		json_t *r = send_part(c, "i", file.length, "", 0, ",\"session\":\"t\",\"last\":true");
		assert_string_equal(json_string_value(json_object_get(r, "session")), "t");
		assert_int_equal(json_integer_value(json_object_get(r, "n_tokens")), 64);
		json_decref(r);
	}
	json_t *got = generate(c, "append", "t", MORE);
	assert_true(json_equal(got, expected));
	json_decref(got);
	json_decref(expected);
	buf_done(&file);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_session_that_generates_is_not_exported_and_one_of_nobody_neither(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	expect(wire_ask(c, "{\"op\":\"generate\",\"session\":\"s\",\"request_id\":\"s\",\"ids\":[1],\"n\":2000,\"ignore_eos\":true}"), "none");
	expect(wire_ask(c, "{\"op\":\"export\",\"session\":\"s\",\"request_id\":\"x\",\"offset\":0}"), "busy");
	expect(wire_ask(c, "{\"op\":\"export\",\"session\":\"t\",\"request_id\":\"x\",\"offset\":0}"), "no_session");
	expect(wire_ask(c, "{\"op\":\"export\",\"session\":\"s\",\"request_id\":\"x\",\"offset\":5}"), "bad_request");
	expect(wire_ask(c, "{\"op\":\"cancel\",\"session\":\"s\"}"), "none");
	for (int i = 0; i < 9; i++) /* those that were read to their end make room */
		expect(wire_ask(c, "{\"op\":\"export\",\"session\":\"s\",\"request_id\":\"%d\",\"offset\":0,\"pages\":false}", i), "none");
	for (int i = 0; i < 4; i++)
		expect(send_part(c, (char[]){'i', (char)('0' + i), '\0'}, 0, "a", 1, ""), "none");
	expect(send_part(c, "i4", 0, "a", 1, ""), "too_many");
	expect(wire_ask(c, "{\"op\":\"import\",\"request_id\":\"i0\",\"offset\":1,\"data\":\"?\"}"), "bad_request");
	expect(send_part(c, "i0", (size_t)1 << 40, "a", 1, ""), "too_large");
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

/* The file as a liar changes it, who can compute checksums. */
static void lie(struct buf *file, size_t at, uint64_t value, size_t bytes)
{
	struct spill_header h;
	memcpy(file->data + at, &value, bytes);
	memcpy(&h, file->data, sizeof h);
	spill_seal((uint8_t *)file->data, spill_head_bytes(&h), h.n_kv);
}

static void lies_in_a_file_are_refused_and_the_daemon_goes_on(void **state)
{
	(void)state;
	static const struct { size_t at; uint64_t value; size_t bytes; const char *code; } lies[] = {
		{offsetof(struct spill_header, source), 1, 8, "unsupported"},
		{offsetof(struct spill_header, version), 9, 4, "bad_request"},
		{offsetof(struct spill_header, n_kv), 65, 4, "bad_request"},
		{256 + offsetof(struct board_record, n_stops), 77, 4, "bad_request"},
		{256 + offsetof(struct board_record, name_length), 0, 4, "bad_request"},
		{256 + offsetof(struct board_record, flags), 0xff, 4, "bad_request"},
		{256 + offsetof(struct board_record, n_end), UINT32_MAX, 4, "bad_request"}, /* the next append's end would be before it */
		{256 + 2048, 1u << 30, 4, "bad_request"},
		{offsetof(struct spill_header, page_bytes), UINT64_C(1) << 60, 8, "none"}, /* pages of another kind: left alone */
	};
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path);
	struct buf file = {0};
	json_decref(generate(c, "generate", "s", RUN));
	export(c, "s", "x", &file);
	json_t *expected = generate(c, "append", "s", MORE);
	for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
		char id[16], more[48];
		struct buf copy = {0};
		buf_add(&copy, file.data, file.length);
		lie(&copy, lies[i].at, lies[i].value, lies[i].bytes);
		snprintf(id, sizeof id, "lie-%zu", i);
		snprintf(more, sizeof more, ",\"session\":\"t-%zu\",\"last\":true", i);
		for (size_t at = 0; at < 3; at++) /* refused ones stay until they are forgotten: the same id serves them all */
			expect(send_part(c, strcmp(lies[i].code, "none") ? "lies" : id, 0, copy.data, copy.length, more), lies[i].code);
		buf_done(&copy);
	}
	json_t *got = generate(c, "append", "t-8", MORE);
	assert_true(json_equal(got, expected));
	/* Pages of numbers that are none end their session, if they have to, and nothing else. */
	struct spill_header h;
	memcpy(&h, file.data, sizeof h);
	for (uint32_t p = 0; p < 2; p++) {
		uint8_t *page = (uint8_t *)file.data + spill_head_bytes(&h) + p * spill_page_stride(h.page_bytes);
		memset(page + SPILL_CHECKSUM, 0xff, h.page_bytes);
		spill_page_checksum(h.salt, p, page + SPILL_CHECKSUM, h.page_bytes, page);
	}
	expect(send_part(c, "nan", 0, file.data, file.length, ",\"session\":\"nan\",\"last\":true"), "none");
	json_decref(generate(c, "append", "nan", MORE));
	json_decref(got);
	got = generate(c, "append", "t-8", "\"at\":105,\"prompt\":\".\",\"n\":5");
	assert_int_equal(json_array_size(got), 5);
	json_decref(got);
	json_decref(expected);
	buf_done(&file);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void a_last_part_waits_for_the_parts_before_it(void **state)
{
	(void)state;
	struct daemon d;
	daemon_start(&d, NULL);
	int c = wire_open(d.path), other = wire_open(d.path);
	struct buf file = {0}, text = {0}, large = {0};
	json_decref(generate(c, "generate", "s", RUN));
	export(c, "s", "x", &file);
	size_t n = file.length < 700000 ? file.length : 700000;
	base64_encode(file.data, n, &text);
	for (int i = 0; i < 20; i++) {
		char last[160];
		json_t *r;
		buf_done(&large);
		buf_printf(&large, "{\"op\":\"import\",\"request_id\":\"i%d\",\"offset\":0,\"data\":\"%s\"}", i, text.data);
		snprintf(last, sizeof last, "{\"op\":\"import\",\"request_id\":\"i%d\",\"session\":\"i%d\",\"offset\":%zu,"
			 "\"data\":\"\",\"last\":true}", i, i, n);
		expect(wire_ask(c, "%s", large.data), "none");
		assert_true(wire_send(other, large.data, large.length)); /* again, and the last one on its heels */
		do {
			r = wire_ask(c, "%s", last);
			if (strcmp(wire_code(r), "busy") != 0)
				break;
			json_decref(r);
		} while (true);
		expect(r, "none");
		json_decref(wire_receive(other));
	}
	buf_done(&large);
	buf_done(&text);
	buf_done(&file);
	close(other);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

static void sessions_without_a_name_get_a_new_one_in_a_falcond_that_took_over_too(void **state)
{
	(void)state;
	struct daemon d;
	char yaml[128], segments[64], lock[80];
	snprintf(segments, sizeof segments, "/dev/shm/falcond-test-%d", (int)getpid());
	snprintf(yaml, sizeof yaml, "segments: %s\n", segments);
	daemon_start(&d, yaml);
	int c = wire_open(d.path);
	struct buf file = {0};
	json_t *r = wire_ask(c, "{\"op\":\"generate\",\"request_id\":\"a\",\"ids\":[1,2],\"n\":1}");
	char *name = strdup(json_string_value(json_object_get(r, "session")));
	json_decref(r);
	json_decref(wire_ask(c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":2,\"wait_ms\":20000}", name));
	export(c, name, "x", &file);
	close(c);
	daemon_replace(&d, yaml);
	c = wire_open(d.path);
	for (int i = 0; i < 2; i++)
		expect(send_part(c, i ? "two" : "one", 0, file.data, file.length, ",\"last\":true"), "none");
	r = wire_ask(c, "{\"op\":\"sessions\"}");
	assert_int_equal(json_array_size(json_object_get(r, "sessions")), 3);
	json_decref(r);
	free(name);
	buf_done(&file);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	snprintf(lock, sizeof lock, "%s/lock", segments);
	unlink(lock);
	rmdir(segments);
	daemon_clean(&d);
}

/* What another user finds, as an exit status: 0 if all is as it should be. */
static int other_user(const struct daemon *d, const struct buf *file)
{
	int c = wire_open(d->path);
	if (strcmp(wire_code(wire_ask(c, "{\"op\":\"export\",\"session\":\"s\",\"request_id\":\"x\",\"offset\":0}")), "no_session") != 0)
		return 1;
	if (strcmp(wire_code(wire_ask(c, "{\"op\":\"drain\"}")), "forbidden") != 0)
		return 2;
	json_t *r = send_part(c, "i", 0, file->data, file->length, ",\"last\":true");
	if (strcmp(json_string_value(json_object_get(r, "session")), "s") != 0)
		return 3;
	json_t *s = json_array_get(json_object_get(wire_ask(c, "{\"op\":\"sessions\"}"), "sessions"), 0);
	if (json_integer_value(json_object_get(s, "uid")) != OTHER_UID || strcmp(json_string_value(json_object_get(s, "where")), "log") != 0)
		return 4;
	return json_array_size(generate(c, "append", "s", MORE)) == 40 ? 0 : 5;
}

static void an_import_is_its_importers_and_its_pages_are_computed_again(void **state)
{
	(void)state;
	if (getuid() != 0)
		skip();
	struct daemon d;
	daemon_start(&d, "socket_mode: 0666\n");
	int c = wire_open(d.path), status;
	struct buf file = {0};
	json_decref(generate(c, "generate", "s", RUN));
	export(c, "s", "x", &file);
	pid_t pid = fork();
	if (pid == 0)
		_exit(setresgid(OTHER_UID, OTHER_UID, OTHER_UID) < 0 || setresuid(OTHER_UID, OTHER_UID, OTHER_UID) < 0 ? 99
													: other_user(&d, &file));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	buf_done(&file);
	close(c);
	assert_int_equal(daemon_stop(&d), 0);
	daemon_clean(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sessions_pass_in_parts_that_may_come_twice),
		cmocka_unit_test(a_session_that_generates_is_not_exported_and_one_of_nobody_neither),
		cmocka_unit_test(lies_in_a_file_are_refused_and_the_daemon_goes_on),
		cmocka_unit_test(a_last_part_waits_for_the_parts_before_it),
		cmocka_unit_test(sessions_without_a_name_get_a_new_one_in_a_falcond_that_took_over_too),
		cmocka_unit_test(an_import_is_its_importers_and_its_pages_are_computed_again),
	};
	return cmocka_run_group_tests_name("daemon_transfer", tests, NULL, NULL);
}
