/* SPDX-License-Identifier: Apache-2.0 */
/* Starting falcon-engine: which file it is, and which descriptors and environment it gets (shm/heritage.h). */
#ifndef FALCON_DAEMON_CHILD_H
#define FALCON_DAEMON_CHILD_H

#include <uv.h>

#include "base/err.h"

/* The program: beside this one, else in the libexec folder. 0 or -ENOENT. */
int child_find_engine(char *ret_path, size_t size, struct err *e);

/*
 * Starts path with argv; fds[i] becomes descriptor 3 + i, n at most 8. Standard input is empty, output and error are this
 * process's standard error. 0 or -errno.
 */
int child_spawn(uv_loop_t *loop, uv_process_t *process, const char *path, char **argv, const int *fds, int n, uv_exit_cb on_exit,
		struct err *e);

#endif
