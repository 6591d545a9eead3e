/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl status: a line a value, or the protocol's object. */
#include <stdio.h>
#include <stdlib.h>

#include "client/command.h"

static const struct option_info options[] = {{"json", NULL, OPTION_NO_FIELD, "print the protocol's JSON object"}};

/* "pages.free  1024", depth first. */
static void print(const char *prefix, json_t *object, struct buf *out)
{
	const char *key;
	json_t *value;
	json_object_foreach (object, key, value) {
		char name[128];
		snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] ? "." : "", key);
		if (json_is_object(value)) {
			print(name, value, out);
			continue;
		}
		char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
		buf_printf(out, "%-18s %s\n", name, text != NULL ? text : json_is_string(value) ? json_string_value(value) : "-");
		free(text);
	}
}

static void lines(json_t *reply, struct buf *out)
{
	print("", reply, out);
}

static int status(const struct arguments *a)
{
	return command_show(a, falcon_status, lines);
}

const struct command command_status = {
	.name = "status", .synopsis = "", .help = "Shows how the daemon is", .options = options, .n_options = 1, .run = status};
