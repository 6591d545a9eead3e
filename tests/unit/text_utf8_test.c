/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "text/utf8.h"

/* The reference: a string is a character, or begins one, if it is among the encodings of all scalar values. */
static uint8_t *known; /* bit 0: a proper beginning, bit 1: whole; index: up to 4 bytes and their number, see key() */
enum { BEGINS = 1, IS_WHOLE = 2 };

/* Characters differ in their first 4 bytes with 21 bits: 5 of the lead byte from C0 on, 6 of each further one. */
static size_t key(const unsigned char *s, size_t n)
{
	size_t k = n - 1;
	for (size_t i = 0; i < 4; i++)
		k = k << 6 | (i < n ? (i == 0 ? (s[0] >= 0xc0 ? s[0] & 0x3fu : 0) : s[i] & 0x3fu) : 0);
	return k;
}

static size_t put(uint32_t c, unsigned char *s)
{
	if (c < 0x80)
		return s[0] = (unsigned char)c, 1;
	if (c < 0x800)
		return s[0] = (unsigned char)(0xc0 | c >> 6), s[1] = (unsigned char)(0x80 | (c & 63)), 2;
	if (c < 0x10000)
		return s[0] = (unsigned char)(0xe0 | c >> 12), s[1] = (unsigned char)(0x80 | (c >> 6 & 63)),
		       s[2] = (unsigned char)(0x80 | (c & 63)), 3;
	s[0] = (unsigned char)(0xf0 | c >> 18), s[1] = (unsigned char)(0x80 | (c >> 12 & 63));
	s[2] = (unsigned char)(0x80 | (c >> 6 & 63)), s[3] = (unsigned char)(0x80 | (c & 63));
	return 4;
}

static unsigned what(const unsigned char *s, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if (n == 1 && s[0] < 0x80)
		return IS_WHOLE;
	return s[0] < 0xc0 ? 0 : known[key(s, n)];
}

static int learn(void **state)
{
	(void)state;
	known = xcalloc((size_t)4 << 24, 1);
	for (uint32_t c = 0x80; c < 0x110000; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		unsigned char s[4];
		size_t n = put(c, s);
		known[key(s, n)] |= IS_WHOLE;
		for (size_t i = 1; i < n; i++)
			known[key(s, i)] |= BEGINS;
	}
	return 0;
}

static int forget(void **state)
{
	(void)state;
	free(known);
	return 0;
}

/* Bytes that are likely to be at the borders of what is valid. */
static size_t random_text(unsigned char *s, size_t most)
{
	static const unsigned char odd[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0,
		0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
	size_t n = (size_t)rand() % (most - 4);
	for (size_t i = 0; i < n;)
		if (rand() % 3)
			i += put((uint32_t)rand() % (rand() % 2 ? 0xd800 : 0x3000), s + i);
		else
			s[i++] = odd[(size_t)rand() % sizeof odd];
	return n;
}

static void validity_is_that_of_the_encodings_of_all_scalar_values(void **state)
{
	(void)state;
	srand(1);
	unsigned char s[32];
	for (int round = 0; round < 300000; round++) {
		size_t n = random_text(s, sizeof s), at = 0, step = 1;
		while (at < n && step > 0)
			for (step = n - at < 4 ? n - at : 4; step > 0; step--)
				if (what(s + at, step) & IS_WHOLE) {
					at += step;
					break;
				}
		assert_int_equal(utf8_prefix((char *)s, n), at);
		assert_int_equal(utf8_valid((char *)s, n), at == n);
	}
}

static void only_a_tail_that_begins_a_character_is_left_out(void **state)
{
	(void)state;
	srand(2);
	unsigned char s[32];
	for (int round = 0; round < 300000; round++) {
		size_t n = random_text(s, sizeof s), whole = n;
		for (size_t back = 1; back <= 3 && back <= n; back++)
			if (what(s + n - back, back) & BEGINS)
				whole = n - back;
		assert_int_equal(utf8_whole((char *)s, n), whole);
	}
}

static void invalid_bytes_are_replaced_as_unicode_recommends(void **state)
{
	(void)state;
#define R "\xef\xbf\xbd"
	/* tables 3-8 to 3-11 of the standard, and a tail that is cut short */
	static const struct { const char *in, *out; } cases[] = {
		{"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "\x41"},
		{"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "\x41"},
		{"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "\x41" R R "\x42"},
		{"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "\x41"},
		{"ab\xe2\x82", "ab" R},
		{"\xe2\x82\xac!", "\xe2\x82\xac!"},
		{"", ""},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct buf out = {0};
		utf8_repair(cases[i].in, strlen(cases[i].in), &out);
		assert_int_equal(out.length, strlen(cases[i].out));
		assert_memory_equal(out.data ? out.data : "", cases[i].out, out.length);
		buf_done(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(validity_is_that_of_the_encodings_of_all_scalar_values),
		cmocka_unit_test(only_a_tail_that_begins_a_character_is_left_out),
		cmocka_unit_test(invalid_bytes_are_replaced_as_unicode_recommends),
	};
	return cmocka_run_group_tests(tests, learn, forget);
}
