/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl sessions: a table, or the protocol's object. */
#include <jansson.h>
#include <string.h>

#include "client/command.h"
#include "client/console.h"

static const struct option_info options[] = {{"json", NULL, OPTION_NO_FIELD, "print the protocol's JSON object"}};

static const char *text_of(const json_t *session, const char *field)
{
	const char *text = json_string_value(json_object_get(session, field));
	return text != NULL ? text : "-";
}

static long long count_of(const json_t *session, const char *field)
{
	return (long long)json_number_value(json_object_get(session, field));
}

static void table(const char *text, struct buf *out)
{
	json_t *reply = json_loads(text, 0, NULL), *s;
	size_t i;
	buf_printf(out, "%-24s %8s %-10s %8s %-8s %8s\n", "SESSION", "UID", "STATE", "TOKENS", "WHERE", "IDLE");
	json_array_foreach (json_object_get(reply, "sessions"), i, s)
		buf_printf(out, "%-24s %8lld %-10s %8lld %-8s %7llds\n", text_of(s, "session"), count_of(s, "uid"), text_of(s, "state"),
			   count_of(s, "n_tokens"), text_of(s, "where"), count_of(s, "idle_s"));
	json_decref(reply);
}

static int sessions(const struct arguments *a)
{
	struct falcon_error e;
	const char *text;
	struct buf out = {0};
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = COMMAND_OK;
	if (falcon_sessions(f, &text, &e) < 0)
		rc = command_fail(&e);
	else if (options_has(a, "json"))
		buf_printf(&out, "%s\n", text);
	else
		table(text, &out);
	if (console_write(out.data, out.length) < 0 && !console_broken())
		rc = COMMAND_FAILED;
	buf_done(&out);
	falcon_close(f);
	return rc;
}

const struct command command_sessions = {
	.name = "sessions", .synopsis = "", .help = "Lists your sessions", .options = options, .n_options = 1, .run = sessions};
