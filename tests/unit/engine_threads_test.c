/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/threads.h"

enum { MEMBERS = 4, PIECES = 1000 };

struct job {
	_Atomic uint32_t calls[MEMBERS];
	_Atomic uint32_t taken[PIECES];
	uint32_t plain[MEMBERS]; /* written before a barrier, read by another member after it */
	_Atomic uint32_t wrong;
};

static void take_pieces(void *arg, struct team *team, uint32_t member)
{
	struct job *j = arg;
	j->calls[member]++;
	for (uint32_t i; (i = team_take(team)) < PIECES;)
		j->taken[i]++;
	j->plain[member]++;
	team_barrier(team);
	for (uint32_t i = 0; i < team->n; i++)
		j->wrong += j->plain[i] != j->plain[member];
}

static void run(uint32_t n, int calls, int pause_every)
{
	struct job j = {0};
	struct threads *t;
	struct err e;
	assert_int_equal(threads_new(n, &t, &e), 0);
	assert_int_equal(threads_count(t), n);
	for (int i = 0; i < calls; i++) {
		threads_run(t, take_pieces, &j);
		if (pause_every && i % pause_every == 0)
			usleep(5000); /* long enough for the others to fall asleep */
	}
	threads_free(t);
	for (uint32_t i = 0; i < MEMBERS; i++)
		assert_int_equal(j.calls[i], i < n ? calls : 0);
	for (int i = 0; i < PIECES; i++)
		assert_int_equal(j.taken[i], calls);
	assert_int_equal(j.wrong, 0);
}

static void every_member_runs_each_call_once_and_every_piece_goes_to_one(void **state)
{
	(void)state;
	run(MEMBERS, 200, 0);
	run(2, 200, 0);
}

static void members_that_have_fallen_asleep_are_woken(void **state)
{
	(void)state;
	run(MEMBERS, 20, 1);
}

static void a_pool_of_one_is_a_function_call(void **state)
{
	(void)state;
	run(1, 10, 0);
}

static void a_pool_of_none_or_too_many_is_refused(void **state)
{
	(void)state;
	struct threads *t;
	struct err e;
	assert_int_equal(threads_new(0, &t, &e), -EINVAL);
	assert_int_equal(threads_new(THREADS_MAX + 1, &t, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_member_runs_each_call_once_and_every_piece_goes_to_one),
		cmocka_unit_test(members_that_have_fallen_asleep_are_woken),
		cmocka_unit_test(a_pool_of_one_is_a_function_call),
		cmocka_unit_test(a_pool_of_none_or_too_many_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
