/* SPDX-License-Identifier: Apache-2.0 */
#include <config.h>

#include "daemon/notify.h"

#include <stdarg.h>
#include <stdio.h>

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#else
static int sd_notify(int unset_environment, const char *state)
{
	(void)unset_environment;
	(void)state;
	return 0;
}
#endif

void notify_ready(void)
{
	sd_notify(0, "READY=1");
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void notify_status(const char *format, ...)
{
	char line[512] = "STATUS=";
	va_list args;
	va_start(args, format);
	vsnprintf(line + 7, sizeof line - 7, format, args);
	va_end(args);
	sd_notify(0, line);
}
