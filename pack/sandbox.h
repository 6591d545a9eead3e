/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FALCON_PACK_SANDBOX_H
#define FALCON_PACK_SANDBOX_H

#include <stdint.h>

#include "base/err.h"

/*
 * Confines the process for good: from here on it can compute, start threads of its own, and write to descriptors that it holds;
 * any other system call kills it. Memory and the size of what it writes are bounded by the size of the source, which is mapped
 * by now: room for it, for an image of twice its size at most, and 2 GiB to work in. 0 or -errno with e set.
 */
int sandbox_enter(uint64_t source_bytes, struct err *e);

#endif
