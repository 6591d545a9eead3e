/* SPDX-License-Identifier: Apache-2.0 */
/* The index of pages by what they hold, over an arena of a few small pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/prefix.h"
#include "shm/segment.h"

enum { PAGES = 4, HEADS = 1024, PAYLOADS = 4096, STRIDE_BYTES = 4096, ALICE = 1000, BOB = 1001 };

struct fixture {
	struct arena arena;
	struct prefix prefix;
	int fd;
	int32_t ids[3][PAGE_TOKENS];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct pages_header h = {.n_pages = PAGES, .heads_offset = HEADS, .payload_offset = PAYLOADS, .stride = STRIDE_BYTES};
	struct err e;
	f->fd = segment_create("pages", PAYLOADS + PAGES * STRIDE_BYTES, &e);
	arena_init(&f->arena, f->fd, &h);
	prefix_init(&f->prefix, &f->arena);
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < PAGE_TOKENS; j++)
			f->ids[i][j] = 100 * i + j;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	prefix_done(&f->prefix);
	arena_done(&f->arena);
	close(f->fd);
	free(f);
	return 0;
}

static struct prefix_key key_after(const struct fixture *f, struct prefix_key before, int block)
{
	return prefix_next(&f->prefix, before, f->ids[block]);
}

/* A page with that block, held once and in the index. */
static uint32_t put(struct fixture *f, uint64_t owner, struct prefix_key key, int block)
{
	uint32_t page;
	struct pages_head head;
	assert_true(arena_take(&f->arena, &page));
	memcpy(head.ids, f->ids[block], sizeof head.ids);
	arena_write_head(&f->arena, page, &head);
	prefix_put(&f->prefix, owner, key, page);
	return page;
}

static bool found(const struct fixture *f, uint64_t owner, struct prefix_key key, int block)
{
	uint32_t page;
	return prefix_find(&f->prefix, owner, key, f->ids[block], &page);
}

static void a_block_is_found_after_the_text_that_it_stood_after_and_no_other(void **state)
{
	struct fixture *f = *state;
	struct prefix_key root = prefix_root(&f->prefix, ALICE), zero = key_after(f, root, 0), one = key_after(f, zero, 1);
	uint32_t first = put(f, ALICE, zero, 0), second = put(f, ALICE, one, 1), page;
	assert_true(prefix_find(&f->prefix, ALICE, zero, f->ids[0], &page));
	assert_int_equal(page, first);
	assert_true(prefix_find(&f->prefix, ALICE, one, f->ids[1], &page));
	assert_int_equal(page, second);
	assert_false(found(f, ALICE, key_after(f, root, 1), 1));
	assert_false(found(f, ALICE, key_after(f, key_after(f, root, 2), 1), 1));
	assert_false(found(f, ALICE, key_after(f, one, 1), 1));
}

static void nobody_finds_what_another_owner_has(void **state)
{
	struct fixture *f = *state;
	struct prefix_key alices = key_after(f, prefix_root(&f->prefix, ALICE), 0), bobs = key_after(f, prefix_root(&f->prefix, BOB), 0);
	put(f, ALICE, alices, 0);
	assert_false(found(f, BOB, bobs, 0));
	assert_false(found(f, BOB, alices, 0)); /* not even by the other's key */
	assert_true(found(f, ALICE, alices, 0));
}

static void keys_differ_from_one_start_to_the_next(void **state)
{
	struct fixture *f = *state;
	struct prefix_key before = prefix_root(&f->prefix, ALICE);
	prefix_done(&f->prefix);
	prefix_init(&f->prefix, &f->arena);
	struct prefix_key after = prefix_root(&f->prefix, ALICE);
	assert_true(before.low != after.low && before.high != after.high);
}

static void a_page_whose_head_says_other_ids_is_not_found(void **state)
{
	struct fixture *f = *state;
	struct prefix_key key = key_after(f, prefix_root(&f->prefix, ALICE), 0);
	uint32_t page = put(f, ALICE, key, 0);
	struct pages_head head;
	assert_true(arena_read_head(&f->arena, page, &head));
	head.ids[PAGE_TOKENS - 1]++;
	arena_write_head(&f->arena, page, &head);
	assert_false(found(f, ALICE, key, 0));
}

