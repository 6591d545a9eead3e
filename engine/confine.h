/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's cage: after set-up it may compute, sleep, and write to what it was handed, and nothing else. */
#ifndef FALCON_ENGINE_CONFINE_H
#define FALCON_ENGINE_CONFINE_H

#include <stdint.h>

#include "base/err.h"

/*
 * Allows all threads of the process the system calls that computing needs: no sockets, no opening of files, no new processes or
 * threads, no executable memory. Any other kills the process (SIGSYS). Besides, it may take CONFINE_GROWTH bytes more of memory
 * of its own than it has by now (RLIMIT_DATA), when all that depends on the model is there. 0 or -errno. In a build with
 * sanitizers, which look at the process by system calls of their own, it does nothing.
 */
#define CONFINE_GROWTH (UINT64_C(1) << 30)
int confine(struct err *e);

#endif
