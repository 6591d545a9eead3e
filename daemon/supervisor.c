/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/supervisor.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/child.h"

enum {
	BACKOFF_MS = 100,
	BACKOFF_MOST_MS = 5000,
	TRIES_MOST = 3,     /* of the first engine, before falcond gives up */
	STOP_MS = 10000,    /* time that the last step has */
	DEATH_S = 10,       /* time that a killed process has to end */
	IDLE_LOOKS = 3,     /* a trial where nothing is computed is over after so many */
};

static void engine_exited(uv_process_t *process, int64_t exit_status, int signal);

static uint64_t step_now(const struct supervisor *s)
{
	return atomic_load_explicit(&s->store->board.header->step, memory_order_acquire);
}

static void wake(const struct supervisor *s)
{
	const uint64_t one = 1;
	if (write(s->wake_engine, &one, sizeof one) < 0)
		return; /* the counter is full, so the engine wakes anyway */
}

static int spawn_engine(struct supervisor *s, struct err *e)
{
	char threads[16];
	snprintf(threads, sizeof threads, "%u", s->threads);
	char *argv[] = {(char[]){"falcon-engine"}, (char[]){"--serve"}, (char[]){"--threads"}, threads, (char[]){"--dense"},
			s->openblas ? (char[]){"openblas"} : (char[]){"exact"}, NULL};
	const int *segments = s->store->set.fds;
	const int fds[] = {segments[KEEP_WEIGHTS], segments[KEEP_PAGES], segments[KEEP_BOARD], s->wake_engine, s->wake_falcond,
			   s->lifeline[0]};
	board_repair(&s->store->board);
	uint64_t step = step_now(s);
	s->first_step = step + step % 2; /* the engine makes it even */
	s->started = clock_ns();
	s->late_at = 0;
	s->process.data = s;
	pulse_start(&s->pulse, s->started, step);
	wake(s); /* it shows life by taking this */
	int r = child_spawn(s->loop, &s->process, s->engine, argv, fds, 6, engine_exited, e);
	s->running = r == 0;
	s->is_ready = false;
	return r;
}

static void on_retry(uv_timer_t *timer);

static void on_process_closed(uv_handle_t *handle)
{
	struct supervisor *s = handle->data;
	if (!s->stopping)
		uv_timer_start(&s->backoff, on_retry, s->wait_ms, 0);
}

/*
 * One more engine has ended, or could not be started. futile: it had done nothing; forgivable: by what may happen once without
 * a reason to wait.
 */
static void count_death(struct supervisor *s, bool futile, bool forgivable)
{
	if (!futile) {
		s->waits = 0;
		s->forgiven = false;
	}
	bool at_once = (forgivable || !futile) && !s->forgiven;
	unsigned wait = BACKOFF_MS << (s->waits < 6 ? s->waits : 6);
	s->wait_ms = at_once ? 0 : wait < BACKOFF_MOST_MS ? wait : BACKOFF_MOST_MS;
	s->forgiven |= at_once;
	s->waits += !at_once;
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
	count_death(s, true, false);
	s->process.data = s;
	uv_close((uv_handle_t *)&s->process, on_process_closed);
}

static bool counts(int signal)
{
	return signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGABRT || signal == SIGSYS;
}

static void log_death(const struct supervisor *s, int64_t exit_status, int signal)
{
	if (s->late_at != 0)
		log_warning("engine %d was killed for its silence; sessions go on with the next", s->process.pid);
	else if (signal != 0)
		log_warning("engine %d was killed by signal %d (%s); sessions go on with the next", s->process.pid, signal,
			    strsignal(signal));
	else
		log_warning("engine %d ended with status %lld; sessions go on with the next", s->process.pid, (long long)exit_status);
}

