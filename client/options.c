/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options come from tables, and so does help. An option that fills a field of the protocol has the field's type, bounds,
 * default and help from the protocol's table, so that a wrong value is told here, before a daemon is asked.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/command.h"
#include "client/console.h"
#include "ipc/protocol.h"

const struct option_info common_options[] = {
	{"s", "URL", OPTION_NO_FIELD, "the daemon's socket, ipc://PATH; $FALCOND_SOCKET, else " IPC_DEFAULT_URL},
	{"wait", "S", OPTION_NO_FIELD, "wait up to S seconds for a daemon that is not there yet"},
	{"help", NULL, OPTION_NO_FIELD, "print this"},
};
const unsigned n_common_options = sizeof common_options / sizeof *common_options;

int options_refuse(const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	console_say("%s", text);
	return COMMAND_USAGE;
}

/* The option that is called so in the command's table or the common one. length: without a "=value". */
static const struct option_info *find(const struct command *c, const char *name, size_t length)
{
	for (unsigned i = 0; c != NULL && i < c->n_options; i++)
		if (strlen(c->options[i].name) == length && memcmp(c->options[i].name, name, length) == 0)
			return &c->options[i];
	for (unsigned i = 0; i < n_common_options; i++)
		if (strlen(common_options[i].name) == length && memcmp(common_options[i].name, name, length) == 0)
			return &common_options[i];
	return NULL;
}

static int take_common(struct arguments *a, const struct option_info *o, const char *value)
{
	char *end;
	if (strcmp(o->name, "s") == 0) {
		a->url = value;
		return 0;
	}
	errno = 0;
	double seconds = strtod(value, &end);
	if (errno != 0 || end == value || *end != '\0' || !(seconds >= 0 && seconds <= 86400))
		return options_refuse("--wait: expected seconds from 0 to 86400, got '%s'", value);
	a->wait_ms = (uint32_t)(seconds * 1000);
	return 0;
}

/* One option at argv[at]; *ret_used: the words that it takes. */
static int take_option(const struct command *c, int argc, char **argv, int at, struct arguments *a, int *ret_used)
{
	const char *word = argv[at], *value = NULL;
	bool is_long = word[1] == '-';
	const char *name = word + (is_long ? 2 : 1);
	size_t length = is_long ? strcspn(name, "=") : 1;
	const struct option_info *o = strcmp(word, "-h") == 0 ? find(c, "help", 4) : find(c, name, length);
	*ret_used = 1;
	if (o == NULL || (is_long && length == 1) || (!is_long && strcmp(word, "-h") != 0 && strlen(o->name) != 1)) {
		const char *of = c ? c->name : "";
		return options_refuse("unknown option %s; see 'falconctl help%s%s'", word, c ? " " : "", of);
	}
	if (o->argument == NULL) {
		if (is_long ? name[length] == '=' : (strcmp(word, "-h") != 0 && name[1] != '\0'))
			return options_refuse("option %s takes no value", word);
	} else if (is_long ? name[length] == '=' : name[1] != '\0') {
		value = name + length + (is_long ? 1 : 0);
	} else if (at + 1 < argc) {
		value = argv[at + 1];
		*ret_used = 2;
	} else {
		return options_refuse("option %s needs a value: %s", word, o->argument);
	}
	if (value != NULL && o >= common_options && o < common_options + n_common_options)
		return take_common(a, o, value);
	if (a->n_given == sizeof a->given / sizeof *a->given)
		return options_refuse("too many options");
	a->given[a->n_given++] = (struct option_given){.info = o, .value = value};
	return 0;
}

int options_parse(const struct command *c, int argc, char **argv, struct arguments *a, int *ret_used)
{
	int at = 0;
	bool ended = false;
	while (at < argc) {
		const char *word = argv[at];
		int used = 1, rc = 0;
		if (!ended && strcmp(word, "--") == 0) {
			ended = true;
		} else if (!ended && word[0] == '-' && word[1] != '\0') {
			rc = take_option(c, argc, argv, at, a, &used);
		} else if (c == NULL) {
			break;
		} else if (a->n_positional == c->max_positional) {
			return options_refuse("%s: too many arguments, beginning with '%s'", c->name, word);
		} else {
			a->positional[a->n_positional++] = word;
		}
		if (rc != 0)
			return rc;
		at += used;
	}
	*ret_used = at;
	if (c != NULL && a->n_positional < c->min_positional && !options_has(a, "help"))
		return options_refuse("%s: expected %s; see 'falconctl help %s'", c->name, c->synopsis, c->name);
	return 0;
}

