/* SPDX-License-Identifier: Apache-2.0 */
/* Lines that are typed at a terminal, in UTF-8: edited, remembered, and drawn anew when the terminal's size changes. */
#ifndef FALCON_CLIENT_LINES_H
#define FALCON_CLIENT_LINES_H

struct lines;

/* file: where the lines are kept from one time to the next (mode 0600), or NULL. NULL: this is no terminal to edit lines on. */
struct lines *lines_open(const char *file);
void lines_close(struct lines *l); /* writes the file; NULL is fine */

/* The next line without its newline, to be freed, or NULL: the end, or a signal (console_signal()) has come. */
char *lines_read(struct lines *l, const char *prompt);

void lines_remember(struct lines *l, const char *line);

#endif
