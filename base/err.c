/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *format, ...)
{
	if (e == NULL)
		return code;
	va_list args;
	va_start(args, format);
	vsnprintf(e->what, sizeof e->what, format, args);
	va_end(args);
	e->hint[0] = '\0';
	e->code = code;
	return code;
}

int err_hint(struct err *e, const char *format, ...)
{
	if (e == NULL)
		return -EINVAL;
	va_list args;
	va_start(args, format);
	vsnprintf(e->hint, sizeof e->hint, format, args);
	va_end(args);
	return e->code;
}

int err_prefix(struct err *e, const char *format, ...)
{
	if (e == NULL)
		return -EINVAL;
	char whole[2 * sizeof e->what]; /* prefix and text each fit; what is too long is cut at its end */
	va_list args;
	va_start(args, format);
	int n = vsnprintf(whole, sizeof e->what, format, args);
	va_end(args);
	size_t length = n < 0 ? 0 : (size_t)n < sizeof e->what ? (size_t)n : sizeof e->what - 1;
	memcpy(whole + length, ": ", 2);
	memcpy(whole + length + 2, e->what, sizeof e->what - 2);
	memcpy(e->what, whole, sizeof e->what - 1);
	e->what[sizeof e->what - 1] = '\0';
	return e->code;
}
