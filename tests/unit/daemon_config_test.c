/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/auth.h"
#include "daemon/config.h"
#include "shm/pages.h"

static void every_default_is_a_value_that_its_key_accepts(void **state)
{
	(void)state;
	struct config c;
	config_init(&c);
	assert_null(c.model);
	assert_string_equal(c.socket, "ipc:///run/falcond/falcond.sock");
	assert_int_equal(c.socket_mode, 0660);
	assert_int_equal(c.kv, PAGES_F16);
	assert_int_equal(c.limits.message, 1 << 20);
	assert_int_equal(c.limits.requests, 2048);
	assert_int_equal(c.step_deadline, 10);
	assert_int_equal(c.set, 0);
	config_done(&c);
}

static void values_are_read_by_their_type(void **state)
{
	static const char text[] = "# a comment\nmodel: /m.gguf\nsocket_mode: 0600\nthreads: 4\nkv: f32\nmemory: 6G\n"
				   "limits:\n  message: 64K\n  pages: 7\ndetach_after: 0\ndense: \"openblas\"\n";
	(void)state;
	struct config c;
	struct err e;
	config_init(&c);
	assert_int_equal(config_parse(&c, "f", text, sizeof text - 1, &e), 0);
	assert_string_equal(c.model, "/m.gguf");
	assert_int_equal(c.socket_mode, 0600);
	assert_int_equal(c.threads, 4);
	assert_int_equal(c.kv, PAGES_F32);
	assert_int_equal(c.memory, 6ull << 30);
	assert_int_equal(c.limits.message, 64 << 10);
	assert_int_equal(c.limits.pages, 7);
	assert_int_equal(c.detach_after, 0);
	assert_int_equal(c.dense, 1);
	assert_true(config_is_set(&c, CONFIG_KV));
	assert_false(config_is_set(&c, CONFIG_STATE));
	config_done(&c);
}

static void an_empty_file_changes_nothing(void **state)
{
	static const char *const texts[] = {"", "\n", "# nothing\n"};
	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		struct config c;
		struct err e;
		config_init(&c);
		assert_int_equal(config_parse(&c, "f", texts[i], strlen(texts[i]), &e), 0);
		assert_int_equal(c.set, 0);
		config_done(&c);
	}
}

