/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pack_util.h"

static void the_bundled_model_becomes_an_image_that_is_accepted(void **state)
{
	(void)state;
	struct packed p = pack_path(source_path("models/falcon-tales.Q8_0.gguf"));
	struct err e = {0};
	assert_string_equal(strstr(p.status, "error") ? p.status : "", "");
	assert_int_equal(p.exit_status, 0);
	assert_int_equal(weights_check(p.image, p.size, &e), 0);
	const struct weights_header *h = p.image;
	assert_string_equal(h->name, "falcon-tales");
	assert_memory_equal(h->set_id, "0123456789abcde", 16);
	assert_int_equal(h->hparams.n_layer, 6);
	assert_int_equal(h->hparams.n_kv_head, 1);
	assert_int_equal(weights_find(p.image, WEIGHTS_Q, 5)->type, WEIGHTS_Q8_0);
	assert_null(weights_find(p.image, WEIGHTS_HEAD, 0));
	assert_non_null(strstr(p.status, "progress 100\n"));
	packed_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_bundled_model_becomes_an_image_that_is_accepted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
