/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the packer's tests share: running pack_main() in a process of its own, as falcond does, and little writers of the
 * file formats. Included by one file a program.
 */
#ifndef FALCON_TESTS_PACK_UTIL_H
#define FALCON_TESTS_PACK_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "pack/pack.h"
#include "shm/segment.h"
#include "shm/weights.h"

struct packed {
	void *image; /* NULL if it was refused */
	uint64_t size;
	char status[8192]; /* all lines of the status pipe */
	int exit_status;   /* as waitpid() gives it */
};

/* A file that comes with the sources. */
static inline const char *source_path(const char *name)
{
	static char path[4096];
	const char *folder = getenv("srcdir");
	snprintf(path, sizeof path, "%s/%s", folder != NULL ? folder : ".", name);
	return path;
}

static inline struct packed pack_path(const char *path)
{
	static const uint8_t set_id[16] = "0123456789abcde";
	struct packed p = {0};
	struct err e = {0};
	int status[2], fd = segment_create("test", 0, &e);
	assert_true(fd >= 0);
	assert_int_equal(pipe(status), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(status[0]);
		_exit(pack_main(path, set_id, fd, status[1]));
	}
	close(status[1]);
	for (ssize_t n, at = 0; (n = read(status[0], p.status + at, sizeof p.status - 1 - (size_t)at)) > 0; at += n)
		;
	close(status[0]);
	assert_int_equal(waitpid(pid, &p.exit_status, 0), pid);
	if (p.exit_status == 0)
		assert_int_equal(segment_map(fd, false, &p.image, &p.size, &e), 0);
	close(fd);
	return p;
}

static inline void packed_done(struct packed *p)
{
	if (p->image != NULL)
		munmap(p->image, p->size);
}

#endif
