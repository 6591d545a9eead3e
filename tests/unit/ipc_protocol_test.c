/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "ipc/protocol.h"

static struct ipc_request good(const char *json)
{
	struct ipc_request r;
	struct ipc_error e;
	if (ipc_decode(json, strlen(json), &r, &e) < 0)
		fail_msg("%s: %s", json, e.err.what);
	return r;
}

/* The message is refused, and what it is told contains `expected`. */
static void bad(const char *json, size_t length, const char *expected)
{
	struct ipc_request r;
	struct ipc_error e;
	if (ipc_decode(json, length, &r, &e) == 0)
		fail_msg("accepted: %s", json);
	assert_int_equal(e.code, IPC_BAD_REQUEST);
	if (strstr(e.err.what, expected) == NULL && strstr(e.err.hint, expected) == NULL)
		fail_msg("%s: got \"%s\" (%s), expected \"%s\"", json, e.err.what, e.err.hint, expected);
}
#define BAD(json, expected) bad(json, strlen(json), expected)

static void generate_has_the_defaults_of_the_table(void **state)
{
	(void)state;
	struct ipc_request r = good("{\"op\":\"generate\",\"request_id\":\"a\",\"prompt\":\"Once\"}");
	assert_int_equal(r.op, IPC_GENERATE);
	assert_int_equal(r.prompt.length, 4);
	assert_string_equal(r.prompt.data, "Once");
	assert_true(r.special);
	assert_false(r.ignore_eos);
	assert_int_equal(r.n, 256);
	assert_int_equal(r.top_k, 40);
	assert_int_equal(r.repeat_last_n, 64);
	assert_true(r.temp == 0.8 && r.top_p == 0.95 && r.min_p == 0.05 && r.repeat_penalty == 1);
	assert_true(r.presence_penalty == 0 && r.frequency_penalty == 0);
	assert_string_equal(r.priority.data, "interactive");
	assert_false(ipc_has(&r, IPC_F_SEED));
	assert_false(ipc_has(&r, IPC_F_TEMP));
	ipc_request_done(&r);
}

static void append_leaves_absent_sampling_fields_alone(void **state)
{
	(void)state;
	struct ipc_request r = good("{\"op\":\"append\",\"session\":\"~12\",\"at\":7,\"ids\":[1,2147483647],\"temp\":0}");
	assert_int_equal(r.at, 7);
	assert_int_equal(r.ids.length, 2);
	assert_int_equal(r.ids.data[1], 2147483647);
	assert_true(ipc_has(&r, IPC_F_TEMP));
	assert_false(ipc_has(&r, IPC_F_N));
	assert_int_equal(r.n, 0);
	assert_true(r.special);
	ipc_request_done(&r);
}

static void every_type_is_taken_over(void **state)
{
	(void)state;
	struct ipc_request r = good("{\"op\":\"generate\",\"request_id\":\"\xc3\xa9\",\"prompt\":\"a\\u0000b\",\"special\":false,"
				    "\"stop\":[\"\\n\",\"x\"],\"logit_bias\":{\"11\":-100,\"0\":0.5},\"seed\":9223372036854775807,"
				    "\"temp\":1,\"priority\":\"batch\",\"session\":\"a.B_9-\"}");
	assert_int_equal(r.prompt.length, 3);
	assert_memory_equal(r.prompt.data, "a\0b", 4);
	assert_false(r.special);
	assert_int_equal(r.n_stops, 2);
	assert_string_equal(r.stops[0].data, "\n");
	assert_int_equal(r.n_biases, 2);
	assert_int_equal(r.biases[0].id, 11);
	assert_true(r.biases[0].bias == -100.0f && r.biases[1].bias == 0.5f);
	assert_true(r.seed == INT64_MAX);
	assert_true(r.temp == 1);
	assert_string_equal(r.session.data, "a.B_9-");
	ipc_request_done(&r);
}

