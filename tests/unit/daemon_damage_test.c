/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine gone mad writes anywhere on the board, over what falcond wrote there too. The session that is hit may end or lose its
 * pages; falcond answers every request, and the next engine finds a board that it can work with.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "shm/board.h"
#include "shm/segment.h"
#include "tests/support/daemon.h"
#include "tests/support/wire.h"

enum { N_GIVEN = 3, N = 70 };

struct victim {
	struct daemon d;
	char segments[64];
	struct board board;
	uint64_t size;
	int fd, c;
};

static void map_board(struct victim *v)
{
	char pattern[96];
	glob_t found;
	struct err e;
	void *base;
	snprintf(pattern, sizeof pattern, "%s/set-*/board", v->segments);
	assert_int_equal(glob(pattern, 0, NULL, &found), 0);
	v->fd = open(found.gl_pathv[0], O_RDWR | O_CLOEXEC);
	globfree(&found);
	assert_int_equal(segment_map(v->fd, true, &base, &v->size, &e), 0);
	assert_int_equal(board_open(base, v->size, &v->board, &e), 0);
}

static int start(void **state)
{
	struct victim *v = *state = calloc(1, sizeof *v);
	char yaml[128];
	snprintf(v->segments, sizeof v->segments, "/dev/shm/falcond-test-%d", (int)getpid());
	snprintf(yaml, sizeof yaml, "segments: %s\nlimits:\n  sessions: 16\n", v->segments);
	daemon_start(&v->d, yaml);
	map_board(v);
	v->c = wire_open(v->d.path);
	return 0;
}

static int stop(void **state)
{
	struct victim *v = *state;
	char lock[96];
	close(v->c);
	assert_int_equal(daemon_stop(&v->d), 0);
	munmap(v->board.header, v->size);
	close(v->fd);
	snprintf(lock, sizeof lock, "%s/lock", v->segments);
	unlink(lock);
	rmdir(v->segments);
	daemon_clean(&v->d);
	free(v);
	return 0;
}

/* A session whose run is over, and its slot. */
static uint32_t make(struct victim *v, const char *name)
{
	json_t *r = wire_ask(v->c, "{\"op\":\"generate\",\"session\":\"%s\",\"request_id\":\"%s\",\"ids\":[1,2,3],\"n\":%d,"
			     "\"ignore_eos\":true,\"stop\":[\"zebra crossing\"]}", name, name, N);
	assert_string_equal(wire_code(r), "none");
	for (int cursor = N_GIVEN; cursor < N_GIVEN + N; cursor = (int)json_integer_value(json_object_get(r, "cursor"))) {
		json_decref(r);
		r = wire_ask(v->c, "{\"op\":\"next\",\"session\":\"%s\",\"cursor\":%d,\"wait_ms\":20000}", name, cursor);
		assert_string_equal(wire_code(r), "none");
	}
	json_decref(r);
	for (uint32_t slot = 0; slot < v->board.n_slots; slot++)
		if (strcmp(board_record(&v->board, slot)->name, name) == 0)
			return slot;
	fail_msg("no record of %s", name);
	return 0;
}

/* Everything that may be asked of the session is answered, somehow. */
static void ask_everything(struct victim *v, const char *name)
{
	static const char *const asked[] = {
		"{\"op\":\"next\",\"session\":\"%s\",\"cursor\":0}",
		"{\"op\":\"next\",\"session\":\"%s\",\"cursor\":50}",
		"{\"op\":\"fork\",\"session\":\"%s\",\"request_id\":\"f\",\"new\":\"fork\"}",
		"{\"op\":\"export\",\"session\":\"%s\",\"request_id\":\"x\",\"offset\":0}",
		"{\"op\":\"append\",\"session\":\"%s\",\"at\":73,\"ids\":[4,5,6],\"n\":2000,\"ignore_eos\":true}",
		"{\"op\":\"next\",\"session\":\"%s\",\"cursor\":0,\"wait_ms\":100}",
		"{\"op\":\"append\",\"session\":\"fork\",\"at\":73,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
		"{\"op\":\"drop\",\"session\":\"%s\"}",
		"{\"op\":\"drop\",\"session\":\"fork\"}",
		"{\"op\":\"status\"}",
		"{\"op\":\"sessions\"}",
	};
	for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
		json_decref(wire_ask(v->c, asked[i], name));
}

static void records_that_lie_hurt_nobody_else(void **state)
{
	struct victim *v = *state;
	struct board_record *r = board_record(&v->board, make(v, "given"));
	r->n_given = 1000000;
	r->n_end = 5;
	ask_everything(v, "given");
	r = board_record(&v->board, make(v, "stops"));
	r->n_stops = 5000;
	memset(r->stop_length, 0xff, sizeof r->stop_length);
	ask_everything(v, "stops");
	r = board_record(&v->board, make(v, "all"));
	memset(r, 0xff, BOARD_RECORD_SIZE);
	memset(board_log(&v->board, 0), 0xff, 100);
	ask_everything(v, "all");
	make(v, "another");
}

static void page_tables_that_lie_hurt_nobody_else(void **state)
{
	struct victim *v = *state;
	static const uint32_t pages[] = {UINT32_MAX, 0x7fffffff, 3000, 0};
	for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
		uint32_t *table = board_page(&v->board, make(v, "paged"), 0);
		table[0] = table[1] = pages[i];
		ask_everything(v, "paged");
	}
	make(v, "another");
}

static void words_that_lie_hurt_nobody_else(void **state)
{
	struct victim *v = *state;
	struct board_words *w = &v->board.words[make(v, "words")];
	atomic_store(&w->progress, UINT64_MAX);
	atomic_store(&w->reason, 77);
	ask_everything(v, "words");
	atomic_store(&v->board.header->ring_head, UINT64_MAX);
	make(v, "another");
}

static void a_header_that_lies_is_not_believed_and_the_next_engine_finds_it_mended(void **state)
{
	struct victim *v = *state;
	struct board_header *h = v->board.header;
	make(v, "before");
	h->n_slots = h->n_context = h->n_table = h->ring_stride = UINT32_MAX;
	h->log_stride = h->probs_offset = h->probs_stride = UINT64_MAX / 2;
	memset(h->isa, 0xff, sizeof h->isa);
	ask_everything(v, "before");
	json_t *status = wire_ask(v->c, "{\"op\":\"status\"}");
	pid_t engine = (pid_t)json_integer_value(json_object_get(json_object_get(status, "engine"), "pid"));
	json_decref(status);
	assert_int_equal(kill(engine, SIGKILL), 0);
	make(v, "after");
	assert_int_equal(h->n_context, v->board.n_context);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(records_that_lie_hurt_nobody_else),
		TEST(page_tables_that_lie_hurt_nobody_else),
		TEST(words_that_lie_hurt_nobody_else),
		TEST(a_header_that_lies_is_not_believed_and_the_next_engine_finds_it_mended),
	};
	return cmocka_run_group_tests_name("daemon_damage", tests, NULL, NULL);
}
