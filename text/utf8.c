/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All of it rests on one step: what the bytes at a place begin. A lead byte fixes how many bytes follow and the range of the
 * first of these (table 3-7); the others are 80 to BF. A lead byte is never a continuation byte, so a character always
 * begins anew at one, and the end of a text can be judged by its last bytes alone.
 */
#include "text/utf8.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

enum step { WHOLE, CUT, INVALID }; /* a character; a valid beginning that the text's end cuts short; neither */

/* Looks at n > 0 bytes at s. *ret_taken: how many the character has, or the longest valid beginning (at least 1). */
static enum step utf8_step(const unsigned char *s, size_t n, size_t *ret_taken)
{
	unsigned char lead = s[0], low = 0x80, high = 0xbf;
	size_t more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
	*ret_taken = 1;
	if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4)
		return INVALID;
	switch (lead) {
	case 0xe0: low = 0xa0; break; /* below: overlong */
	case 0xed: high = 0x9f; break; /* above: surrogates */
	case 0xf0: low = 0x90; break;
	case 0xf4: high = 0x8f; break; /* above: beyond U+10FFFF */
	}
	for (size_t i = 1; i <= more; i++) {
		if (i == n)
			return CUT;
		if (s[i] < low || s[i] > high)
			return INVALID;
		low = 0x80;
		high = 0xbf;
		*ret_taken = i + 1;
	}
	return WHOLE;
}

size_t utf8_prefix(const char *text, size_t length)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t at = 0, taken;
	while (at < length) {
		uint64_t word;
		if (length - at >= sizeof word) {
			memcpy(&word, s + at, sizeof word);
			if ((word & UINT64_C(0x8080808080808080)) == 0) {
				at += sizeof word;
				continue;
			}
		}
		if (utf8_step(s + at, length - at, &taken) != WHOLE)
			break;
		at += taken;
	}
	return at;
}

bool utf8_valid(const char *text, size_t length)
{
	return utf8_prefix(text, length) == length;
}

size_t utf8_whole(const char *text, size_t length)
{
	const unsigned char *s = (const unsigned char *)text;
	for (size_t back = 1; back <= 3 && back <= length; back++) {
		if ((s[length - back] & 0xc0) == 0x80)
			continue;
		size_t taken;
		return utf8_step(s + length - back, back, &taken) == CUT ? length - back : length;
	}
	return length;
}

void utf8_repair(const char *text, size_t length, struct buf *out)
{
	for (size_t at = 0; at < length;) {
		size_t good = utf8_prefix(text + at, length - at), taken;
		buf_add(out, text + at, good);
		at += good;
		if (at == length)
			break;
		(void)utf8_step((const unsigned char *)text + at, length - at, &taken);
		buf_add(out, "\xef\xbf\xbd", 3);
		at += taken;
	}
}
