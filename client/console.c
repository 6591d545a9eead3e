/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nothing is buffered on standard output: a text is written as it comes, since a reader waits for it. SIGPIPE is ignored, so
 * that a reader that has had enough is seen as EPIPE and the work can be ended on the daemon, too; nothing is said about it.
 */
#include "config.h"

#include "client/console.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "base/check.h"

static bool broken, line_open;
static int signal_pipe[2] = {-1, -1};
static volatile sig_atomic_t signal_seen;

void console_say(const char *format, ...)
{
	struct buf line = {0};
	char text[1024];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	buf_printf(&line, "falconctl: %s\n", text);
	if (write(STDERR_FILENO, line.data, line.length) < 0)
		errno = 0; /* nobody to tell */
	buf_done(&line);
}

int console_read(struct buf *b)
{
	for (;;) {
		char *room = buf_reserve(b, 65536);
		ssize_t n = read(STDIN_FILENO, room, 65536);
		if (n == 0 || (n < 0 && errno == EBADF)) { /* closed by whoever started us: empty */
			buf_add(b, "", 0);
			return 0;
		}
		if (n > 0) {
			b->length += (size_t)n;
		} else if (errno != EINTR) {
			console_say("cannot read standard input: %s", strerror(errno));
			return -1;
		}
	}
}

int console_prompt(const char *argument, struct buf *b)
{
	struct buf input = {0};
	bool argued = argument != NULL && argument[0] != '\0';
	if (!(argument != NULL && isatty(STDIN_FILENO)) && console_read(&input) < 0) {
		buf_done(&input);
		return -1;
	}
	if (input.length > 0 && input.data[input.length - 1] == '\n')
		input.length--;
	if (argued)
		buf_add(b, argument, strlen(argument));
	if (argued && input.length > 0)
		buf_add(b, "\n", 1);
	buf_add(b, input.data ? input.data : "", input.length);
	buf_done(&input);
	return 0;
}

int console_ids(const char *json, size_t length, struct ids *ret)
{
	json_error_t at;
	json_t *array = json_loadb(json, length, JSON_ALLOW_NUL, &at);
	if (!json_is_array(array)) {
		console_say("expected a JSON array of token ids such as [1,2,3]%s%s", array ? "" : ": ", array ? "" : at.text);
		json_decref(array);
		return -1;
	}
	size_t n = json_array_size(array), i = 0;
	for (; i < n; i++) {
		const json_t *id = json_array_get(array, i);
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
			break;
		ids_add(ret, (int32_t)json_integer_value(id));
	}
	json_decref(array);
	if (i < n)
		console_say("element %zu of the array is no token id", i);
	return i < n ? -1 : 0;
}

int console_write(const void *bytes, size_t length)
{
	const char *at = bytes;
	for (size_t left = length; left > 0 && !broken;) {
		ssize_t n = write(STDOUT_FILENO, at, left);
		if (n >= 0) {
			at += n;
			left -= (size_t)n;
		} else if (errno == EAGAIN) {
			struct pollfd fd = {.fd = STDOUT_FILENO, .events = POLLOUT};
			poll(&fd, 1, -1);
		} else if (errno == EPIPE) {
			broken = true;
		} else if (errno != EINTR) {
			console_say("cannot write standard output: %s", strerror(errno));
			return -1;
		} else if (signal_seen) {
			return -1;
		}
	}
	if (length > 0)
		line_open = ((const char *)bytes)[length - 1] != '\n';
	return broken ? -1 : 0;
}

int console_write_ids(const int32_t *ids, size_t n)
{
	struct buf b = {0};
	buf_add(&b, "[", 1);
	for (size_t i = 0; i < n; i++)
		buf_printf(&b, "%s%d", i ? "," : "", ids[i]);
	buf_add(&b, "]\n", 2);
	int rc = console_write(b.data, b.length);
	buf_done(&b);
	return rc;
}

