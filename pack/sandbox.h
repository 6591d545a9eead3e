/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FALCON_PACK_SANDBOX_H
#define FALCON_PACK_SANDBOX_H

#include "base/err.h"

/*
 * Confines the process for good: from here on it can compute, use memory, start threads of its own, and write to descriptors
 * that it holds; any other system call kills it. 0 or -errno with e set.
 */
int sandbox_enter(struct err *e);

#endif
