/* SPDX-License-Identifier: Apache-2.0 */
/* A folder and all that is in it. */
#ifndef FALCON_TESTS_SUPPORT_TREE_H
#define FALCON_TESTS_SUPPORT_TREE_H

#include <stddef.h>

/* Makes a new one in $TMPDIR, which tests/limit removes with all that is left there. Fails the cmocka test at hand if that cannot be. */
void tree_make(char *ret_path, size_t size);

/* Removes it; fails the cmocka test at hand if something stays. */
void tree_remove(const char *path);

#endif
