/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A word is made first, with its escapes, and then put on the line or on the next. Hyphens in code are minus signs, so that what
 * a reader copies from a page can be typed; and a dot or a quote at a line's start would be taken for a request.
 */
#include <config.h>

#include "man/roff.h"

#include <ctype.h>
#include <string.h>

#include "base/check.h"

enum { LINE_MAX_LETTERS = 79 };

struct writer {
	FILE *out;
	char word[512];
	size_t n_word, column; /* column: letters of the line so far */
	bool one_line, code, bold, ended; /* ended: the word before ends a sentence */
	const char *link_end;  /* the ] of the link in which we are */
};

static void put(struct writer *w, const char *text)
{
	size_t n = strlen(text);
	CHECK(w->n_word + n < sizeof w->word);
	memcpy(w->word + w->n_word, text, n);
	w->n_word += n;
}

/* What stands for a character, or NULL: itself. */
static const char *escape(char c, bool code)
{
	switch (c) {
	case '\\': return "\\e";
	case '^': return "\\(ha";
	case '~': return "\\(ti";
	case '`': return "\\(ga";
	case '-': return code ? "\\-" : NULL;
	case '\'': return code ? "\\(aq" : NULL;
	default: return NULL;
	}
}

static void put_escaped(struct writer *w, char c, bool code)
{
	const char *text = escape(c, code);
	put(w, text ? text : (char[]){c, '\0'});
}

static bool ends_sentence(const char *word, size_t n)
{
	while (n > 0 && strchr(")\"", word[n - 1]))
		n--;
	return n > 1 && strchr(".?!", word[n - 1]) != NULL && word[n - 2] != '.';
}

static void end_word(struct writer *w)
{
	if (w->n_word == 0)
		return;
	if (w->column > 0 && !w->one_line && (w->ended || w->column + 1 + w->n_word > LINE_MAX_LETTERS)) {
		fputc('\n', w->out);
		w->column = 0;
	} else if (w->column > 0) {
		fputc(' ', w->out);
		w->column++;
	}
	if (w->column == 0 && strchr(".'", w->word[0]))
		w->column += (size_t)fprintf(w->out, "\\&");
	if (memchr(w->word, '_', w->n_word) != NULL)
		w->column += (size_t)fprintf(w->out, "\\%%"); /* names are not hyphenated */
	fwrite(w->word, 1, w->n_word, w->out);
	w->column += w->n_word;
	w->ended = !w->code && ends_sentence(w->word, w->n_word);
	w->n_word = 0;
}

/* The ] of a link that begins at text, or NULL: it is a bracket. */
static const char *find_link(const char *text, const char *end)
{
	const char *at = memchr(text, ']', (size_t)(end - text));
	return at != NULL && at + 1 < end && at[1] == '(' && memchr(at, ')', (size_t)(end - at)) ? at : NULL;
}

/* A run of blanks, markup or one character; returns where what follows begins. */
static const char *take(struct writer *w, const char *at, const char *end)
{
	bool two_stars = at + 1 < end && at[0] == '*' && at[1] == '*';
	if (isspace((unsigned char)*at)) {
		end_word(w);
	} else if (*at == '`' || (two_stars && !w->code)) {
		bool *on = *at == '`' ? &w->code : &w->bold;
		*on = !*on;
		put(w, w->code || w->bold ? "\\fB" : "\\fR");
		return at + (*at == '`' ? 1 : 2);
	} else if (at == w->link_end) {
		w->link_end = NULL;
		return (const char *)memchr(at, ')', (size_t)(end - at)) + 1;
	} else if (*at == '[' && !w->code && (w->link_end = find_link(at, end)) != NULL) {
		return at + 1;
	} else if (*at == '\\' && at + 1 < end && at[1] == '|') {
		put(w, "|");
		return at + 2;
	} else {
		/* A dash in a word is a hyphen; before one it belongs to an option or a number. */
		put_escaped(w, *at, w->code || w->bold || w->n_word == 0);
	}
	return at + 1;
}

static void write_all(struct writer *w, const char *text, size_t length)
{
	for (const char *at = text, *end = text + length; at < end;)
		at = take(w, at, end);
	end_word(w);
}

void roff_text(FILE *out, const char *text, size_t length)
{
	struct writer w = {.out = out};
	write_all(&w, text, length);
	fputc('\n', out);
}

void roff_words(FILE *out, const char *text, size_t length, bool bold)
{
	struct writer w = {.out = out, .one_line = true, .code = bold};
	if (bold)
		put(&w, "\\fB");
	write_all(&w, text, length);
	if (bold)
		fputs("\\fR", out);
}

void roff_literal(FILE *out, const char *line, size_t length)
{
	struct writer w = {.out = out};
	if (length > 0 && strchr(".'", line[0]))
		fputs("\\&", out);
	for (size_t i = 0; i < length; i++) {
		put_escaped(&w, line[i], true);
		fwrite(w.word, 1, w.n_word, out);
		w.n_word = 0;
	}
	fputc('\n', out);
}

void roff_heading(FILE *out, const char *macro, const char *text, size_t length)
{
	fprintf(out, "%s \"", macro);
	for (size_t i = 0; i < length; i++)
		fputc(strcmp(macro, ".SH") == 0 ? toupper((unsigned char)text[i]) : text[i], out);
	fputs("\"\n", out);
}

void roff_sentence(FILE *out, const char *text)
{
	char sentence[1024];
	int n = snprintf(sentence, sizeof sentence, "%s%s", text, strchr(".?!", text[strlen(text) - 1]) ? "" : ".");
	CHECK(n > 0 && n < (int)sizeof sentence);
	sentence[0] = (char)toupper((unsigned char)sentence[0]);
	roff_text(out, sentence, (size_t)n);
}
