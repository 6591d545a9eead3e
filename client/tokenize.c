/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl tokenize: bytes of standard input to a JSON array of ids, or a JSON string a line to an array a line. */
#include <jansson.h>
#include <string.h>

#include "client/command.h"
#include "client/console.h"

static const struct option_info options[] = {
	{"jsonl", NULL, OPTION_NO_FIELD, "each line is a JSON string and gives one array"},
};

static int one(struct falcon *f, const char *text, size_t length)
{
	struct falcon_error e;
	const int32_t *ids;
	size_t n;
	if (falcon_tokenize(f, text, length, true, &ids, &n, &e) < 0)
		return command_fail(&e);
	return console_write_ids(ids, n) == 0 || console_broken() ? COMMAND_OK : COMMAND_FAILED;
}

static int lines(struct falcon *f, const struct buf *input)
{
	unsigned number = 0;
	for (size_t at = 0; at < input->length && !console_broken();) {
		const char *line = input->data + at, *end = memchr(line, '\n', input->length - at);
		size_t length = end != NULL ? (size_t)(end - line) : input->length - at;
		json_error_t error;
		json_t *string = json_loadb(line, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
		number++;
		at += length + 1;
		if (!json_is_string(string)) {
			console_say("line %u: expected a JSON string%s%s", number, string ? "" : ": ", string ? "" : error.text);
			json_decref(string);
			return COMMAND_FAILED;
		}
		int rc = one(f, json_string_value(string), json_string_length(string));
		json_decref(string);
		if (rc != 0)
			return rc;
	}
	return COMMAND_OK;
}

static int tokenize(const struct arguments *a)
{
	struct buf input = {0};
	if (console_read(&input) < 0)
		return COMMAND_FAILED;
	struct falcon *f = command_connect(a);
	int rc = COMMAND_NO_DAEMON;
	if (f != NULL)
		rc = options_has(a, "jsonl") ? lines(f, &input) : one(f, input.data, input.length);
	falcon_close(f);
	buf_done(&input);
	return rc;
}

const struct command command_tokenize = {
	.name = "tokenize",
	.synopsis = "",
	.help = "Prints the token ids of standard input as a JSON array",
	.details = "The bytes are taken as they are, a final newline included. Names of special tokens mean those tokens.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.run = tokenize,
};
