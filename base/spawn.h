/* SPDX-License-Identifier: Apache-2.0 */
/* Starts a program with descriptors at the numbers that it expects. For programs without an event loop. */
#ifndef FALCON_BASE_SPAWN_H
#define FALCON_BASE_SPAWN_H

#include <sys/types.h>

#include "base/err.h"

/*
 * Runs path with argv (NULL at the end) in this process's environment. The child has standard input, output and error, fds[0]
 * as descriptor 3, fds[1] as 4 and so on, and nothing else; n at most 16. 0 or -errno; the caller reaps.
 */
int spawn(const char *path, const char *const argv[], const int *fds, int n, pid_t *ret_pid, struct err *e);

/* The path of a program that stands beside this one, from /proc/self/exe. 0 or -errno. */
int spawn_sibling(const char *name, char *ret_path, unsigned size, struct err *e);

#endif