static void of_two_pages_with_the_same_block_the_first_is_kept(void **state)
{
	struct fixture *f = *state;
	struct prefix_key key = key_after(f, prefix_root(&f->prefix, ALICE), 0);
	uint32_t first = put(f, ALICE, key, 0), second = put(f, ALICE, key, 0), page;
	assert_true(prefix_find(&f->prefix, ALICE, key, f->ids[0], &page));
	assert_int_equal(page, first);
	arena_drop(&f->arena, second);
	arena_drop(&f->arena, first);
	assert_int_equal(f->arena.n_free, PAGES);
	assert_int_equal(f->arena.n_kept, 1);
}

static void a_page_that_nobody_holds_is_found_until_its_room_is_wanted(void **state)
{
	struct fixture *f = *state;
	struct prefix_key key = key_after(f, prefix_root(&f->prefix, ALICE), 0);
	char secret[8] = "secret!", content[8];
	uint32_t page = put(f, ALICE, key, 0), other;
	off_t at = PAYLOADS + (off_t)page * STRIDE_BYTES;
	assert_int_equal(pwrite(f->fd, secret, 8, at), 8);
	arena_drop(&f->arena, page);
	assert_int_equal(f->arena.n_free, PAGES); /* it takes no room from anyone */
	for (int i = 0; i < PAGES - 1; i++) {
		assert_true(arena_take(&f->arena, &other));
		assert_int_not_equal(other, page);
	}
	assert_true(found(f, ALICE, key, 0));
	assert_int_equal(pread(f->fd, content, 8, at), 8);
	assert_string_equal(content, secret);
	assert_true(arena_take(&f->arena, &other));
	assert_int_equal(other, page);
	assert_false(found(f, ALICE, key, 0));
	assert_int_equal(pread(f->fd, content, 8, at), 8);
	assert_memory_equal(content, (char[8]){0}, 8); /* its next holder does not see what was there */
	assert_false(arena_take(&f->arena, &other));
}

static void what_was_let_go_of_first_makes_room_first(void **state)
{
	struct fixture *f = *state;
	struct prefix_key key[PAGES];
	uint32_t pages[PAGES], page;
	key[0] = key_after(f, prefix_root(&f->prefix, ALICE), 0);
	for (int i = 0; i < PAGES; i++) {
		key[i] = i == 0 ? key[0] : key_after(f, key[i - 1], 0);
		pages[i] = put(f, ALICE, key[i], 0);
	}
	for (int i = PAGES - 1; i >= 0; i--)
		arena_drop(&f->arena, pages[i]);
	arena_share(&f->arena, pages[3]); /* used again, and let go of last */
	arena_drop(&f->arena, pages[3]);
	for (int i = 2; i >= 0; i--) {
		assert_true(arena_take(&f->arena, &page));
		assert_int_equal(page, pages[i]);
	}
	assert_true(found(f, ALICE, key[3], 0));
}

static void a_kept_page_may_be_held_again_while_a_thread_still_reads_it(void **state)
{
	struct fixture *f = *state;
	struct prefix_key key = key_after(f, prefix_root(&f->prefix, ALICE), 0);
	uint32_t page = put(f, ALICE, key, 0);
	arena_pin(&f->arena, page);
	arena_drop(&f->arena, page);
	assert_int_equal(f->arena.n_free, PAGES - 1);
	assert_int_equal(f->arena.n_held, 1);
	arena_share(&f->arena, page);
	assert_int_equal(f->arena.n_held, 0);
	arena_unpin(&f->arena, page);
	assert_int_equal(f->arena.n_free, PAGES - 1);
	arena_drop(&f->arena, page);
	assert_int_equal(f->arena.n_free, PAGES);
	assert_true(found(f, ALICE, key, 0));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_block_is_found_after_the_text_that_it_stood_after_and_no_other),
		TEST(nobody_finds_what_another_owner_has),
		TEST(keys_differ_from_one_start_to_the_next),
		TEST(a_page_whose_head_says_other_ids_is_not_found),
		TEST(of_two_pages_with_the_same_block_the_first_is_kept),
		TEST(a_page_that_nobody_holds_is_found_until_its_room_is_wanted),
		TEST(what_was_let_go_of_first_makes_room_first),
		TEST(a_kept_page_may_be_held_again_while_a_thread_still_reads_it),
	};
	return cmocka_run_group_tests_name("prefix", tests, NULL, NULL);
}
