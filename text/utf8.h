/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as Unicode defines it (table 3-7): no surrogates, no overlong forms, nothing above U+10FFFF. */
#ifndef FALCON_TEXT_UTF8_H
#define FALCON_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>

struct buf;

/*
 * Length of the longest prefix that ends with a whole character: an incomplete, so far valid, tail of 1 to 3 bytes is left out;
 * invalid bytes are not.
 */
size_t utf8_whole(const char *text, size_t length);

/* Length of the longest prefix that is valid. */
size_t utf8_prefix(const char *text, size_t length);

bool utf8_valid(const char *text, size_t length);

/* Appends text with each maximal invalid subsequence replaced by U+FFFD (Unicode 3.9, recommended practice). */
void utf8_repair(const char *text, size_t length, struct buf *out);

#endif
