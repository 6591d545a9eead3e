/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads no C, but the form that falcond's public header has: comments stand alone or at the end of a declaration's line, a
 * function's declaration begins with FALCON_API and ends with a semicolon, a struct's closing brace stands in the first column.
 */
#include <config.h>

#include "man/header.h"

#include <stdbool.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "man/roff.h"

#define API "FALCON_API "
enum { FUNCTIONS = 16 };

struct function {
	char prototype[512], name[64], remark[256]; /* remark: the comment at the end of its line, or "" */
};

/* What stands between two empty lines. */
struct group {
	struct buf comment, types; /* the comment's text without its stars; structs as they are */
	struct function functions[FUNCTIONS];
	unsigned n_functions;
};

struct reader {
	const char *at;
	struct group group;
};

static bool begins(const char *line, const char *with)
{
	return strncmp(line, with, strlen(with)) == 0;
}

/* The next line, which the caller knows to be there. */
static const char *next_line(struct reader *r, size_t *ret_length)
{
	const char *line = r->at, *end = strchrnul(line, '\n');
	*ret_length = (size_t)(end - line);
	r->at = *end ? end + 1 : end;
	return line;
}

/* A comment that begins at the reader's line: its text, a line a line, without stars. */
static void take_comment(struct reader *r)
{
	bool ended = false;
	while (!ended && *r->at != '\0') {
		size_t length, skip;
		const char *line = next_line(r, &length);
		skip = strspn(line, "/* ");
		skip = skip < length ? skip : length;
		ended = length >= 2 && memcmp(line + length - 2, "*/", 2) == 0;
		if (ended)
			length -= 2;
		if (skip < length || !ended)
			buf_printf(&r->group.comment, "%.*s\n", skip < length ? (int)(length - skip) : 0, line + skip);
	}
}

static void take_struct(struct reader *r)
{
	bool ended = false;
	while (!ended && *r->at != '\0') {
		size_t length;
		const char *line = next_line(r, &length);
		buf_printf(&r->group.types, "%.*s\n", (int)length, line);
		ended = line[0] == '}';
	}
}

/* FALCON_API ... ; and a remark behind it. */
static void take_function(struct reader *r)
{
	CHECK(r->group.n_functions < FUNCTIONS);
	struct function *f = &r->group.functions[r->group.n_functions++];
	const char *end = strchr(r->at, ';'), *name;
	size_t n = 0;
	CHECK(end != NULL);
	for (const char *c = r->at + strlen(API); c <= end; c++) {
		bool blank = *c == ' ' || *c == '\t' || *c == '\n';
		CHECK(n + 2 < sizeof f->prototype);
		if (!blank || f->prototype[n - 1] != ' ')
			f->prototype[n++] = blank ? ' ' : *c;
	}
	f->prototype[n] = '\0';
	name = strstr(f->prototype, "falcon_");
	while (name != NULL && name[strcspn(name, " (*;")] != '(')
		name = strstr(name + 1, "falcon_");
	CHECK(name != NULL);
	snprintf(f->name, sizeof f->name, "%.*s", (int)strcspn(name, "("), name);
	r->at = end + 1;
	size_t length;
	const char *rest = next_line(r, &length), *remark = memmem(rest, length, "/* ", 3);
	f->remark[0] = '\0';
	if (remark != NULL)
		snprintf(f->remark, sizeof f->remark, "%.*s", (int)(length - (size_t)(remark + 3 - rest) - 3), remark + 3);
}

/* The next group that says something; false: there is none. */
static bool read_group(struct reader *r)
{
	struct group *g = &r->group;
	g->comment.length = g->types.length = g->n_functions = 0;
	while (*r->at != '\0') {
		size_t length;
		if (begins(r->at, "/* SPDX")) {
			next_line(r, &length);
		} else if (begins(r->at, "/*")) {
			take_comment(r);
		} else if (begins(r->at, API)) {
			take_function(r);
		} else if (begins(r->at, "struct ") && memchr(r->at, '{', strcspn(r->at, "\n")) != NULL) {
			take_struct(r);
		} else if (begins(r->at, "\n") || begins(r->at, "#")) {
			next_line(r, &length);
			if (g->comment.length + g->types.length + g->n_functions > 0)
				return true;
		} else {
			next_line(r, &length);
		}
	}
	return g->comment.length + g->types.length + g->n_functions > 0;
}