/* What is wrong, where, and what the error has to say of it. */
static void every_mistake_is_told_with_its_place_and_what_would_be_right(void **state)
{
	static const struct { const char *text, *what, *hint; } cases[] = {
		{"threads: 4\nmodle: x\n", "f:2:1: unknown key \"modle\"", "\"model\""},
		{"limits:\n  sesions: 4\n", "f:2:3: unknown key \"limits.sesions\"", "\"sessions\" in the section \"limits\""},
		{"sessions: 4\n", "f:1:1: unknown key \"sessions\"", "\"sessions\" in the section \"limits\""},
		{"limits.sessions: 4\n", "f:1:1: unknown key \"limits.sessions\"", "in the section \"limits\""},
		{"web:\n  listen: x\n", "f:1:1: unknown key \"web\"", ""},
		{"threads: 4\nthreads: 5\n", "f:2:1: threads: the key is there twice", ""},
		{"limits:\n  pages: 1\nlimits:\n  pages: 2\n", "f:3:1: limits: the section is there twice", ""},
		{"limits:\n  pages: 1\n  pages: 2\n", "f:3:3: limits.pages: the key is there twice", ""},
		{"threads: many\n", "f:1:10: threads: expected a whole number from 0 to 1024, got \"many\"", ""},
		{"threads: -1\n", "f:1:10: threads: expected a whole number", ""},
		{"threads: 1025\n", "f:1:10: threads: expected a whole number from 0 to 1024, got \"1025\"", ""},
		{"threads: 99999999999999999999\n", "f:1:10: threads: expected", ""},
		{"threads: 4.5\n", "f:1:10: threads: expected", ""},
		{"threads: \"4\"\n", "f:1:10: threads: expected a whole number from 0 to 1024, got the text \"4\"", ""},
		{"threads:\n", "f:1:9: threads: expected", ""},
		{"model:\n", "f:1:7: model: expected a text, got nothing", ""},
		{"memory: 6GB\n", "f:1:9: memory: expected bytes", ""},
		{"memory: 99999999999999999T\n", "f:1:9: memory: expected bytes", ""},
		{"socket_mode: 0888\n", "f:1:14: socket_mode: expected an octal file mode from 0 to 777, got \"0888\"", ""},
		{"kv: f64\n", "f:1:5: kv: expected one of f16|f32|q8, got \"f64\"", ""},
		{"kv: f16|f32\n", "f:1:5: kv: expected one of", ""},
		{"kv: [f16]\n", "f:1:5: kv: expected a single value, got a list", ""},
		{"kv: {f16: 1}\n", "f:1:5: kv: expected a single value, got a mapping", ""},
		{"model: &m x\n", "f:1:8: model: anchors and tags are not used here", ""},
		{"model: *m\n", "f:1:8: model: expected a single value, got an alias", ""},
		{"model: !!str x\n", "f:1:8: model: anchors and tags are not used here", ""},
		{"model: \"a\\0b\"\n", "f:1:8: model: a NUL byte", ""},
		{"[a]: b\n", "f:1:1: a key: expected a single value, got a list", ""},
		{"limits: 4\n", "f:1:9: limits: expected keys of this section, got a single value", "two spaces"},
		{"- a\n", "f:1:1: expected keys and values, got a list", "threads: 4"},
		{"just words\n", "f:1:1: expected keys and values, got a single value", "threads: 4"},
		{"threads: 4\n---\nthreads: 5\n", "f:2:1: a second document", ""},
		{"threads: 4\n\tkv: f16\n", "f:2:1: not YAML", ""},
		{"model: \"abc\n", "f:", ""},
		{"model: \xff\n", "f:", ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct config c;
		struct err e = {0};
		config_init(&c);
		assert_int_equal(config_parse(&c, "f", cases[i].text, strlen(cases[i].text), &e), -EINVAL);
		if (strncmp(e.what, cases[i].what, strlen(cases[i].what)) != 0 || strstr(e.hint, cases[i].hint) == NULL)
			fail_msg("%s: expected \"%s\" and \"%s\", got \"%s\" and \"%s\"", cases[i].text, cases[i].what, cases[i].hint, e.what,
				 e.hint);
		config_done(&c);
	}
}

static void an_option_is_checked_like_its_key(void **state)
{
	(void)state;
	struct config c;
	struct err e;
	config_init(&c);
	assert_int_equal(config_set(&c, CONFIG_THREADS, "8", &e), 0);
	assert_int_equal(c.threads, 8);
	assert_int_equal(config_set(&c, CONFIG_KV, "q4", &e), -EINVAL);
	assert_string_equal(e.what, "kv: expected one of f16|f32|q8, got \"q4\"");
	config_done(&c);
}

/* The file that is installed has every key of the table, commented or not, and says the defaults. */
static void the_example_explains_every_key(void **state)
{
	(void)state;
	char path[4096], *text = calloc(1, 65536), *help = NULL;
	size_t length = 0;
	snprintf(path, sizeof path, "%s/etc/falcond.yaml", getenv("srcdir") ? getenv("srcdir") : ".");
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_true(fread(text, 1, 65535, f) > 0);
	fclose(f);
	struct config c, defaults;
	struct err e;
	config_init(&c);
	config_init(&defaults);
	if (config_parse(&c, "etc/falcond.yaml", text, strlen(text), &e) < 0)
		fail_msg("%s", e.what);
	assert_int_equal(c.memory, defaults.memory);
	assert_int_equal(c.chunk_ms, defaults.chunk_ms);
	assert_memory_equal(&c.limits, &defaults.limits, sizeof c.limits);
	f = open_memstream(&help, &length);
	config_help(f);
	fclose(f);
	int keys = 0;
	for (char *line = strtok(help, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		char name[64], wanted[80];
		assert_int_equal(sscanf(line, " %63s", name), 1);
		snprintf(wanted, sizeof wanted, "%s:", strchr(name, '.') ? strchr(name, '.') + 1 : name);
		if (strstr(text, wanted) == NULL)
			fail_msg("etc/falcond.yaml says nothing of %s", name);
		keys++;
	}
	assert_int_equal(keys, CONFIG_KEYS);
	config_done(&c);
	config_done(&defaults);
	free(text);
	free(help);
}

/* "#key:" and "#  key:" become keys; a comment has a blank or more words first. */
static void uncomment(char *text)
{
	for (char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		size_t blanks = line[0] == '#' ? strspn(line + 1, " ") : 1;
		size_t name = blanks == 1 ? 0 : strspn(line + 1 + blanks, "abcdefghijklmnopqrstuvwxyz_");
		if (name > 0 && line[1 + blanks + name] == ':')
			memmove(line, line + 1, strlen(line));
	}
}

static void the_example_is_good_with_every_key_in_use(void **state)
{
	(void)state;
	char path[4096], *text = calloc(1, 65536);
	snprintf(path, sizeof path, "%s/etc/falcond.yaml", getenv("srcdir") ? getenv("srcdir") : ".");
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_true(fread(text, 1, 65535, f) > 0);
	fclose(f);
	uncomment(text);
	struct config c;
	struct err e;
	config_init(&c);
	if (config_parse(&c, "etc/falcond.yaml", text, strlen(text), &e) < 0)
		fail_msg("%s", e.what);
	assert_int_equal(c.set, (1u << CONFIG_KEYS) - 1);
	config_done(&c);
	free(text);
}

static void a_uid_map_is_whole_only_if_it_maps_every_uid_to_itself(void **state)
{
	(void)state;
	assert_true(auth_map_is_whole("         0          0 4294967295\n"));
	assert_false(auth_map_is_whole("0 1000 1\n"));
	assert_false(auth_map_is_whole("0 100000 65536\n"));
	assert_false(auth_map_is_whole("0 0 65536\n65536 65536 1000\n"));
	assert_false(auth_map_is_whole(""));
	assert_false(auth_known((uid_t)-1));
	assert_false(auth_known(65534));
	assert_true(auth_known(1000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_default_is_a_value_that_its_key_accepts),
		cmocka_unit_test(values_are_read_by_their_type),
		cmocka_unit_test(an_empty_file_changes_nothing),
		cmocka_unit_test(every_mistake_is_told_with_its_place_and_what_would_be_right),
		cmocka_unit_test(an_option_is_checked_like_its_key),
		cmocka_unit_test(the_example_explains_every_key),
		cmocka_unit_test(the_example_is_good_with_every_key_in_use),
		cmocka_unit_test(a_uid_map_is_whole_only_if_it_maps_every_uid_to_itself),
	};
	return cmocka_run_group_tests_name("daemon_config", tests, NULL, NULL);
}
