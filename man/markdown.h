/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Markdown of docs/ as the body of a manual page, so that the two say the same: headings, paragraphs, bullets, tables, code. A
 * table's row becomes a tagged paragraph: its first cell is the tag, its last the text, what is between stands in brackets.
 */
#ifndef FALCON_MAN_MARKDOWN_H
#define FALCON_MAN_MARKDOWN_H

#include <stdio.h>

void markdown_print(FILE *out, const char *text);

#endif