bool options_has(const struct arguments *a, const char *name)
{
	for (unsigned i = 0; i < a->n_given; i++)
		if (strcmp(a->given[i].info->name, name) == 0)
			return true;
	return false;
}

const char *options_value(const struct arguments *a, const char *name)
{
	const char *value = NULL;
	for (unsigned i = 0; i < a->n_given; i++)
		if (strcmp(a->given[i].info->name, name) == 0)
			value = a->given[i].value;
	return value;
}

int options_count(const struct arguments *a, const char *name, uint32_t low, uint32_t high, uint32_t *ret)
{
	const char *value = options_value(a, name);
	char *end;
	if (value == NULL)
		return 0;
	errno = 0;
	long long n = strtoll(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' || n < low || n > high)
		return options_refuse("%s%s: expected a whole number from %u to %u, got '%s'", name[1] ? "--" : "-", name, low, high,
				      value);
	*ret = (uint32_t)n;
	return 0;
}

static int set_number(const struct option_given *g, struct falcon_request *r)
{
	const struct ipc_field_info *f = &ipc_fields[g->info->field];
	const char *dashes = g->info->name[1] ? "--" : "-";
	char *end;
	errno = 0;
	if (f->type == IPC_INT) {
		long long n = strtoll(g->value, &end, 10);
		if (errno != 0 || end == g->value || *end != '\0' || (double)n < f->low || (double)n > f->high)
			return options_refuse("%s%s: expected a whole number from %.0f, got '%s'", dashes, g->info->name, f->low, g->value);
		return falcon_set_int(r, f->name, n, NULL);
	}
	double x = strtod(g->value, &end);
	if (errno != 0 || end == g->value || *end != '\0' || !(x >= f->low && x <= f->high))
		return options_refuse("%s%s: expected a number from %g to %g, got '%s'", dashes, g->info->name, f->low, f->high, g->value);
	return falcon_set_real(r, f->name, x, NULL);
}

int options_fields(const struct arguments *a, struct falcon_request *r)
{
	struct falcon_error e;
	for (unsigned i = 0; i < a->n_given; i++) {
		const struct option_given *g = &a->given[i];
		if (g->info->field == OPTION_NO_FIELD)
			continue;
		const struct ipc_field_info *f = &ipc_fields[g->info->field];
		int rc;
		if (f->type == IPC_BOOL)
			rc = falcon_set_bool(r, f->name, true, &e);
		else if (f->type == IPC_INT || f->type == IPC_REAL)
			rc = set_number(g, r);
		else if (f->type == IPC_STOPS)
			rc = falcon_add_stop(r, g->value, strlen(g->value), &e);
		else
			rc = falcon_set_text(r, f->name, g->value, strlen(g->value), &e);
		if (rc < 0)
			return options_refuse("--%s: %s", g->info->name, e.message);
		if (rc > 0)
			return rc;
	}
	return 0;
}

const char *options_meaning(const struct option_info *o)
{
	return o->help ? o->help : ipc_fields[o->field].help;
}

const char *options_default(const struct option_info *o)
{
	const struct ipc_field_info *f = o->help == NULL ? &ipc_fields[o->field] : NULL;
	return f != NULL && f->type != IPC_BOOL ? f->fallback : NULL;
}

static void print_options(const struct option_info *options, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct option_info *o = &options[i];
		const char *fallback = options_default(o);
		char left[64];
		snprintf(left, sizeof left, "%s%s%s%s", o->name[1] ? "--" : "-", o->name, o->argument ? " " : "",
			 o->argument ? o->argument : "");
		printf("  %-22s %s", left, options_meaning(o));
		if (fallback != NULL)
			printf(" [%s]", fallback);
		printf("\n");
	}
}

void options_help(const struct command *c)
{
	printf("falconctl %s%s%s%s%s\n\n%s.\n", c->name, c->n_options ? " [OPTION]..." : "", c->synopsis[0] ? " " : "", c->synopsis,
	       "", c->help);
	if (c->details != NULL)
		printf("\n%s\n", c->details);
	printf("\n");
	print_options(c->options, c->n_options);
	print_options(common_options, n_common_options);
}
