/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

#include <stdbool.h>

void base64_encode(const void *bytes, size_t n, struct buf *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *from = bytes;
	char *at = buf_reserve(out, (n + 2) / 3 * 4 + 1);
	out->length += (n + 2) / 3 * 4;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t group = (uint32_t)from[i] << 16 | (i + 1 < n ? (uint32_t)from[i + 1] << 8 : 0) | (i + 2 < n ? from[i + 2] : 0);
		*at++ = digits[group >> 18];
		*at++ = digits[group >> 12 & 63];
		*at++ = i + 1 < n ? digits[group >> 6 & 63] : '=';
		*at++ = i + 2 < n ? digits[group & 63] : '=';
	}
	*at = '\0';
}

/* One character's six bits, or -1. */
static int bits_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ptrdiff_t base64_decode(const char *text, size_t length, uint8_t *out)
{
	if (length % 4 != 0)
		return -1;
	uint8_t *at = out;
	for (size_t i = 0; i < length; i += 4) {
		bool last = i + 4 == length;
		unsigned pad = last && text[i + 3] == '=' ? 1 + (text[i + 2] == '=') : 0;
		uint32_t word = 0;
		for (unsigned j = 0; j < 4; j++) {
			int bits = j >= 4 - pad ? 0 : bits_of(text[i + j]);
			if (bits < 0)
				return -1;
			word = word << 6 | (uint32_t)bits;
		}
		for (unsigned j = 0; j < 3 - pad; j++)
			*at++ = (uint8_t)(word >> (16 - 8 * j));
	}
	return at - out;
}
