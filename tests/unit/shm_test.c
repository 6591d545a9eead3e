/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "shm/board.h"
#include "shm/pages.h"
#include "shm/segment.h"
#include "shm/weights.h"

static const struct weights_hparams shape = {.family = WEIGHTS_FALCON, .n_layer = 6, .n_embd = 256, .n_head = 4, .n_kv_head = 1,
	.head_dim = 64, .n_ff = 1024, .n_vocab = 4096, .n_context = 2048, .n_norm = 1, .norm_eps = 1e-5f};

static void strip_sizes(void **state)
{
	(void)state;
	assert_int_equal(weights_bytes(WEIGHTS_Q4_0, 32, 64), 2 * 2 * 288);
	assert_int_equal(weights_bytes(WEIGHTS_Q8_0, 17, 32), 2 * 544);
	assert_int_equal(weights_bytes(WEIGHTS_BF16, 16, 3), 96);
	assert_int_equal(weights_bytes(WEIGHTS_Q4_0, 16, 33), 0);
	assert_int_equal(weights_bytes(99, 16, 32), 0);
}

/* A segment with the board that is planned. Returns its descriptor. */
static int make_board(const struct board_header *plan, struct board *ret, void **ret_base, uint64_t *ret_size)
{
	struct err e = {0};
	int fd = segment_create("board", plan->size, &e);
	assert_true(fd >= 0);
	assert_int_equal(segment_map(fd, true, ret_base, ret_size, &e), 0);
	memcpy(*ret_base, plan, sizeof *plan);
	assert_int_equal(board_open(*ret_base, *ret_size, ret, &e), 0);
	return fd;
}

static void a_board_that_does_not_add_up_is_refused(void **state)
{
	(void)state;
	struct board_header plan;
	board_plan(64, 2048, 4096, &plan);
	struct board b;
	struct err e = {0};
	void *base;
	uint64_t size;
	int fd = make_board(&plan, &b, &base, &size);
	assert_true((uint8_t *)board_log(&b, 63) + 2048 * 4 <= (uint8_t *)base + size);
	b.header->logs_offset += 4096;
	assert_int_equal(board_open(base, size, &b, &e), -EINVAL);
	b.header->logs_offset -= 4096;
	b.header->n_slots = 65;
	assert_int_equal(board_open(base, size, &b, &e), -EINVAL);
	munmap(base, size);
	close(fd);
}

static uint64_t memory_of(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void page_tables_stand_apart_and_have_memory_as_far_as_they_are_used(void **state)
{
	(void)state;
	enum { N = 1024, CONTEXT = 8180, ENTRIES = 256, USED = 20 };
	struct board_header plan;
	board_plan(N, CONTEXT, 4096, &plan);
	assert_int_equal(plan.n_table, ENTRIES);
	struct board b;
	void *base;
	uint64_t size;
	int fd = make_board(&plan, &b, &base, &size);
	uint64_t before = memory_of(fd);
	for (uint32_t slot = 0; slot < N; slot++)
		for (uint32_t place = 0; place < USED; place++)
			*board_page(&b, slot, place) = slot * ENTRIES + place;
	assert_int_equal(memory_of(fd) - before, N * 2 * BOARD_BLOCK * sizeof(uint32_t));
	for (uint32_t slot = 0; slot < N; slot++)
		for (uint32_t place = USED; place < ENTRIES; place++)
			*board_page(&b, slot, place) = slot * ENTRIES + place;
	for (uint32_t slot = 0; slot < N; slot++)
		for (uint32_t place = 0; place < ENTRIES; place++)
			assert_int_equal(*board_page(&b, slot, place), slot * ENTRIES + place);
	assert_true((uint8_t *)board_page(&b, 0, 0) >= (uint8_t *)&b.words[N]);
	assert_true((uint8_t *)(board_page(&b, N - 1, ENTRIES - 1) + 1) <= b.ring);
	munmap(base, size);
	close(fd);
}

static void sealed_weights_cannot_be_written(void **state)
{
	(void)state;
	struct err e = {0};
	int fd = segment_create("weights", 8192, &e);
	void *base;
	uint64_t size;
	assert_int_equal(segment_map(fd, true, &base, &size, &e), 0);
	assert_int_equal(segment_seal(fd, true, &e), -EBUSY);
	munmap(base, size);
	assert_int_equal(segment_seal(fd, true, &e), 0);
	assert_int_equal(segment_check_seals(fd, true, &e), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	int again = segment_reopen_readonly(fd, &e);
	assert_true(again >= 0);
	assert_int_equal(segment_map(again, true, &base, &size, &e), -EACCES);
	assert_int_equal(segment_map(again, false, &base, &size, &e), 0);
	munmap(base, size);
	close(again);
	close(fd);
}

static void pages_are_planned_and_checked(void **state)
{
	(void)state;
	struct pages_header h;
	struct err e = {0};
	pages_plan(&shape, PAGES_F16, 100, &h);
	assert_int_equal(pages_payload(&shape, PAGES_F16), 6 * 2 * 64 * 32 * 2);
	assert_int_equal(pages_payload(&shape, PAGES_Q8), 6 * 2 * (64 * 32 + 32 * 4));
	assert_int_equal(pages_check(&h, h.size, &shape, &e), 0);
	h.stride += 4096;
	assert_int_equal(pages_check(&h, h.size, &shape, &e), -EINVAL);
}

static void progress_counts_from_the_run_that_want_names(void **state)
{
	(void)state;
	struct board_header plan;
	board_plan(4, 256, 16, &plan);
	struct err e = {0};
	int fd = segment_create("board", plan.size, &e);
	void *base;
	uint64_t size;
	segment_map(fd, true, &base, &size, &e);
	memcpy(base, &plan, sizeof plan);
	struct board b;
	assert_int_equal(board_open(base, size, &b, &e), 0);
	struct board_record *r = board_record(&b, 2);
	r->n_from = 10;
	r->kv_from = 4;
	b.words[2].progress = board_progress(99, 99);
	b.words[2].is = board_word(1, BOARD_DONE);
	b.words[2].want = board_word(2, BOARD_RUN);
	assert_int_equal(board_effective(&b, 2), board_progress(4, 10));
	b.words[2].is = board_word(2, BOARD_RUNNING);
	assert_int_equal(board_effective(&b, 2), board_progress(99, 99));
	munmap(base, size);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strip_sizes),
		cmocka_unit_test(a_board_that_does_not_add_up_is_refused),
		cmocka_unit_test(page_tables_stand_apart_and_have_memory_as_far_as_they_are_used),
		cmocka_unit_test(sealed_weights_cannot_be_written),
		cmocka_unit_test(pages_are_planned_and_checked),
		cmocka_unit_test(progress_counts_from_the_run_that_want_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
