/* SPDX-License-Identifier: Apache-2.0 */
/* Standard input, output and signals as a member of a pipe has them. */
#ifndef FALCON_CLIENT_CONSOLE_H
#define FALCON_CLIENT_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "client/falcon.h"

/* A message on standard error, with the program's name in front. */
void console_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* All of standard input to the end of b. 0, or -1 and it has been said. */
int console_read(struct buf *b);

/*
 * A prompt: the argument (or NULL), standard input, or both joined by one newline if neither is empty. One trailing newline
 * of standard input is removed. A terminal is not read when there is an argument.
 */
int console_prompt(const char *argument, struct buf *b);

/* A JSON array of token ids. 0, or -1 and it has been said. */
int console_ids(const char *json, size_t length, struct ids *ret);

/* Writes and flushes. 0, or -1: the reader has gone, or it has been said what is wrong; look at console_broken(). */
int console_write(const void *bytes, size_t length);
int console_write_ids(const int32_t *ids, size_t n); /* [1,2,3] and a newline */
bool console_broken(void);                           /* the reader of standard output has gone */
void console_end_line(void);                         /* on a terminal: a newline if the last line has none */

/*
 * The terminal as it shows text. What the daemon says, and what it is told, is UTF-8: console_locale() has the C library take text for
 * that, and is called before the others. Widths are in columns: 2 for most characters of Chinese and for emoji, 0 for what joins
 * another.
 */
void console_locale(void);
unsigned console_columns(int fd); /* of the terminal that fd is; 80 if it does not say */
unsigned console_width(const char *text, size_t length);

/* The bytes of text that take at most so many columns, from its beginning. */
size_t console_fit(const char *text, size_t length, unsigned columns);

/*
 * How far something is, on standard error: each call replaces the line of the one before; NULL takes it away. Of a line that the terminal
 * is too narrow for the end is shown, where the numbers are. Nothing is shown where standard error is no terminal.
 */
void console_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Begins or ends a colour (an SGR code such as "1;32", NULL: back to normal) on a terminal, unless NO_COLOR is set. */
void console_colour(const char *code);

/*
 * From here on SIGINT, SIGTERM and SIGHUP and a reader that goes away interrupt the connection's calls. console_signal() says
 * which signal has come, 0 for none.
 */
void console_watch(struct falcon *f);
void console_signals(void); /* the signals alone, where there is no connection yet */
int console_signal_fd(void); /* readable once one has come */
int console_signal(void);
void console_forget(void); /* the signal that came: it was answered, and calls wait again */

#endif
