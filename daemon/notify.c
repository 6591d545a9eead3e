/* SPDX-License-Identifier: Apache-2.0 */
#include <config.h>

#include "daemon/notify.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BARRIER_S = 5 };

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#else
static int sd_notify(int unset_environment, const char *state)
{
	(void)unset_environment;
	(void)state;
	return 0;
}

static int sd_watchdog_enabled(int unset_environment, uint64_t *usec)
{
	(void)unset_environment;
	(void)usec;
	return 0;
}
static int sd_pid_notify_with_fds(pid_t pid, int unset_environment, const char *state, const int *fds, unsigned n_fds)
{
	(void)pid;
	(void)unset_environment;
	(void)state;
	(void)fds;
	(void)n_fds;
	return 0;
}

static int sd_notify_barrier(int unset_environment, uint64_t timeout)
{
	(void)unset_environment;
	(void)timeout;
	return 0;
}
#endif

enum { FEEDS = 5 }; /* in a period of the watchdog: a loop that is late with some of them is alive */

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

static struct {
	uv_timer_t timer;
	bool (*alive)(void *arg);
	void *arg;
} watch;

static void on_feed(uv_timer_t *timer)
{
	(void)timer;
	if (watch.alive(watch.arg))
		sd_notify(0, "WATCHDOG=1");
}

void notify_watch(uv_loop_t *loop, bool (*alive)(void *arg), void *arg)
{
	uint64_t period_us;
	if (sd_watchdog_enabled(0, &period_us) <= 0)
		return;
	uint64_t ms = period_us / 1000 / FEEDS;
	watch.alive = alive;
	watch.arg = arg;
	uv_timer_init(loop, &watch.timer);
	uv_timer_start(&watch.timer, on_feed, 0, ms > 0 ? ms : 1);
	uv_unref((uv_handle_t *)&watch.timer);
}

bool notify_keeps(void)
{
#ifdef HAVE_SYSTEMD
	return getenv("NOTIFY_SOCKET") != NULL;
#else
	return false;
#endif
}

int notify_store(const char *name, const int *fds, unsigned n)
{
	char state[128];
	snprintf(state, sizeof state, "FDSTORE=1\nFDNAME=%s", name);
	int r = sd_pid_notify_with_fds(0, 0, state, fds, n);
	if (r >= 0)
		r = sd_notify_barrier(0, BARRIER_S * UINT64_C(1000000));
	return r < 0 ? r : 0;
}

void notify_forget(const char *name)
{
	char state[128];
	snprintf(state, sizeof state, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	sd_notify(0, state);
}