static void done(struct reader *r)
{
	buf_done(&r->group.comment);
	buf_done(&r->group.types);
}

/* A comment's paragraphs; lines that begin with a tab are code. */
static void print_comment(FILE *out, const char *text, const char *between)
{
	bool first = true;
	text += strspn(text, "\n");
	while (*text != '\0') {
		const char *end = text;
		bool code = *text == '\t';
		while (*end != '\0' && (code ? *end == '\t' || *end == '\n' : *end != '\n' && *end != '\t'))
			end = *strchrnul(end, '\n') ? strchr(end, '\n') + 1 : strchr(end, '\0');
		if (!first)
			fprintf(out, "%s\n", between);
		if (code) {
			fputs(".RS 4\n.EX\n", out);
			size_t length;
			for (struct reader r = {.at = text}; r.at < end && !(r.at[0] == '\n' && r.at + 1 == end);) {
				const char *line = next_line(&r, &length);
				roff_literal(out, length ? line + 1 : line, length ? length - 1 : 0);
			}
			fputs(".EE\n.RE\n", out);
		} else if (end > text) {
			roff_text(out, text, (size_t)(end - text));
		}
		first = false;
		text = end + strspn(end, "\n");
	}
}

void header_names(FILE *out, const char *text)
{
	struct reader r = {.at = text};
	struct buf names = {0};
	while (read_group(&r))
		for (unsigned i = 0; i < r.group.n_functions; i++)
			buf_printf(&names, "%s%s", names.length ? ", " : "", r.group.functions[i].name);
	roff_text(out, names.data, names.length);
	buf_done(&names);
	done(&r);
}

void header_prototypes(FILE *out, const char *text)
{
	struct reader r = {.at = text};
	while (read_group(&r))
		for (unsigned i = 0; i < r.group.n_functions; i++) {
			const char *prototype = r.group.functions[i].prototype;
			fputs(".HP\n", out);
			roff_words(out, prototype, strlen(prototype), true);
			fputc('\n', out);
		}
	done(&r);
}

void header_about(FILE *out, const char *text)
{
	struct reader r = {.at = text};
	if (read_group(&r) && r.group.comment.length > 0)
		print_comment(out, r.group.comment.data, ".PP");
	done(&r);
}

static void print_group(FILE *out, const struct group *g)
{
	if (g->n_functions > 0) {
		fputs(".TP\n", out);
		for (unsigned i = 0; i < g->n_functions; i++)
			fprintf(out, "%s\\fB\\%%%s\\fR()", i ? ", " : "", g->functions[i].name);
		fputc('\n', out);
	} else {
		fprintf(out, ".TP\n\\fB%.*s\\fR\n", (int)strcspn(g->types.data, "{") - 1, g->types.data);
	}
	if (g->comment.length > 0)
		print_comment(out, g->comment.data, ".IP");
	for (unsigned i = 0; i < g->n_functions; i++)
		if (g->functions[i].remark[0] != '\0')
			fprintf(out, ".IP\n\\fB%s\\fR(): %s.\n", g->functions[i].name, g->functions[i].remark);
	if (g->types.length == 0)
		return;
	fputs(".IP\n.EX\n", out);
	struct reader lines = {.at = g->types.data};
	while (lines.at < g->types.data + g->types.length) {
		size_t length;
		const char *line = next_line(&lines, &length);
		roff_literal(out, line, length);
	}
	fputs(".EE\n", out);
}

void header_description(FILE *out, const char *text)
{
	struct reader r = {.at = text};
	read_group(&r); /* about the whole */
	while (read_group(&r))
		if (r.group.n_functions + r.group.types.length > 0)
			print_group(out, &r.group);
	done(&r);
}
