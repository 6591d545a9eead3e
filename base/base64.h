/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes in JSON strings: base64 with padding, RFC 4648 section 4. */
#ifndef FALCON_BASE_BASE64_H
#define FALCON_BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

/* Appends the text of n bytes. */
void base64_encode(const void *bytes, size_t n, struct buf *out);

/* The bytes' number, or -1: it is not base64. out has room for 3 bytes each 4 characters. */
ptrdiff_t base64_decode(const char *text, size_t length, uint8_t *out);

#endif