/* A death that counts. True: a session was found guilty of it and has been failed. */
static bool judge(struct supervisor *s, uint32_t cause)
{
	struct suspect guilty;
	uint32_t n;
	bool found = trial_crash(&s->trial, &guilty, &n);
	s->crashes++;
	if (found) {
		s->guilties++;
		s->guilty(s->arg, guilty.slot, guilty.run, cause);
	} else if (trial_open(&s->trial)) {
		log_warning("the engine died again with the same sessions; %u of %u are tried without the others",
			    s->trial.suspects.tried, s->trial.suspects.n);
	} else if (n > 0) {
		log_warning("the engine died of a step with %u sessions; it is tried once more", n);
	}
	return found;
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
	bool counted = s->late_at != 0 || counts(signal);
	bool futile = step_now(s) < s->first_step + 2 && clock_ns() - s->started < BACKOFF_MOST_MS * UINT64_C(1000000);
	s->reaped(s->arg); /* the board says what it did last; nobody else writes there now */
	if (counted && judge(s, s->late_at != 0 ? BOARD_FAILED_LATE : (uint32_t)signal))
		futile = false;
	count_death(s, futile, counted || signal == SIGKILL);
	uv_close((uv_handle_t *)process, on_process_closed);
	if (!s->was_ready && s->waits >= TRIES_MOST) {
		struct err e;
		err_set(&e, -EIO, "the engine ended %u times before it was ready", s->waits);
		err_hint(&e, "its own messages stand above");
		s->failed(s->arg, &e);
	}
}

/* What the engine says of its kernels, as something that can be told. */
static void read_isa(struct supervisor *s)
{
	memcpy(s->isa, s->store->board.header->isa, sizeof s->isa - 1);
	for (char *c = s->isa; *c != '\0'; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
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
		read_isa(s);
		s->ready(s->arg);
	}
	s->scan(s->arg);
	if (trial_scan(&s->trial))
		wake(s);
}

static bool wake_untaken(const struct supervisor *s)
{
	struct pollfd p = {.fd = s->wake_engine, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

/* A trial where nothing can be computed (no pages, nobody reads) says nothing about anyone, and keeps the others waiting. */
static void end_idle_trial(struct supervisor *s, bool idle)
{
	s->idle_looks = idle && trial_open(&s->trial) ? s->idle_looks + 1 : 0;
	if (s->idle_looks < IDLE_LOOKS)
		return;
	log_warning("those on trial cannot be computed now; everybody goes on");
	trial_forget(&s->trial);
	wake(s);
}

static void on_look(uv_timer_t *timer)
{
	struct supervisor *s = timer->data;
	if (!s->running || s->stopping || s->late_at != 0)
		return;
	uint64_t now = clock_ns(), step = step_now(s), before = s->pulse.step;
	bool untaken = wake_untaken(s), idle = step == before && step % 2 == 0 && !untaken;
	uint64_t expected = atomic_load_explicit(&s->store->board.header->step_expected, memory_order_relaxed);
	pulse_look(&s->pulse, now, step, untaken);
	end_idle_trial(s, idle && s->is_ready);
	if (s->pulse.silent_ms >= pulse_deadline(&s->pulse, s->is_ready, s->step_deadline_ms, expected)) {
		log_warning("engine %d has been silent for %llu ms in step %llu; killing it", s->process.pid,
			    (unsigned long long)s->pulse.silent_ms, (unsigned long long)step);
		s->late_at = now;
		uv_process_kill(&s->process, SIGKILL); /* nothing else ends a stopped process */
	} else if (idle && s->busy(s->arg)) {
		wake(s); /* a probe: by the next look it is taken */
	}
}

bool supervisor_alive(const struct supervisor *s)
{
	return !s->running || s->late_at == 0 || clock_ns() - s->late_at < DEATH_S * UINT64_C(1000000000);
}

int supervisor_open(struct supervisor *s, struct err *e)
{
	s->wake_engine = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->wake_falcond = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_engine < 0 || s->wake_falcond < 0 || pipe2(s->lifeline, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot make an eventfd or a pipe: %s", strerror(errno));
	trial_init(&s->trial, &s->store->board);
	uv_timer_init(s->loop, &s->backoff);
	uv_timer_init(s->loop, &s->look);
	uv_poll_init(s->loop, &s->poll, s->wake_falcond);
	s->backoff.data = s->look.data = s->poll.data = s;
	uv_poll_start(&s->poll, UV_READABLE, on_wake);
	return 0;
}

int supervisor_start(struct supervisor *s, struct err *e)
{
	uv_timer_start(&s->look, on_look, PULSE_LOOK_MS, PULSE_LOOK_MS);
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
