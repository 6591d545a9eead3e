/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libedit edits the line. What it leaves to its caller is what a terminal's new size does to a line that is being typed: characters
 * are waited for here, beside a pipe that a signal writes, so that the line is drawn again whenever the signal comes. Whether a
 * terminal has folded the old line anew nobody tells; only the rows that are the line's in either case are cleared.
 */
#define _GNU_SOURCE
#include "client/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/check.h"
#include "base/mem.h"
#include "client/console.h"

enum { REMEMBERED = 1000 }; /* lines */

static int wakes[2] = {-1, -1}; /* a pipe that signals write: the terminal has another size, or is ours again */

struct lines {
	EditLine *edit;
	History *history;
	const char *file; /* or NULL */
	const char *prompt;
	unsigned columns; /* of the terminal, as libedit knows it */
};

static struct lines *lines_of(EditLine *edit)
{
	void *l = NULL;
	el_get(edit, EL_CLIENTDATA, &l);
	return l;
}

static char *prompt_of(EditLine *edit)
{
	return (char *)lines_of(edit)->prompt;
}

/* Tells libedit the terminal's size if that is new. */
static bool take_size(struct lines *l)
{
	unsigned columns = console_columns(STDOUT_FILENO);
	if (columns == l->columns)
		return false;
	l->columns = columns;
	el_resize(l->edit);
	return true;
}

/* Draws the line again, in place of what was drawn when the terminal had `before` columns. */
static void draw_again(struct lines *l, unsigned before)
{
	const LineInfo *line = el_line(l->edit);
	unsigned cursor = console_width(l->prompt, strlen(l->prompt)) + console_width(line->buffer, (size_t)(line->cursor - line->buffer));
	unsigned wider = before > l->columns ? before : l->columns, rows = wider ? cursor / wider : 0;
	if (rows > 0)
		printf("\033[%uA", rows);
	printf("\r\033[J");
	fflush(stdout);
	el_set(l->edit, EL_REFRESH);
}

static void on_signal(int number)
{
	int saved = errno;
	if (write(wakes[1], &(char){(char)number}, 1) < 0)
		errno = 0; /* full: an earlier one is there to be seen */
	errno = saved;
}

/* Waits for input. Whether there is some; *ret_woken: the line is to be drawn again. */
static bool wait_for_input(bool *ret_woken)
{
	char bytes[64];
	struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = wakes[0], .events = POLLIN},
			       {.fd = console_signal_fd(), .events = POLLIN}};
	bool input = poll(fds, 3, -1) > 0 && fds[0].revents != 0;
	*ret_woken = false;
	while (read(wakes[0], bytes, sizeof bytes) > 0)
		*ret_woken = true;
	return input;
}

/* libedit's reader of a character: 1, 0 at the end, -1 if a signal wants that it ends. Bytes that are no UTF-8 are passed over. */
static int read_character(EditLine *edit, wchar_t *ret)
{
	struct lines *l = lines_of(edit);
	mbstate_t state = {0};
	for (bool woken = false;;) {
		char byte;
		unsigned before = l->columns;
		if (take_size(l) || woken) /* or it was stopped and continued, and something else drawn meanwhile */
			draw_again(l, before);
		bool input = wait_for_input(&woken);
		if (console_signal())
			return -1;
		if (!input)
			continue;
		ssize_t n = read(STDIN_FILENO, &byte, 1);
		if (n <= 0)
			return (int)n;
		size_t used = mbrtowc(ret, &byte, 1, &state);
		if (used == (size_t)-1)
			state = (mbstate_t){0};
		else if (used != (size_t)-2)
			return 1;
	}
}

struct lines *lines_open(const char *file)
{
	HistEvent event;
	struct lines *l = xcalloc(1, sizeof *l);
	console_locale();
	*l = (struct lines){.edit = el_init("falconctl", stdin, stdout, stderr), .history = history_init(), .file = file, .prompt = ""};
	if (l->edit == NULL || l->history == NULL) {
		lines_close(l);
		return NULL;
	}
	l->columns = console_columns(STDOUT_FILENO);
	el_set(l->edit, EL_CLIENTDATA, l);
	el_set(l->edit, EL_PROMPT, prompt_of);
	el_set(l->edit, EL_EDITOR, "emacs");
	el_set(l->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
	el_set(l->edit, EL_GETCFN, read_character);
	history(l->history, &event, H_SETSIZE, REMEMBERED);
	history(l->history, &event, H_SETUNIQUE, 1);
	el_set(l->edit, EL_HIST, history, l->history);
	el_source(l->edit, NULL); /* ~/.editrc */
	if (file != NULL)
		history(l->history, &event, H_LOAD, file);
	console_signals();
	CHECK(wakes[0] >= 0 || pipe2(wakes, O_CLOEXEC | O_NONBLOCK) == 0);
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGWINCH, &action, NULL);
	sigaction(SIGCONT, &action, NULL);
	return l;
}

void lines_close(struct lines *l)
{
	HistEvent event;
	if (l == NULL)
		return;
	if (l->edit != NULL && l->file != NULL && history(l->history, &event, H_SAVE, l->file) >= 0)
		chmod(l->file, 0600);
	if (l->edit != NULL)
		el_end(l->edit);
	if (l->history != NULL)
		history_end(l->history);
	free(l);
}

char *lines_read(struct lines *l, const char *prompt)
{
	int n = 0;
	l->prompt = prompt;
	take_size(l);
	el_set(l->edit, EL_PREP_TERM, 1); /* before the prompt is seen: what is typed from then on is not echoed twice */
	const char *line = el_gets(l->edit, &n);
	if (line == NULL || n <= 0) {
		console_write("\n", 1); /* the cursor stands behind the prompt */
		return NULL;
	}
	return xstrndup(line, line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
}

void lines_remember(struct lines *l, const char *line)
{
	HistEvent event;
	history(l->history, &event, H_ENTER, line);
}
