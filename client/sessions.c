/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl sessions: a table, or the protocol's object. */
#include <string.h>

#include "client/command.h"

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

static void table(json_t *reply, struct buf *out)
{
	json_t *list = json_object_get(reply, "sessions"), *s;
	size_t i;
	int width = 24;
	json_array_foreach (list, i, s)
		width = (int)strlen(text_of(s, "session")) > width ? (int)strlen(text_of(s, "session")) : width;
	buf_printf(out, "%-*s %8s %-10s %8s %-8s %8s\n", width, "SESSION", "UID", "STATE", "TOKENS", "WHERE", "IDLE");
	json_array_foreach (list, i, s)
		buf_printf(out, "%-*s %8lld %-10s %8lld %-8s %7llds\n", width, text_of(s, "session"), count_of(s, "uid"), text_of(s, "state"),
			   count_of(s, "n_tokens"), text_of(s, "where"), count_of(s, "idle_s"));
}

static int sessions(const struct arguments *a)
{
	return command_show(a, falcon_sessions, table);
}

const struct command command_sessions = {
	.name = "sessions", .synopsis = "", .help = "Lists your sessions", .options = options, .n_options = 1, .run = sessions};
