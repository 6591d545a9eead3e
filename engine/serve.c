/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine as a process. It must not outlive its falcond, so it asks the kernel to be killed with it and watches the
 * lifeline as well; there must be one engine to a board, so it holds a lock that ends with the process; and it must be the one
 * to go when memory is short, because all that it does can be done again. It starts in this order: die with the parent, lock,
 * map and check, start the pool, close the cage, say ready.
 */
#define _GNU_SOURCE
#include "engine/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/hooks.h"
#include "base/log.h"
#include "engine/confine.h"
#include "engine/step.h"
#include "shm/heritage.h"

enum { NICE = 5 };

static int die_with_parent(pid_t parent, struct err *e)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_set(e, -errno, "cannot ask to be killed with falcond: %s", strerror(errno));
	struct pollfd lifeline = {.fd = HERITAGE_LIFELINE, .events = POLLIN};
	if (getppid() != parent || (poll(&lifeline, 1, 0) > 0 && lifeline.revents))
		return err_set(e, -ESRCH, "falcond is gone already");
	return 0;
}

static int lock_board(struct err *e)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HERITAGE_LOCK_ENGINE, .l_len = 1};
	if (fcntl(HERITAGE_BOARD, F_SETLK, &lock) == 0)
		return 0;
	int code = -errno;
	if (code != -EAGAIN && code != -EACCES)
		return err_set(e, code, "cannot lock the board: %s", strerror(-code));
	pid_t holder = fcntl(HERITAGE_BOARD, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK ? lock.l_pid : 0;
	err_set(e, code, "the board has an engine already: process %d holds its lock", (int)holder);
	return err_hint(e, "it ends with its falcond; start another engine only after that one is reaped");
}

/* Behind everybody in the queue for the CPU, in front of everybody when memory runs out. Where this is refused, so be it. */
static void yield_to_others(void)
{
	errno = 0;
	int now = getpriority(PRIO_PROCESS, 0);
	if (errno == 0)
		setpriority(PRIO_PROCESS, 0, now + NICE);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	static const char score[] = "500";
	if (write(fd, score, sizeof score - 1) < 0)
		log_warning("cannot raise the engine's oom_score_adj: %s", strerror(errno));
	close(fd);
}

static void say_ready(const struct board *b, const char *isa, uint32_t threads)
{
	struct board_header *h = b->header;
	h->threads = threads;
	memset(h->isa, 0, sizeof h->isa);
	memcpy(h->isa, isa, strnlen(isa, sizeof h->isa - 1));
	stopping_place("engine.ready.isa");
	atomic_store_explicit(&h->ready, (uint32_t)getpid(), memory_order_release);
	stopping_place("engine.ready.stored");
	const uint64_t one = 1;
	if (write(HERITAGE_WAKE_FALCOND, &one, sizeof one) < 0)
		return; /* the counter is full: falcond will look */
}

static void log_refused(struct step *step)
{
	struct err e;
	if (step_refused(step, &e))
		log_warning("a run was refused: %s", e.what);
}

/* Steps while there is something to compute, sleeps while there is not. Returns when the lifeline ends. */
static void loop(struct step *step)
{
	struct pollfd fds[] = {{.fd = HERITAGE_WAKE_ENGINE, .events = POLLIN}, {.fd = HERITAGE_LIFELINE, .events = POLLIN}};
	step_scan(step);
	for (;;) {
		bool busy = step_run(step);
		log_refused(step);
		if (poll(fds, 2, busy ? 0 : -1) <= 0)
			continue;
		if (fds[1].revents)
			return;
		uint64_t count;
		if (read(HERITAGE_WAKE_ENGINE, &count, sizeof count) == sizeof count)
			step_scan(step);
	}
}

/* A terminal's Ctrl-C reaches the whole group: it is for falcond, which lets the engine finish its step. */
static void ignore_signals(void)
{
	static const int ignored[] = {SIGINT, SIGHUP, SIGPIPE};
	for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
		signal(ignored[i], SIG_IGN);
}

static int serve(uint32_t threads, uint32_t dense, pid_t parent, struct err *e)
{
	struct segments segments;
	int r = die_with_parent(parent, e);
	if (r < 0 || (r = lock_board(e)) < 0)
		return r;
	ignore_signals();
	yield_to_others();
	const struct kernels *kernels = kernels_select(getenv("FALCON_ISA"));
	if (kernels == NULL) {
		err_set(e, -EINVAL, "FALCON_ISA is \"%s\"", getenv("FALCON_ISA"));
		return err_hint(e, "it may be portable, avx2, avx512 or amx");
	}
	if ((r = segments_open(HERITAGE_WEIGHTS, HERITAGE_PAGES, HERITAGE_BOARD, dense, &segments, e)) < 0)
		return r;
	struct step_options options = {.threads = threads, .dense = dense, .wake = HERITAGE_WAKE_FALCOND};
	struct step *step;
	if ((r = step_new(&segments, kernels, &options, &step, e)) < 0 || (r = confine(e)) < 0)
		return r;
	say_ready(&segments.board, kernels->name, threads);
	loop(step);
	return 0;
}

int serve_main(uint32_t threads, uint32_t dense)
{
	pid_t parent = getppid();
	struct err e = {0};
	if (serve(threads, dense, parent, &e) == 0)
		_exit(0); /* the kernel frees everything; nothing is written back */
	log_error("%s%s%s", e.what, e.hint[0] ? "; " : "", e.hint);
	return 1;
}