bool console_broken(void)
{
	struct pollfd fd = {.fd = STDOUT_FILENO};
	return broken || (poll(&fd, 1, 0) > 0 && (fd.revents & (POLLERR | POLLHUP)));
}

void console_end_line(void)
{
	if (line_open && isatty(STDOUT_FILENO))
		console_write("\n", 1);
}

void console_locale(void)
{
	if (setlocale(LC_CTYPE, "C.UTF-8") == NULL)
		setlocale(LC_CTYPE, "");
}

unsigned console_columns(int fd)
{
	struct winsize size;
	return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* The columns of the character at text and its bytes; a byte that is no text takes one column. */
static unsigned next_character(const char *text, size_t length, size_t *ret_bytes)
{
	wchar_t c;
	mbstate_t state = {0};
	size_t n = mbrtowc(&c, text, length, &state);
	int width = n == (size_t)-1 || n == (size_t)-2 || n == 0 ? -1 : wcwidth(c);
	*ret_bytes = n == (size_t)-1 || n == (size_t)-2 || n == 0 ? 1 : n;
	return width < 0 ? 1 : (unsigned)width;
}

size_t console_fit(const char *text, size_t length, unsigned columns)
{
	size_t at = 0, n;
	for (unsigned used = 0, width; at < length; at += n, used += width)
		if (used + (width = next_character(text + at, length - at, &n)) > columns)
			break;
	return at;
}

unsigned console_width(const char *text, size_t length)
{
	unsigned columns = 0;
	for (size_t at = 0, n; at < length; at += n)
		columns += next_character(text + at, length - at, &n);
	return columns;
}

/* The end of text that takes at most so many columns. */
static const char *end_that_fits(const char *text, unsigned columns)
{
	size_t length = strlen(text), n;
	while (console_width(text, length) > columns) {
		next_character(text, length, &n);
		text += n;
		length -= n;
	}
	return text;
}

void console_progress(const char *format, ...)
{
	static bool shown;
	char text[256] = "";
	struct buf line = {0};
	if (format != NULL) {
		va_list args;
		va_start(args, format);
		vsnprintf(text, sizeof text, format, args);
		va_end(args);
	}
	if (!isatty(STDERR_FILENO) || (format == NULL && !shown))
		return;
	shown = format != NULL;
	console_locale();
	/* To the line's beginning, and what stands there goes. The last column stays free: a full line would end in the next one. */
	buf_printf(&line, "\r\033[K%s", end_that_fits(text, console_columns(STDERR_FILENO) - 1));
	if (write(STDERR_FILENO, line.data, line.length) < 0)
		errno = 0; /* nobody to tell */
	buf_done(&line);
}

void console_colour(const char *code)
{
	const char *off = getenv("NO_COLOR");
	char text[32];
	if (!isatty(STDOUT_FILENO) || (off != NULL && off[0] != '\0'))
		return;
	int n = snprintf(text, sizeof text, "\033[%sm", code ? code : "");
	bool open = line_open;
	console_write(text, (size_t)n);
	line_open = open;
}

static void on_signal(int number)
{
	int saved = errno;
	char byte = (char)number;
	signal_seen = number;
	if (write(signal_pipe[1], &byte, 1) < 0)
		errno = 0; /* full: an earlier signal is there to be seen */
	errno = saved;
}

void console_signals(void)
{
	if (signal_pipe[0] >= 0)
		return;
	CHECK(pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) == 0);
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

int console_signal_fd(void)
{
	return signal_pipe[0];
}

void console_watch(struct falcon *f)
{
	console_signals();
	falcon_watch(f, -1, 0);
	falcon_watch(f, signal_pipe[0], POLLIN);
	falcon_watch(f, STDOUT_FILENO, 0);
}

void console_forget(void)
{
	char bytes[64];
	while (signal_pipe[0] >= 0 && read(signal_pipe[0], bytes, sizeof bytes) > 0)
		continue;
	signal_seen = 0;
}

int console_signal(void)
{
	return signal_seen;
}
