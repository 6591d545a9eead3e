/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text into the source of a manual page, in man(7)'s macros. Running text is in the Markdown that help texts and docs/ are written
 * in: `code` and **bold** become bold, a [link](url) its words. A sentence begins a line, as is the custom in such sources.
 */
#ifndef FALCON_MAN_ROFF_H
#define FALCON_MAN_ROFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Running text, ended by a newline. */
void roff_text(FILE *out, const char *text, size_t length);

/* The same as one line without a newline, for a tag; bold: all of it is, as code without markup. */
void roff_words(FILE *out, const char *text, size_t length, bool bold);

/* A line as it stands. */
void roff_literal(FILE *out, const char *line, size_t length);

/* .SH or .SS with a heading in capitals if it is a section's. */
void roff_heading(FILE *out, const char *macro, const char *text, size_t length);

/* "Xyz." of "xyz": how a help text stands as a sentence. */
void roff_sentence(FILE *out, const char *text);

#endif
