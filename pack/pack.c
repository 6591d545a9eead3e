/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packer from end to end: open, confine, parse, plan, write. Whatever stands in the files can at worst end this process,
 * or leave an image that weights_check() refuses.
 */
#include "pack/pack.h"

#include <errno.h>
#include <jansson.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pack/checkpoint.h"
#include "pack/files.h"
#include "pack/image.h"
#include "pack/plan.h"
#include "pack/sandbox.h"

static void say(int fd, const char *line, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, line, length);
		if (n < 0 && errno != EINTR)
			return; /* nobody listens: the exit status still says how it ended */
		if (n > 0) {
			line += n;
			length -= (size_t)n;
		}
	}
}

static void say_progress(void *context, unsigned percent)
{
	char line[32];
	int n = snprintf(line, sizeof line, "progress %u\n", percent);
	say(*(int *)context, line, (size_t)n);
}

/* Names from a file may hold anything; a line must stay one line with one tab, and be UTF-8. */
static void printable(char *text)
{
	for (; *text != '\0'; text++)
		if ((unsigned char)*text < 0x20 || (unsigned char)*text >= 0x7f)
			*text = '?';
}

static void say_error(int fd, struct err *e)
{
	char line[sizeof e->what + sizeof e->hint + 16];
	printable(e->what);
	printable(e->hint);
	int n = snprintf(line, sizeof line, "error %s\t%s\n", e->what, e->hint);
	say(fd, line, (size_t)n);
}

static int read_checkpoint(struct files *files, struct checkpoint *c, struct err *e)
{
	if (files->folder)
		return hf_checkpoint(files, c, e);
	struct file *f = files_use(files, files->list[0].name);
	return gguf_checkpoint(f->data, f->size, f->name, c, e);
}

static uint64_t bytes_of(const struct files *files)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < files->length; i++)
		sum += files->list[i].size;
	return sum;
}

static int pack(const char *source, const uint8_t set_id[16], int image_fd, int *status_fd, struct err *e)
{
	struct files files;
	struct checkpoint c = {0};
	struct plan p = {0};
	json_object_seed(0); /* reads /dev/urandom, which the sandbox would forbid */
	int r = files_open(source, &files, e);
	if (r == 0)
		r = sandbox_enter(bytes_of(&files), e);
	if (r == 0 && !files.folder && image_is(&files.list[0]))
		r = image_copy(image_fd, set_id, &files.list[0], say_progress, status_fd, e);
	else if (r == 0 && (r = read_checkpoint(&files, &c, e)) == 0 && (r = plan_make(&c, &p, e)) == 0)
		r = image_write(image_fd, set_id, &c, &files, &p, say_progress, status_fd, e);
	plan_done(&p);
	checkpoint_done(&c);
	files_close(&files);
	return r;
}

int pack_main(const char *source, const uint8_t set_id[16], int image_fd, int status_fd)
{
	struct err e = {0};
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* RLIMIT_FSIZE then is an error like any other */
	mallopt(M_ARENA_MAX, 1);  /* an arena a thread would take 64 MB of RLIMIT_AS each, and open /sys to count processors */
	say_progress(&status_fd, 0);
	int r = pack(source, set_id, image_fd, &status_fd, &e);
	if (r < 0)
		say_error(status_fd, &e);
	else
		say_progress(&status_fd, 100);
	return r < 0 ? 1 : 0;
}