static void every_operation_takes_its_required_fields_and_misses_each(void **state)
{
	(void)state;
	static const char *const sample[IPC_FIELDS] = {
		[IPC_F_SESSION] = "\"s\"", [IPC_F_REQUEST_ID] = "\"r\"", [IPC_F_TEXT] = "\"\"", [IPC_F_IDS] = "[3]",
		[IPC_F_AT] = "0", [IPC_F_CURSOR] = "0", [IPC_F_OFFSET] = "0", [IPC_F_DATA] = "\"\"",
	};
	for (int op = 0; op < IPC_OPS; op++) {
		/* Round -1 leaves nothing out, the others one required field each. */
		for (int left_out = -1; left_out < IPC_FIELDS; left_out++) {
			if (left_out >= 0 && !(ipc_ops[op].required >> left_out & 1))
				continue;
			struct buf b = {0};
			buf_printf(&b, "{\"op\":\"%s\"", ipc_ops[op].name);
			if (ipc_ops[op].optional >> IPC_F_PROMPT & 1)
				buf_printf(&b, ",\"prompt\":\"p\"");
			for (int f = 0; f < IPC_FIELDS; f++)
				if (f != left_out && (ipc_ops[op].required >> f & 1))
					buf_printf(&b, ",\"%s\":%s", ipc_fields[f].name, sample[f]);
			buf_printf(&b, "}");
			if (left_out < 0) {
				struct ipc_request r = good(b.data);
				assert_int_equal(r.op, op);
				ipc_request_done(&r);
			} else {
				BAD(b.data, ipc_fields[left_out].name);
			}
			buf_done(&b);
		}
	}
}

static void errors_name_the_field_and_what_was_expected(void **state)
{
	(void)state;
#define GENERATE(rest) "{\"op\":\"generate\",\"request_id\":\"a\"," rest "}"
	BAD(GENERATE("\"prompt\":7"), "field `prompt`: expected a string, got 7");
	BAD(GENERATE("\"prompt\":\"\""), "`prompt`");
	BAD(GENERATE("\"prompt\":\"p\",\"temp\":\"hot\""), "field `temp`: expected a number from 0 to 100, got \"hot\"");
	BAD(GENERATE("\"prompt\":\"p\",\"temp\":-0.1"), "from 0 to 100, got the real number -0.1");
	BAD(GENERATE("\"prompt\":\"p\",\"n\":1.0"), "field `n`: expected a whole number from 1 to 2147483647");
	BAD(GENERATE("\"prompt\":\"p\",\"n\":0"), "`n`");
	BAD(GENERATE("\"prompt\":\"p\",\"n\":true"), "got true");
	BAD(GENERATE("\"prompt\":\"p\",\"seed\":-1"), "`seed`: expected a whole number from 0 to 9223372036854775807, got -1");
	BAD(GENERATE("\"prompt\":\"p\",\"seed\":9223372036854775808"), "too big integer");
	BAD(GENERATE("\"prompt\":\"p\",\"stop\":[\"\"]"), "`stop`[0]");
	BAD(GENERATE("\"prompt\":\"p\",\"stop\":[1,2,3,4,5,6,7,8,9]"), "at most 8 strings");
	BAD(GENERATE("\"prompt\":\"p\",\"logit_bias\":{\"x\":1}"), "`logit_bias`: expected token ids as keys");
	BAD(GENERATE("\"prompt\":\"p\",\"logit_bias\":{\"01\":1}"), "`logit_bias`");
	BAD(GENERATE("\"prompt\":\"p\",\"logit_bias\":{\"1\":1e9}"), "`logit_bias`[\"1\"]");
	BAD(GENERATE("\"prompt\":\"p\",\"priority\":\"urgent\""), "one of interactive|batch");
	BAD(GENERATE("\"prompt\":\"p\",\"session\":\"a b\""), "field `session`: expected a name");
	BAD(GENERATE("\"prompt\":\"p\",\"session\":\"a\\u0000\""), "field `session`");
	BAD(GENERATE("\"prompt\":\"p\",\"session\":\"~3\""), "cannot be made");
	BAD(GENERATE("\"prompt\":\"p\",\"session\":\"1000:x\""), "cannot be made");
	BAD(GENERATE("\"ids\":[1,-1]"), "`ids`[1]: expected a token id, got -1");
	BAD(GENERATE("\"ids\":[2147483648]"), "`ids`[0]");
	BAD(GENERATE("\"ids\":[]"), "at least one");
	BAD(GENERATE("\"ids\":[1],\"prompt\":\"p\""), "got 2 of them");
	BAD(GENERATE("\"n\":4"), "got 0 of them");
	BAD(GENERATE("\"ids\":[1],\"template\":\"chatml\""), "`template`");
	BAD(GENERATE("\"messages\":[]"), "at least one");
	BAD(GENERATE("\"messages\":[1]"), "[0].role");
	BAD(GENERATE("\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"root\",\"content\":\"x\"}]"), "[1].role");
	BAD(GENERATE("\"messages\":[{\"role\":\"user\",\"content\":[]}]"), "[0]");
	BAD(GENERATE("\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]"), "alone");
	BAD(GENERATE("\"prompt\":\"p\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"), "2 of them");
	BAD(GENERATE("\"prompt\":\"p\",\"tempp\":1"), "known: temp");
	BAD("{\"op\":\"generate\",\"request_id\":\"\",\"prompt\":\"p\"}", "`request_id`");
	BAD("{\"op\":\"next\",\"session\":\"s\",\"cursor\":0,\"wait_ms\":30001}", "from 0 to 30000, got 30001");
	BAD("{\"op\":\"hello\",\"x\":1}", "it has no fields");
	BAD("{\"op\":\"genrate\"}", "known: generate");
	BAD("{\"op\":\"zzz\"}", "hello, generate, append");
	BAD("{\"op\":7}", "field `op`");
	BAD("{}", "got nothing");
}

