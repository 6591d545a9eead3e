/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An index from byte strings to numbers: metadata keys, tensors and tokens are all looked up by name, and a name that is
 * there twice is an error in each of them. The strings stay the caller's and must outlive the index.
 */
#ifndef FALCON_PACK_NAMES_H
#define FALCON_PACK_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct names {
	struct name { const char *text; uint32_t length, value; } *slots; /* open addressing; text NULL: free */
	size_t capacity, count;
};

enum { NAMES_NONE = UINT32_MAX };

/* Adds text -> value. 0, or -EEXIST (nothing changes) if the text is there. */
int names_add(struct names *n, const char *text, size_t length, uint32_t value);

/* The value of text, or NAMES_NONE. */
uint32_t names_find(const struct names *n, const char *text, size_t length);

void names_done(struct names *n);

#endif
