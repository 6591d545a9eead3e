/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl status: a line a value, or the protocol's object. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/command.h"
#include "client/console.h"

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

static int status(const struct arguments *a)
{
	struct falcon_error e;
	const char *text;
	struct buf out = {0};
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = COMMAND_OK;
	if (falcon_status(f, &text, &e) < 0) {
		rc = command_fail(&e);
	} else if (options_has(a, "json")) {
		buf_printf(&out, "%s\n", text);
	} else {
		json_t *reply = json_loads(text, 0, NULL);
		print("", reply, &out);
		json_decref(reply);
	}
	if (console_write(out.data, out.length) < 0 && !console_broken())
		rc = COMMAND_FAILED;
	buf_done(&out);
	falcon_close(f);
	return rc;
}

const struct command command_status = {
	.name = "status", .synopsis = "", .help = "Shows how the daemon is", .options = options, .n_options = 1, .run = status};
