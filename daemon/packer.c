/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/packer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "daemon/child.h"

enum { LINE_MOST = 4096 };

struct packer {
	uv_process_t process;
	uv_pipe_t status;
	bool running, status_open, stopped;
	int64_t exit_status;
	int signal;
	char line[LINE_MOST];
	size_t length;
	void (*progress)(unsigned percent);
	struct err said; /* by the packer; code 0: nothing */
};

static struct packer *current; /* for packer_stop() */

static void on_process_closed(uv_handle_t *handle)
{
	((struct packer *)handle->data)->running = false;
}

static void on_status_closed(uv_handle_t *handle)
{
	((struct packer *)handle->data)->status_open = false;
}

static void packer_exited(uv_process_t *process, int64_t exit_status, int signal)
{
	struct packer *p = process->data;
	p->exit_status = exit_status;
	p->signal = signal;
	uv_close((uv_handle_t *)process, on_process_closed);
}

/* Bytes of another process that go to a log: printable ASCII and UTF-8 as they are, control characters as spaces. */
static void clean(char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = ' ';
}

static void take_line(struct packer *p, char *line)
{
	unsigned percent;
	if (strncmp(line, "error ", 6) == 0 && p->said.code == 0) {
		char *tab = strchr(line, '\t');
		if (tab != NULL)
			*tab++ = '\0';
		clean(line);
		err_set(&p->said, -EINVAL, "%s", line + 6);
		if (tab != NULL && *tab != '\0') {
			clean(tab);
			err_hint(&p->said, "%s", tab);
		}
	} else if (sscanf(line, "progress %3u", &percent) == 1 && percent <= 100) {
		p->progress(percent);
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct packer *p = handle->data;
	(void)suggested;
	if (p->length == LINE_MOST - 1)
		p->length = 0; /* no line is that long */
	*buf = uv_buf_init(p->line + p->length, (unsigned)(LINE_MOST - 1 - p->length));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct packer *p = stream->data;
	(void)buf;
	if (n < 0) {
		uv_close((uv_handle_t *)stream, on_status_closed);
		return;
	}
	p->length += (size_t)n;
	p->line[p->length] = '\0';
	char *start = p->line, *end;
	while ((end = memchr(start, '\n', (size_t)(p->line + p->length - start))) != NULL) {
		*end = '\0';
		take_line(p, start);
		start = end + 1;
	}
	p->length = (size_t)(p->line + p->length - start);
	memmove(p->line, start, p->length + 1);
}

static int start(struct packer *p, uv_loop_t *loop, const char *engine, const char *source, int image, const uint8_t set_id[16],
		 struct err *e)
{
	char hex[33];
	for (int i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", set_id[i]);
	char *argv[] = {(char[]){"falcon-engine"}, (char[]){"--pack"}, (char *)(uintptr_t)source, (char[]){"--set-id"}, hex, NULL};
	int status[2];
	if (pipe2(status, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot make a pipe: %s", strerror(errno));
	uv_pipe_init(loop, &p->status, 0);
	uv_pipe_open(&p->status, status[0]);
	p->status.data = p->process.data = p;
	p->status_open = true;
	int r = child_spawn(loop, &p->process, engine, argv, (int[]){image, status[1]}, 2, packer_exited, e);
	close(status[1]);
	p->running = true; /* the handle is there in any case */
	if (r < 0) {
		uv_close((uv_handle_t *)&p->process, on_process_closed);
		uv_close((uv_handle_t *)&p->status, on_status_closed);
		return r;
	}
	uv_read_start((uv_stream_t *)&p->status, on_alloc, on_read);
	return 0;
}

static int verdict(const struct packer *p, const char *source, struct err *e)
{
	if (p->stopped)
		return err_set(e, -EINTR, "stopped while packing %s", source);
	if (p->exit_status == 0 && p->signal == 0)
		return 0;
	if (p->said.code != 0) {
		*e = p->said;
		return e->code;
	}
	if (p->signal == SIGBUS) {
		err_set(e, -ENOSPC, "packing %s: there is no room for the weights, or the file became shorter meanwhile", source);
		return err_hint(e, "see how much room the folder of `segments` has");
	}
	if (p->signal != 0) {
		err_set(e, -EIO, "packing %s: the packer was killed by signal %d (%s)", source, p->signal, strsignal(p->signal));
		return err_hint(e, "if it was SIGKILL memory may be short; otherwise this is a bug: please report it with the file's name");
	}
	return err_set(e, -EIO, "packing %s: the packer ended with status %lld", source, (long long)p->exit_status);
}

int packer_run(uv_loop_t *loop, const char *engine, const char *source, int image, const uint8_t set_id[16],
	       void (*progress)(unsigned percent), struct err *e)
{
	struct packer *p = xcalloc(1, sizeof *p);
	p->progress = progress;
	current = p;
	int r = start(p, loop, engine, source, image, set_id, e);
	while (p->running || p->status_open)
		uv_run(loop, UV_RUN_ONCE);
	current = NULL;
	if (r == 0)
		r = verdict(p, source, e);
	free(p);
	return r;
}

void packer_stop(void)
{
	if (current == NULL || current->stopped)
		return;
	current->stopped = true;
	uv_process_kill(&current->process, SIGKILL);
}
