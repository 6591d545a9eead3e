/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manual SRCDIR <FRAME >PAGE: fills the frame of a manual page, man/NAME.SECTION.in, with what the program's own tables and files
 * say. A line `.\" insert PART [FILE]` is replaced by that part, @VERSION@ by the version; all else is copied. So no page repeats by
 * hand what an option, a key, a field or a function is.
 */
#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/command.h"
#include "daemon/cli.h"
#include "ipc/protocol.h"
#include "man/header.h"
#include "man/markdown.h"
#include "man/roff.h"

static void fail(const char *what, const char *which)
{
	fprintf(stderr, "manual: %s: %s\n", what, which);
	exit(1);
}

/* falcond(8) ----------------------------------------------------------------------------------------------------------- */

static void falcond_options(FILE *out, const char *text)
{
	(void)text;
	for (unsigned i = 0; i < cli_n_options; i++) {
		const struct cli_option *o = &cli_options[i];
		fputs(".TP\n", out);
		if (o->letter != 0)
			fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
		fprintf(out, "\\fB\\-\\-%s\\fR", o->name);
		if (o->argument != NULL)
			fprintf(out, " \\fI%s\\fR", o->argument);
		fputc('\n', out);
		roff_sentence(out, cli_meaning(o));
		if (o->key != CLI_NO_KEY)
			fprintf(out, "Sets the key \\fB%s\\fR.\n", config_about((enum config_id)o->key).name);
	}
}

/* falcond.yaml(5) ------------------------------------------------------------------------------------------------------ */

/* Whether a line of the example sets a key, in use or as a comment. section: the key stands in one. */
static bool sets(const char *line, const char *key, bool section)
{
	if (*line == '#')
		line++;
	if (section && strspn(line, " ") != 2)
		return false;
	line += section ? 2 : 0;
	return strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':';
}

/* What the example says of a key: the comment above its line. Empty if it stands directly below another key's. */
static void find_comment(const char *example, const char *key, struct buf *ret)
{
	const char *dot = strchr(key, '.'), *name = dot ? dot + 1 : key;
	bool inside = dot == NULL;
	for (const char *line = example, *end; *line != '\0'; line = *end ? end + 1 : end) {
		const char *word = line + strspn(line, " ");
		end = strchrnul(line, '\n');
		if (!inside && strncmp(line + (*line == '#'), key, (size_t)(dot - key)) == 0)
			inside = true;
		else if (inside && sets(line, name, dot != NULL))
			return;
		if (strncmp(word, "# ", 2) == 0 && word[2] != ' ')
			buf_printf(ret, "%.*s\n", (int)(end - word) - 2, word + 2);
		else
			ret->length = 0;
	}
	fail("the example does not have the key", key);
}

static void falcond_keys(FILE *out, const char *example)
{
	struct buf comment = {0};
	for (int i = 0; i < CONFIG_KEYS; i++) {
		struct config_about k = config_about((enum config_id)i);
		fprintf(out, ".TP\n\\fB%s\\fR (", k.name);
		roff_words(out, k.expected, strlen(k.expected), false);
		if (k.fallback != NULL)
			fprintf(out, "; default \\fB%s\\fR", k.fallback);
		fputs(")\n", out);
		comment.length = 0;
		find_comment(example, k.name, &comment);
		if (comment.length > 0)
			roff_text(out, comment.data, comment.length);
		else
			roff_sentence(out, k.help);
	}
	buf_done(&comment);
}

/* falconctl(1) --------------------------------------------------------------------------------------------------------- */

static void print_options(FILE *out, const struct option_info *options, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct option_info *o = &options[i];
		const char *fallback = options_default(o);
		fputs(".TP\n", out);
		roff_words(out, o->name[1] ? "--" : "-", o->name[1] ? 2 : 1, true);
		roff_words(out, o->name, strlen(o->name), true);
		if (o->argument != NULL)
			fprintf(out, " \\fI%s\\fR", o->argument);
		fputc('\n', out);
		roff_sentence(out, options_meaning(o));
		if (fallback != NULL)
			fprintf(out, "The default is %s.\n", fallback);
	}
}

static void falconctl_options(FILE *out, const char *text)
{
	(void)text;
	print_options(out, common_options, n_common_options);
}

static void falconctl_commands(FILE *out, const char *text)
{
	(void)text;
	for (unsigned i = 0; i < n_commands; i++) {
		const struct command *c = commands[i];
		fprintf(out, ".SS \"%s%s%s%s\"\n", c->name, c->n_options ? " [OPTION]..." : "", c->synopsis[0] ? " " : "", c->synopsis);
		roff_sentence(out, c->help);
		for (const char *at = c->details, *end; at != NULL; at = *end ? end + 2 : NULL) {
			end = strstr(at, "\n\n");
			end = end ? end : strchr(at, '\0');
			fputs(".PP\n", out);
			roff_text(out, at, (size_t)(end - at));
		}
		print_options(out, c->options, c->n_options);
	}
}

/* The frame ------------------------------------------------------------------------------------------------------------ */

static const struct part {
	const char *name;
	void (*print)(FILE *out, const char *text); /* text: the file's content, or NULL */
} parts[] = {
	{"falcond-options", falcond_options},
	{"falcond-keys", falcond_keys},
	{"falconctl-options", falconctl_options},
	{"falconctl-commands", falconctl_commands},
	{"markdown", markdown_print},
	{"header-names", header_names},
	{"header-prototypes", header_prototypes},
	{"header-about", header_about},
	{"header-description", header_description},
};

static void read_file(const char *folder, const char *name, struct buf *ret)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "re");
	size_t n = 0;
	if (f == NULL)
		fail(path, strerror(errno));
	do {
		n = fread(buf_reserve(ret, 65536), 1, 65536 - 1, f);
		ret->length += n;
	} while (n > 0);
	ret->data[ret->length] = '\0';
	fclose(f);
}

static void insert(const char *folder, const char *words)
{
	char name[64], file[256] = "";
	struct buf text = {0};
	const struct part *p = NULL;
	if (sscanf(words, "%63s %255s", name, file) < 1)
		fail("nothing to insert", words);
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if (strcmp(parts[i].name, name) == 0)
			p = &parts[i];
	if (p == NULL)
		fail("no part is called so", name);
	if (file[0] != '\0')
		read_file(folder, file, &text);
	p->print(stdout, text.data);
	buf_done(&text);
}

static void copy(const char *line)
{
	static const char version[] = "@VERSION@";
	for (const char *at; (at = strstr(line, version)) != NULL; line = at + strlen(version))
		printf("%.*s%s", (int)(at - line), line, PACKAGE_VERSION);
	fputs(line, stdout);
}

int main(int argc, char **argv)
{
	static const char mark[] = ".\\\" insert ";
	char line[1024];
	if (argc != 2)
		fail("usage", "manual SRCDIR <FRAME >PAGE");
	while (fgets(line, sizeof line, stdin) != NULL)
		if (strncmp(line, mark, strlen(mark)) == 0)
			insert(argv[1], line + strlen(mark));
		else
			copy(line);
	if (ferror(stdin) || fflush(stdout) != 0)
		fail("cannot copy", strerror(errno));
	return 0;
}
