/* SPDX-License-Identifier: Apache-2.0 */
/* falconctl embed: bytes of standard input to a JSON array of numbers, a vector for the whole text. */
#include <jansson.h>

#include "client/command.h"
#include "client/console.h"
#include "ipc/protocol.h"

static const struct option_info options[] = {
	{"ids", NULL, OPTION_NO_FIELD, "standard input is a JSON array of token ids"},
	{"priority", "P", IPC_F_PRIORITY, NULL},
};

/* What was read as the request's prompt or ids. An enum command_exit. */
static int set_input(const struct arguments *a, const struct buf *input, struct falcon_request *r)
{
	struct ids ids = {0};
	struct falcon_error e;
	int rc = options_fields(a, r);
	if (rc == COMMAND_OK && options_has(a, "ids"))
		rc = console_ids(input->data, input->length, &ids) < 0 ? COMMAND_FAILED : COMMAND_OK;
	if (rc == COMMAND_OK && options_has(a, "ids"))
		falcon_set_ids(r, "ids", ids.data, ids.length, NULL);
	else if (rc == COMMAND_OK && falcon_set_text(r, "prompt", input->data, input->length, &e) < 0)
		rc = command_fail(&e);
	ids_done(&ids);
	return rc;
}

static int print_vector(const float *values, size_t n)
{
	struct buf out = {0};
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_real((double)values[i]));
	ipc_encode(list, &out);
	buf_add(&out, "\n", 1);
	int rc = console_write(out.data, out.length);
	buf_done(&out);
	return rc == 0 || console_broken() ? COMMAND_OK : COMMAND_FAILED;
}

static int ask(const struct arguments *a, struct falcon_request *r)
{
	struct falcon_error e;
	const float *values;
	size_t n;
	struct falcon *f = command_connect(a);
	if (f == NULL)
		return COMMAND_NO_DAEMON;
	console_watch(f);
	int rc = falcon_embed(f, r, &values, &n, NULL, &e);
	if (rc < 0)
		rc = console_signal() ? COMMAND_SIGNAL + console_signal() : command_fail(&e);
	else
		rc = print_vector(values, n);
	falcon_close(f);
	return rc;
}

static int embed(const struct arguments *a)
{
	struct buf input = {0};
	struct falcon_request *r = falcon_request_new();
	int rc = console_read(&input) < 0 ? COMMAND_FAILED : set_input(a, &input, r);
	if (rc == COMMAND_OK)
		rc = ask(a, r);
	falcon_request_free(r);
	buf_done(&input);
	return rc;
}

const struct command command_embed = {
	.name = "embed",
	.synopsis = "",
	.help = "Prints the text on standard input as a vector, a JSON array of numbers",
	.details = "The vector is the mean of the last hidden states, after the output norm, of the text's tokens; it is not scaled to any\n"
		   "length. The bytes are taken as they are; no token is put in front.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.run = embed,
};
