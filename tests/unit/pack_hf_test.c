/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pack_util.h"

static void every_golden_checkpoint_becomes_an_image_that_is_accepted(void **state)
{
	(void)state;
	static const char *const names[] = {"falcon-7b", "falcon-40b", "falcon-11b", "falcon-rw-1b", "falcon3"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[256];
		snprintf(path, sizeof path, "tests/golden/%s", names[i]);
		struct packed p = pack_path(source_path(path));
		struct err e = {0};
		assert_string_equal(strstr(p.status, "error") ? p.status : "", "");
		assert_int_equal(p.exit_status, 0);
		assert_int_equal(weights_check(p.image, p.size, &e), 0);
		assert_string_equal(((const struct weights_header *)p.image)->name, names[i]);
		packed_done(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_golden_checkpoint_becomes_an_image_that_is_accepted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
