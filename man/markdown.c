/* SPDX-License-Identifier: Apache-2.0 */
/* Line by line: what a line begins with says what it is, and whether it belongs to the paragraph that is under way. */
#include <config.h>

#include "man/markdown.h"

#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "man/roff.h"

enum { CELLS = 8 };

struct cell { const char *text; size_t length; };

struct page {
	FILE *out;
	struct buf paragraph;
	bool code, heading; /* within ```; a heading was printed last, after which a paragraph needs no macro */
	struct cell head[CELLS]; /* of the table under way */
	unsigned n_head;         /* 0: none is */
};

static bool begins(const char *line, size_t length, const char *with)
{
	return length >= strlen(with) && memcmp(line, with, strlen(with)) == 0;
}

static void end_paragraph(struct page *p)
{
	if (p->paragraph.length == 0)
		return;
	if (!p->heading)
		fputs(".PP\n", p->out);
	roff_text(p->out, p->paragraph.data, p->paragraph.length);
	p->paragraph.length = 0;
	p->heading = false;
}

/* The cells of "| a | b |", without the blanks around them. */
static unsigned split_row(const char *line, size_t length, struct cell *cells)
{
	unsigned n = 0;
	for (size_t at = 1; at < length && n < CELLS; at++) {
		size_t from = at;
		while (at < length && !(line[at] == '|' && line[at - 1] != '\\'))
			at++;
		size_t end = at;
		while (from < end && line[from] == ' ')
			from++;
		while (end > from && line[end - 1] == ' ')
			end--;
		cells[n++] = (struct cell){line + from, end - from};
	}
	return n;
}

static bool is(const struct cell *c, const char *text)
{
	return c->length == strlen(text) && memcmp(c->text, text, c->length) == 0;
}

static void print_row(struct page *p, const struct cell *cells, unsigned n)
{
	const char *before = " (";
	fputs(".TP\n", p->out);
	roff_words(p->out, cells[0].text, cells[0].length, false);
	for (unsigned i = 1; i + 1 < n; i++) {
		if (cells[i].length == 0)
			continue;
		fputs(before, p->out);
		if (i < p->n_head && is(&p->head[i], "default") && !is(&cells[i], "required"))
			fputs("default ", p->out);
		roff_words(p->out, cells[i].text, cells[i].length, false);
		before = "; ";
	}
	fputs(before[0] == ';' ? ")\n" : "\n", p->out);
	roff_text(p->out, cells[n - 1].text, cells[n - 1].length);
}

static void take_row(struct page *p, const char *line, size_t length)
{
	struct cell cells[CELLS];
	unsigned n = split_row(line, length, cells);
	end_paragraph(p);
	if (p->n_head == 0) {
		memcpy(p->head, cells, sizeof cells);
		p->n_head = n;
	} else if (!begins(line, length, "|--") && n > 1) {
		print_row(p, cells, n);
	}
	p->heading = false;
}

static void take_heading(struct page *p, const char *line, size_t length)
{
	size_t level = strspn(line, "#");
	end_paragraph(p);
	if (level > 1) /* the first level is the page's title */
		roff_heading(p->out, level == 2 ? ".SH" : ".SS", line + level + 1, length - level - 1);
	p->heading = true;
}

static void take_fence(struct page *p)
{
	end_paragraph(p);
	p->code = !p->code;
	fputs(p->code ? p->heading ? ".RS 4\n.EX\n" : ".PP\n.RS 4\n.EX\n" : ".EE\n.RE\n", p->out);
	p->heading = false;
}

static void take_line(struct page *p, const char *line, size_t length)
{
	if (begins(line, length, "```")) {
		take_fence(p);
		return;
	}
	if (p->code) {
		roff_literal(p->out, line, length);
		return;
	}
	if (begins(line, length, "|")) {
		take_row(p, line, length);
		return;
	}
	p->n_head = 0;
	if (length == 0 || begins(line, length, "<!--")) {
		end_paragraph(p);
	} else if (line[0] == '#') {
		take_heading(p, line, length);
	} else if (begins(line, length, "* ")) {
		end_paragraph(p);
		fputs(".IP \\(bu 2\n", p->out);
		p->heading = true;
		buf_printf(&p->paragraph, "%.*s\n", (int)length - 2, line + 2);
	} else {
		buf_printf(&p->paragraph, "%.*s\n", (int)length, line);
	}
}

void markdown_print(FILE *out, const char *text)
{
	struct page p = {.out = out, .heading = true};
	for (const char *line = text, *end; *line != '\0'; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		take_line(&p, line, (size_t)(end - line));
	}
	end_paragraph(&p);
	buf_done(&p.paragraph);
}
