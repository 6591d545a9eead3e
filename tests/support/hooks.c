/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/support/hooks.h"

#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"

/* A sanitizer would turn a signal into an exit. */
static void let_signals_kill(void)
{
	static const char *const variables[] = {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"};
	static const char off[] = "handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:handle_abort=0";
	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
		const char *before = getenv(variables[i]);
		char value[1024];
		if (before != NULL && strstr(before, off) != NULL)
			continue;
		snprintf(value, sizeof value, "%s%s%s", before ? before : "", before ? ":" : "", off);
		assert_int_equal(setenv(variables[i], value, 1), 0);
	}
}

struct hooks *hooks_prepare(struct daemon *d)
{
	char path[80];
	daemon_prepare(d);
	let_signals_kill();
	d->program = "tests/hooks/falcond";
	snprintf(path, sizeof path, "%s/hooks", d->folder);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, sizeof(struct hooks)), 0);
	struct hooks *h = mmap(NULL, sizeof *h, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(h != MAP_FAILED);
	close(fd);
	assert_int_equal(setenv("FALCON_TEST_HOOKS", path, 1), 0);
	return h;
}

struct hooks *hooks_start(struct daemon *d, const char *yaml)
{
	struct hooks *h = hooks_prepare(d);
	daemon_launch(d, yaml);
	daemon_expect(d, "ready: ");
	return h;
}

void hooks_done(struct hooks *h)
{
	munmap(h, sizeof *h);
	unsetenv("FALCON_TEST_HOOKS");
}

void hooks_arm(struct hooks *h, const char *place, uint32_t pass, uint32_t times, int signal)
{
	hooks_disarm(h);
	snprintf(h->place, sizeof h->place, "%s", place);
	h->signal = (uint32_t)signal;
	atomic_store(&h->pass, pass);
	atomic_store_explicit(&h->times, times, memory_order_release);
}

void hooks_disarm(struct hooks *h)
{
	atomic_store(&h->times, 0);
	atomic_store(&h->stopped, 0);
}

static bool is_stopped(pid_t pid)
{
	char path[64], state = 'X';
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return false;
	bool read = fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
	fclose(f);
	return read && state == 'T';
}

pid_t hooks_await_stopped(struct hooks *h, int timeout_ms)
{
	for (uint64_t start = clock_ns(); clock_ns() - start < (uint64_t)timeout_ms * 1000000; usleep(500)) {
		pid_t pid = atomic_load_explicit(&h->stopped, memory_order_acquire);
		if (pid != 0 && is_stopped(pid)) {
			atomic_store(&h->stopped, 0);
			return pid;
		}
	}
	return 0;
}

void hooks_poison(struct hooks *h, const char *session, uint32_t position, uint32_t harm, uint32_t times)
{
	atomic_store(&h->harms, 0);
	snprintf(h->session, sizeof h->session, "%s", session);
	h->position = position;
	h->harm = harm;
	atomic_store_explicit(&h->harms, times, memory_order_release);
}

static char *read_file(const char *path)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	ssize_t n = getdelim(&text, &size, '\0', f);
	fclose(f);
	assert_true(n > 0);
	return text;
}

char **hooks_places(const char *folder)
{
	enum { MOST = 64 };
	static const char call[] = "stopping_place(\"";
	char pattern[4096], **places = calloc(1, MOST * (sizeof *places + HOOKS_NAME));
	char *names = (char *)(places + MOST);
	int n = 0;
	glob_t files;
	snprintf(pattern, sizeof pattern, "%s/%s/*.c", getenv("srcdir") ? getenv("srcdir") : ".", folder);
	assert_int_equal(glob(pattern, 0, NULL, &files), 0);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		char *text = read_file(files.gl_pathv[i]);
		for (char *at = text; (at = strstr(at, call)) != NULL; n++) {
			at += sizeof call - 1;
			size_t length = strcspn(at, "\"");
			assert_true(n < MOST - 1 && length < HOOKS_NAME);
			places[n] = memcpy(names + n * HOOKS_NAME, at, length);
		}
		free(text);
	}
	globfree(&files);
	return places;
}
