/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *program = "falcond";
static enum log_level least_urgent = LOG_INFO;

void log_open(const char *name, enum log_level least)
{
	program = name;
	least_urgent = least;
}

void log_line(enum log_level level, const char *format, ...)
{
	if (level > least_urgent)
		return;
	char line[1024];
	int n = getenv("JOURNAL_STREAM") ? snprintf(line, sizeof line, "<%d>", (int)level)
					 : snprintf(line, sizeof line, "%s: ", program);
	va_list args;
	va_start(args, format);
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
	va_end(args);
	size_t length = (size_t)n + (size_t)(m < 0 ? 0 : m);
	if (length > sizeof line - 2)
		length = sizeof line - 2;
	line[length++] = '\n';
	if (write(STDERR_FILENO, line, length) < 0)
		return; /* nobody to tell */
}
