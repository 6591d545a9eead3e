/* SPDX-License-Identifier: Apache-2.0 */
/* Golden texts and ids of a tokenizer: tests/golden/NAME, a JSON object {"text", "ids"} a line. */
#ifndef FALCON_TESTS_SUPPORT_VECTORS_H
#define FALCON_TESTS_SUPPORT_VECTORS_H

#include "text/tokenizer.h"

/*
 * Asserts that each text gives its ids and that those give the text again. `pre`, if not NULL: only lines whose "pre" is this.
 * Returns how many there were.
 */
int vectors_check(const struct tokenizer *t, const char *name, const char *pre);

/* The path of a file in tests/golden, in a buffer of the callee's. */
const char *vectors_path(const char *name);

#endif
