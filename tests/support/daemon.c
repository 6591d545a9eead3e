/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/support/daemon.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "tests/support/tree.h"

enum { WAIT_MS = 60000 };

void daemon_prepare(struct daemon *d)
{
	*d = (struct daemon){.program = "./falcond"};
	tree_make(d->folder, sizeof d->folder);
	assert_int_equal(chmod(d->folder, 0755), 0); /* clients of other uids come in */
	snprintf(d->path, sizeof d->path, "%s/s", d->folder);
	snprintf(d->url, sizeof d->url, "ipc://%s", d->path);
	snprintf(d->log, sizeof d->log, "%s/log", d->folder);
}

static void write_config(const struct daemon *d, const char *yaml, char *path, size_t size)
{
	snprintf(path, size, "%s/yaml", d->folder);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "model: %s/models/falcon-tales.Q8_0.gguf\nsocket: %s\n%s%s", getenv("srcdir") ? getenv("srcdir") : ".", d->url,
		yaml && strstr(yaml, "memory:") ? "" : "memory: 256M\n", yaml ? yaml : "");
	assert_int_equal(fclose(f), 0);
}

void daemon_launch(struct daemon *d, const char *yaml)
{
	char config[96];
	write_config(d, yaml, config, sizeof config);
	d->pid = fork();
	assert_true(d->pid >= 0);
	if (d->pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing running */
	int log = open(d->log, O_WRONLY | O_CREAT | O_APPEND, 0644);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	char threads[16];
	snprintf(threads, sizeof threads, "%u", d->threads ? d->threads : 2);
	execl(d->program, "falcond", "-c", config, "--threads", threads, (char *)NULL);
	_exit(127);
}

char *daemon_log(const struct daemon *d)
{
	char *text = calloc(1, 1 << 20);
	FILE *f = fopen(d->log, "r");
	if (f != NULL) {
		size_t n = fread(text, 1, (1 << 20) - 1, f);
		text[n] = '\0';
		fclose(f);
	}
	return text;
}

void daemon_expect(const struct daemon *d, const char *text)
{
	for (uint64_t start = clock_ns();; usleep(10000)) {
		bool alive = daemon_process_alive(d->pid); /* before the log is read: its last words are in it */
		char *log = daemon_log(d);
		bool there = strstr(log, text) != NULL;
		if (!there && (clock_ns() - start > (uint64_t)WAIT_MS * 1000000 || !alive))
			fail_msg("falcond did not say \"%s\", but:\n%s", text, log);
		free(log);
		if (there)
			return;
	}
}

void daemon_start(struct daemon *d, const char *yaml)
{
	daemon_prepare(d);
	daemon_launch(d, yaml);
	daemon_expect(d, "ready: ");
}

void daemon_start_as(struct daemon *d, const char *isa, unsigned threads, const char *yaml)
{
	assert_int_equal(isa ? setenv("FALCON_ISA", isa, 1) : unsetenv("FALCON_ISA"), 0);
	daemon_prepare(d);
	d->threads = threads;
	daemon_launch(d, yaml);
	daemon_expect(d, "ready: ");
	unsetenv("FALCON_ISA");
}

void daemon_restart(struct daemon *d, const char *yaml)
{
	unlink(d->log);
	daemon_launch(d, yaml);
	daemon_expect(d, "ready: ");
}

void daemon_replace(struct daemon *d, const char *yaml)
{
	assert_int_equal(kill(d->pid, SIGKILL), 0);
	assert_int_equal(daemon_reap(d), -SIGKILL);
	daemon_restart(d, yaml);
}

int daemon_reap(struct daemon *d)
{
	int status;
	for (int i = 0; waitpid(d->pid, &status, WNOHANG) == 0; i++, usleep(10000))
		if (i * 10 > WAIT_MS)
			fail_msg("falcond did not end");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int daemon_stop(struct daemon *d)
{
	assert_int_equal(kill(d->pid, SIGTERM), 0);
	return daemon_reap(d);
}

void daemon_clean(struct daemon *d)
{
	static const char *const names[] = {"yaml", "log", "s", "hooks"};
	char path[128];
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", d->folder, names[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(d->folder), 0);
}

bool daemon_process_alive(pid_t pid)
{
	char path[64], state = 'X';
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return false;
	bool read = fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
	fclose(f);
	return read && state != 'Z' && state != 'X';
}
