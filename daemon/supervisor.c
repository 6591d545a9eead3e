/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/child.h"

enum {
	BACKOFF_MS = 100,
	BACKOFF_MOST_MS = 5000,
	TRIES_MOST = 3,     /* of the first engine, before falcond gives up */
	STOP_MS = 10000,    /* time that the last step has */
};

static void engine_exited(uv_process_t *process, int64_t exit_status, int signal);

static int spawn_engine(struct supervisor *s, struct err *e)
{
	char threads[16];
	snprintf(threads, sizeof threads, "%u", s->threads);
	char *argv[] = {(char[]){"falcon-engine"}, (char[]){"--serve"}, (char[]){"--threads"}, threads, (char[]){"--dense"},
			s->openblas ? (char[]){"openblas"} : (char[]){"exact"}, NULL};
	const int fds[] = {s->store->weights, s->store->pages, s->store->board_fd, s->wake_engine, s->wake_falcond, s->lifeline[0]};
	s->first_step = atomic_load_explicit(&s->store->board.header->step, memory_order_relaxed);
	s->process.data = s;
	int r = child_spawn(s->loop, &s->process, s->engine, argv, fds, 6, engine_exited, e);
	s->running = r == 0;
	s->is_ready = false;
	return r;
}

static void on_retry(uv_timer_t *timer);

static void on_process_closed(uv_handle_t *handle)
{
	struct supervisor *s = handle->data;
	if (s->stopping)
		return;
	unsigned shift = s->tries > 7 ? 7 : s->tries ? s->tries - 1 : 0;
	unsigned wait = s->tries == 0 ? 0 : BACKOFF_MS << shift;
	uv_timer_start(&s->backoff, on_retry, wait < BACKOFF_MOST_MS ? wait : BACKOFF_MOST_MS, 0);
}

static void on_retry(uv_timer_t *timer)
{
	struct supervisor *s = timer->data;
	struct err e;
	if (s->stopping)
		return;
	s->restarts++;
	if (spawn_engine(s, &e) == 0)
		return;
	log_error("%s; trying again", e.what);
	s->tries++;
	s->process.data = s;
	uv_close((uv_handle_t *)&s->process, on_process_closed);
}

static void log_death(const struct supervisor *s, int64_t exit_status, int signal)
{
	if (signal != 0)
		log_warning("engine %d was killed by signal %d (%s); sessions go on with the next", s->process.pid, signal,
			    strsignal(signal));
	else
		log_warning("engine %d ended with status %lld; sessions go on with the next", s->process.pid, (long long)exit_status);
}

static void engine_exited(uv_process_t *process, int64_t exit_status, int signal)
{
	struct supervisor *s = process->data;
	s->running = s->is_ready = false;
	if (s->stopping) {
		uv_close((uv_handle_t *)process, on_process_closed);
		return;
	}
	log_death(s, exit_status, signal);
	bool stepped = atomic_load_explicit(&s->store->board.header->step, memory_order_relaxed) > s->first_step + 1;
	s->tries = stepped ? 0 : s->tries + 1;
	uv_close((uv_handle_t *)process, on_process_closed);
	s->reaped(s->arg);
	if (!s->was_ready && s->tries >= TRIES_MOST) {
		struct err e;
		err_set(&e, -EIO, "the engine ended %u times before it was ready", s->tries);
		err_hint(&e, "its own messages stand above");
		s->failed(s->arg, &e);
	}
}

static void on_wake(uv_poll_t *poll, int status, int events)
{
	struct supervisor *s = poll->data;
	uint64_t count;
	(void)events;
	if (status < 0 || read(s->wake_falcond, &count, sizeof count) != sizeof count)
		return;
	uint32_t pid = atomic_load_explicit(&s->store->board.header->ready, memory_order_acquire);
	if (s->running && !s->is_ready && pid == (uint32_t)s->process.pid) {
		s->is_ready = s->was_ready = true;
		s->ready(s->arg);
	}
	s->scan(s->arg);
}

int supervisor_start(struct supervisor *s, struct err *e)
{
	s->wake_engine = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->wake_falcond = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_engine < 0 || s->wake_falcond < 0 || pipe2(s->lifeline, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot make an eventfd or a pipe: %s", strerror(errno));
	uv_timer_init(s->loop, &s->backoff);
	uv_poll_init(s->loop, &s->poll, s->wake_falcond);
	s->backoff.data = s->poll.data = s;
	uv_poll_start(&s->poll, UV_READABLE, on_wake);
	return spawn_engine(s, e);
}

static void on_late(uv_timer_t *timer)
{
	struct supervisor *s = timer->data;
	if (!s->running)
		return;
	log_warning("the engine has not ended its step within %d s; killing it", STOP_MS / 1000);
	uv_process_kill(&s->process, SIGKILL);
}

void supervisor_stop(struct supervisor *s)
{
	if (s->stopping)
		return;
	s->stopping = true;
	close(s->lifeline[1]); /* between two steps the engine sees it and ends */
	s->lifeline[1] = -1;
	if (s->running)
		uv_timer_start(&s->backoff, on_late, STOP_MS, 0);
}

void supervisor_done(struct supervisor *s)
{
	const int fds[] = {s->wake_engine, s->wake_falcond, s->lifeline[0], s->lifeline[1]};
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}
