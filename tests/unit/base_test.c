/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/base64.h"
#include "base/err.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/reader.h"

/* Widening and narrowing every half is the identity, but for signalling NaNs, which turn quiet. */
static void f16_round_trip(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		uint16_t quiet = (h & 0x7c00u) == 0x7c00u && (h & 0x3ffu) ? (uint16_t)(h | 0x200u) : (uint16_t)h;
		assert_int_equal(f16_from_f32(f32_from_f16((uint16_t)h)), quiet);
	}
}

static void f16_rounds_to_even(void **state)
{
	(void)state;
	assert_int_equal(f16_from_f32(1.0f + 0x1p-11f), 0x3c00); /* tie, down to even */
	assert_int_equal(f16_from_f32(1.0f + 3 * 0x1p-11f), 0x3c02); /* tie, up to even */
	assert_int_equal(f16_from_f32(65519.9f), 0x7bff);
	assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
	assert_int_equal(f16_from_f32(0x1p-25f), 0); /* tie with zero */
	assert_int_equal(f16_from_f32(0x1.8p-25f), 1);
	assert_int_equal(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);
	assert_int_equal(bf16_from_f32(1.0f + 3 * 0x1p-8f), 0x3f82);
}

static void reader_never_passes_the_end(void **state)
{
	(void)state;
	const uint8_t bytes[5] = {1, 0, 0, 0, 7};
	struct reader r = reader_over(bytes, sizeof bytes);
	assert_int_equal(reader_u32(&r), 1);
	assert_null(reader_take(&r, UINT64_MAX));
	assert_true(r.failed);
	assert_int_equal(reader_u8(&r), 0); /* failed for good */
}

static void errors_say_what_where_and_what_to_do(void **state)
{
	(void)state;
	struct err e = {0};
	assert_int_equal(err_set(&e, -EINVAL, "tensor %s is cut short", "a"), -EINVAL);
	err_hint(&e, "download it again");
	assert_int_equal(err_prefix(&e, "model.gguf"), -EINVAL);
	assert_string_equal(e.what, "model.gguf: tensor a is cut short");
	assert_string_equal(e.hint, "download it again");
}

static void buffers_grow(void **state)
{
	(void)state;
	struct buf b = {0};
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "%d,", i % 10);
	assert_int_equal(b.length, 2000);
	assert_int_equal(strlen(b.data), 2000);
	buf_done(&b);
}

static void base64_is_rfc_4648s_and_nothing_else_is_taken(void **state)
{
	(void)state;
	static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
	static const char *const text[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
	static const char *const wrong[] = {"Z", "Zg=", "Zg", "Z===", "=Zg=", "Zm9v!mFy", "Zg==Zg==", "Zm 9v"};
	uint8_t back[16];
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
		struct buf b = {0};
		base64_encode(plain[i], strlen(plain[i]), &b);
		assert_int_equal(b.length, strlen(text[i]));
		assert_memory_equal(b.length ? b.data : "", text[i], b.length);
		assert_int_equal(base64_decode(text[i], strlen(text[i]), back), strlen(plain[i]));
		assert_memory_equal(back, plain[i], strlen(plain[i]));
		buf_done(&b);
	}
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(base64_decode(wrong[i], strlen(wrong[i]), back), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f16_round_trip),
		cmocka_unit_test(f16_rounds_to_even),
		cmocka_unit_test(reader_never_passes_the_end),
		cmocka_unit_test(errors_say_what_where_and_what_to_do),
		cmocka_unit_test(buffers_grow),
		cmocka_unit_test(base64_is_rfc_4648s_and_nothing_else_is_taken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
