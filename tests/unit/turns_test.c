/* SPDX-License-Identifier: Apache-2.0 */
/* Whose request is looked at next, and who has a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/owner.h"
#include "daemon/request.h"

enum { EACH = 5 };

struct crowd {
	struct owners owners;
	struct turns turns;
	struct request of[3][EACH]; /* of three owners */
};

static void crowd_init(struct crowd *c)
{
	*c = (struct crowd){0};
	TAILQ_INIT(&c->turns);
	for (uint64_t i = 0; i < 3; i++)
		for (int k = 0; k < EACH; k++)
			c->of[i][k].owner = owner_get(&c->owners, i);
}

static void owners_take_turns_whatever_they_have_sent(void **state)
{
	(void)state;
	struct crowd c;
	crowd_init(&c);
	for (int k = 0; k < EACH; k++)
		turns_add(&c.turns, &c.of[0][k]);
	turns_add(&c.turns, &c.of[1][0]);
	turns_add(&c.turns, &c.of[2][0]);
	turns_add(&c.turns, &c.of[2][1]);
	const struct request *const order[] = {&c.of[0][0], &c.of[1][0], &c.of[2][0], &c.of[0][1], &c.of[2][1], &c.of[0][2], &c.of[0][3],
					       &c.of[0][4], NULL};
	for (size_t i = 0; i < sizeof order / sizeof *order; i++)
		assert_ptr_equal(turns_next(&c.turns), order[i]);
	turns_add(&c.turns, &c.of[1][1]); /* and again, after there was nothing */
	assert_ptr_equal(turns_next(&c.turns), &c.of[1][1]);
	owners_done(&c.owners);
}

static void who_leaves_has_no_turn(void **state)
{
	(void)state;
	struct crowd c;
	crowd_init(&c);
	turns_add(&c.turns, &c.of[0][0]);
	turns_add(&c.turns, &c.of[1][0]);
	turns_add(&c.turns, &c.of[1][1]);
	turns_leave(&c.of[0][0]);
	turns_leave(&c.of[1][0]);
	turns_leave(&c.of[2][0]); /* which was in no queue */
	assert_ptr_equal(turns_next(&c.turns), &c.of[1][1]);
	assert_null(turns_next(&c.turns));
	owners_done(&c.owners);
}

static void an_owner_has_two_threads_and_its_other_requests_wait_for_them(void **state)
{
	(void)state;
	struct crowd c;
	crowd_init(&c);
	struct owner *first = owner_get(&c.owners, 0);
	assert_true(turns_begin_thread(&c.of[0][0]));
	assert_true(turns_begin_thread(&c.of[0][1]));
	for (int k = 2; k < EACH; k++)
		assert_false(turns_begin_thread(&c.of[0][k]));
	assert_true(turns_begin_thread(&c.of[1][0])); /* another's does not wait for that */
	turns_leave(&c.of[0][2]);
	assert_ptr_equal(turns_end_thread(first), &c.of[0][3]);
	assert_ptr_equal(turns_end_thread(first), &c.of[0][4]);
	assert_null(turns_end_thread(first));
	assert_true(turns_begin_thread(&c.of[0][2]));
	owners_done(&c.owners);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(owners_take_turns_whatever_they_have_sent),
		cmocka_unit_test(who_leaves_has_no_turn),
		cmocka_unit_test(an_owner_has_two_threads_and_its_other_requests_wait_for_them),
	};
	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