static void what_is_no_json_object_is_refused(void **state)
{
	(void)state;
	BAD("", "not a JSON object");
	BAD("[]", "expected a JSON object, got an array of 0");
	BAD("7", "JSON object");
	BAD("{\"op\":\"hello\"} x", "not a JSON object");
	BAD("{\"op\":\"hello\",\"op\":\"hello\"}", "duplicate");
	BAD("{\"op\":\"tokenize\",\"text\":\"\xff\"}", "UTF-8");
	BAD("{\"op\":\"tokenize\",\"text\":\"\xed\xa0\x80\"}", "UTF-8");
	BAD("{\"op\":\"tokenize\",\"text\":\"\\ud800\"}", "Unicode");
	bad("{\"op\":\"hello\"}\0", 15, "not a JSON object");
	struct buf deep = {0};
	for (int i = 0; i < 100000; i++)
		buf_add(&deep, "[", 1);
	BAD(deep.data, "depth");
	buf_done(&deep);
}

static void an_error_is_valid_json_whatever_it_quotes(void **state)
{
	(void)state;
	struct ipc_error e;
	ipc_error_set(&e, IPC_NO_SESSION, "cut \xe2\x82");
	err_hint(&e.err, "hint");
	struct buf out = {0};
	ipc_encode(ipc_error_json(&e), &out);
	assert_string_equal(out.data, "{\"error\":{\"code\":\"no_session\",\"message\":\"cut ??\",\"hint\":\"hint\"}}");
	buf_done(&out);
}

static void names_of_others_are_accepted_where_a_session_is_named(void **state)
{
	(void)state;
	static const char *const names[] = {"a", "~0", "~18446744073709551615", "1000:story", "1000:~7", "1000",
					    "0123456789012345678901234567890123456789012345678901234567890123"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct buf b = {0};
		buf_printf(&b, "{\"op\":\"drop\",\"session\":\"%s\"}", names[i]);
		struct ipc_request r = good(b.data);
		assert_string_equal(r.session.data, names[i]);
		ipc_request_done(&r);
		buf_done(&b);
	}
	BAD("{\"op\":\"drop\",\"session\":\"~\"}", "`session`");
	BAD("{\"op\":\"drop\",\"session\":\"~x\"}", "`session`");
	BAD("{\"op\":\"drop\",\"session\":\":x\"}", "`session`");
	BAD("{\"op\":\"drop\",\"session\":\"1:2:x\"}", "`session`");
	BAD("{\"op\":\"drop\",\"session\":\"\"}", "`session`");
	BAD("{\"op\":\"drop\",\"session\":\"01234567890123456789012345678901234567890123456789012345678901234\"}", "`session`");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(generate_has_the_defaults_of_the_table),
		cmocka_unit_test(append_leaves_absent_sampling_fields_alone),
		cmocka_unit_test(every_type_is_taken_over),
		cmocka_unit_test(every_operation_takes_its_required_fields_and_misses_each),
		cmocka_unit_test(errors_name_the_field_and_what_was_expected),
		cmocka_unit_test(what_is_no_json_object_is_refused),
		cmocka_unit_test(an_error_is_valid_json_whatever_it_quotes),
		cmocka_unit_test(names_of_others_are_accepted_where_a_session_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
