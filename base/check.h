/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Always-on checks for our own bugs. They stay in release builds, because a daemon that computes on with a broken
 * invariant corrupts other people's sessions. Never check input with them: bytes from a peer, a file or the board get an
 * error (base/err.h).
 */
#ifndef FALCON_BASE_CHECK_H
#define FALCON_BASE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (__builtin_expect(!(condition), 0)) {                                                               \
			fprintf(stderr, "%s:%d: %s: check failed: %s\n", __FILE__, __LINE__, __func__, #condition);    \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/* Every long-lived struct starts with a magic word of its own; a stale or wrong pointer is caught here. */
#define CHECK_OBJ(object, expected) CHECK((object) != NULL && (object)->magic == (expected))

#endif
