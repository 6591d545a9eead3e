/* SPDX-License-Identifier: Apache-2.0 */
/* A folder and all that is in it. */
#ifndef FALCON_TESTS_SUPPORT_TREE_H
#define FALCON_TESTS_SUPPORT_TREE_H

/* Removes it; fails the cmocka test at hand if something stays. */
void tree_remove(const char *path);

#endif
