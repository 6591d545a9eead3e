/* SPDX-License-Identifier: Apache-2.0 */
/* Session files: what is read back is what was written, and nothing else is taken for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/hash.h"
#include "daemon/spill_file.h"
#include "shm/probs.h"
#include "shm/segment.h"
#include "tests/support/tree.h"

enum { OWNER = 1000, TOKENS = 70, KV = 69, PAGE = 96, N_PAGES = 3, STRIDE = 4096, GIVEN = 10, TOP = 2 };

struct fixture {
	char root[64];
	int folder, memory; /* memory: a segment of pages */
	struct spill_model model;
	int32_t log[TOKENS];
	struct prob probs[(TOKENS - GIVEN) * (1 + TOP)];
	uint32_t table[N_PAGES];
	struct spill_pages pages;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	struct err e;
	tree_make(f->root, sizeof f->root);
	memset(f->model.source, 7, sizeof f->model.source);
	memset(f->model.fingerprint, 9, sizeof f->model.fingerprint);
	f->model.n_vocab = 100;
	f->model.n_context = 256;
	f->model.page_bytes = PAGE;
	f->folder = spill_folder_open(f->root, f->model.source, &e);
	assert_true(f->folder >= 0);
	f->memory = segment_create("pages", 8 * STRIDE, &e);
	for (uint32_t i = 0; i < TOKENS; i++)
		f->log[i] = (int32_t)(i % 100);
	for (uint32_t i = 0; i < (TOKENS - GIVEN) * (1 + TOP); i++)
		f->probs[i] = (struct prob){.id = (int32_t)(i % 100), .logprob = -0.125f * (float)i};
	for (uint32_t i = 0; i < N_PAGES; i++) {
		uint8_t payload[PAGE];
		memset(payload, (int)(0x40 + i), sizeof payload);
		f->table[i] = 6 - 2 * i;
		assert_int_equal(pwrite(f->memory, payload, PAGE, (off_t)f->table[i] * STRIDE), PAGE);
	}
	f->pages = (struct spill_pages){.fd = f->memory, .stride = STRIDE, .table = f->table};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	close(f->folder);
	close(f->memory);
	tree_remove(f->root);
	free(f);
	return 0;
}

static struct board_record record_of(const char *name)
{
	struct board_record r = {.version = BOARD_RECORD_VERSION, .owner = OWNER, .generation = 5, .n_given = GIVEN, .n_from = TOKENS,
				 .n_end = 200, .n_tokens = TOKENS, .flags = board_logprobs(TOP), .params = {.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = 3}};
	r.name_length = (uint32_t)strlen(name);
	memcpy(r.name, name, r.name_length);
	return r;
}

static struct spill_header header_of(const struct fixture *f, uint32_t n_kv)
{
	struct spill_header h = {.magic = SPILL_MAGIC, .version = SPILL_VERSION, .n_tokens = TOKENS, .n_kv = n_kv,
				 .page_bytes = PAGE, .salt = 12345, .finish = BOARD_LENGTH, .first_given = 10, .first_seed = 3,
				 .features = SPILL_PROBS, .probs_bytes = sizeof f->probs};
	memcpy(h.source, f->model.source, sizeof h.source);
	memcpy(h.fingerprint, f->model.fingerprint, sizeof h.fingerprint);
	return h;
}

static size_t head_bytes(const struct fixture *f)
{
	struct spill_header h = header_of(f, KV);
	return spill_head_bytes(&h);
}

static uint8_t *head_of(const struct fixture *f, const char *name, uint32_t n_kv, size_t *ret_bytes)
{
	struct spill_header h = header_of(f, n_kv);
	struct board_record r = record_of(name);
	uint8_t *head = spill_compose(&h, &r, f->log, f->probs, ret_bytes);
	spill_seal(head, *ret_bytes, n_kv);
	return head;
}

static int store(struct fixture *f, const char *name, uint32_t *ret_kv, struct err *e)
{
	size_t bytes;
	uint8_t *head = head_of(f, name, KV, &bytes);
	int r = spill_store(f->folder, OWNER, name, head, bytes, &f->pages, &f->model, ret_kv, e);
	free(head);
	return r;
}

/* The file's bytes, which the caller frees. */
static uint8_t *content(struct fixture *f, const char *name, size_t *ret)
{
	struct err e;
	struct stat st;
	int fd = spill_open_file(f->folder, OWNER, name, &e);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	uint8_t *bytes = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	*ret = (size_t)st.st_size;
	return bytes;
}

/* Reads these bytes as a file: -errno, or the positions whose pages are good; they are then in pages 1, 3 and 5. */
static int read_back(struct fixture *f, const uint8_t *bytes, size_t length)
{
	struct err e;
	struct spill_head head;
	uint8_t *kept = NULL;
	const uint32_t table[N_PAGES] = {1, 3, 5};
	const struct spill_pages to = {.fd = f->memory, .stride = STRIDE, .table = table};
	int fd = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(write(fd, bytes, length), (ssize_t)length);
	int r = spill_read_head(fd, &f->model, &head, &kept, &e);
	if (r == 0)
		r = (int)spill_read_pages(fd, &head, &to, &e);
	free(kept);
	close(fd);
	return r;
}

static void what_is_written_is_read_back(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t length;
	uint32_t kv;
	uint8_t page[PAGE];
	assert_int_equal(store(f, "a", &kv, &e), 0);
	assert_int_equal(kv, KV);
	uint8_t *bytes = content(f, "a", &length);
	assert_int_equal(length, head_bytes(f) + spill_pages_bytes(KV, PAGE));
	assert_int_equal(read_back(f, bytes, length), KV);
	for (uint32_t i = 0; i < N_PAGES; i++) {
		assert_int_equal(pread(f->memory, page, PAGE, (off_t)(2 * i + 1) * STRIDE), PAGE);
		for (size_t b = 0; b < PAGE; b++)
			assert_int_equal(page[b], 0x40 + i);
	}
	struct spill_head head;
	assert_int_equal(spill_parse(bytes, length, &f->model, &head, &e), 0);
	assert_int_equal(head.record.generation, 5);
	assert_int_equal(head.header.finish, BOARD_LENGTH);
	assert_memory_equal(head.log, f->log, sizeof f->log);
	assert_memory_equal(head.probs, f->probs, sizeof f->probs);
	free(bytes);
}

static void a_file_that_is_cut_off_anywhere_gives_its_whole_pages_or_nothing(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t length, head = head_bytes(f), stride = spill_page_stride(PAGE);
	uint32_t kv;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	uint8_t *bytes = content(f, "a", &length);
	for (size_t n = 0; n < length; n++)
		assert_int_equal(read_back(f, bytes, n), n < head ? -EINVAL : (int)((n - head) / stride * PAGE_TOKENS));
	free(bytes);
}

static void a_flipped_bit_anywhere_costs_the_head_or_the_pages_from_there(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t length, head = head_bytes(f), stride = spill_page_stride(PAGE);
	uint32_t kv;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	uint8_t *bytes = content(f, "a", &length);
	for (size_t n = 0; n < length; n++) {
		bytes[n] ^= (uint8_t)(1u << n % 8);
		assert_int_equal(read_back(f, bytes, length), n < head ? -EINVAL : (int)((n - head) / stride * PAGE_TOKENS));
		bytes[n] ^= (uint8_t)(1u << n % 8);
	}
	free(bytes);
}

static void a_page_of_another_place_or_file_is_not_taken(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t length, head = head_bytes(f), stride = spill_page_stride(PAGE);
	uint32_t kv;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	uint8_t *bytes = content(f, "a", &length);
	memcpy(bytes + head + stride, bytes + head, stride);
	assert_int_equal(read_back(f, bytes, length), PAGE_TOKENS);
	free(bytes);
}

static void another_model_is_refused_and_another_arithmetic_leaves_the_log(void **state)
{
	struct fixture *f = *state;
	struct err e;
	struct spill_head head;
	size_t length;
	uint8_t *bytes = head_of(f, "a", KV, &length);
	struct spill_model other = f->model;
	other.source[3] ^= 1;
	assert_int_equal(spill_parse(bytes, length, &other, &head, &e), -EXDEV);
	assert_string_equal(e.what, "a session of another model");
	other = f->model;
	other.fingerprint[3] ^= 1;
	assert_int_equal(spill_parse(bytes, length, &other, &head, &e), 0);
	assert_int_equal(head.n_kv, 0);
	other = f->model;
	other.n_context = TOKENS - 1;
	assert_int_equal(spill_parse(bytes, length, &other, &head, &e), -EINVAL);
	assert_string_equal(e.what, "70 tokens, a session may have 69");
	free(bytes);
}

/* A head with a good checksum whose field at `at` of the file is `value`: what is said of it. */
static int parse_with(struct fixture *f, size_t at, uint32_t value, struct err *e)
{
	size_t length;
	uint8_t *bytes = head_of(f, "a", KV, &length);
	struct spill_head head;
	memcpy(bytes + at, &value, sizeof value);
	hash128(bytes, length - SPILL_CHECKSUM, bytes + length - SPILL_CHECKSUM);
	int r = spill_parse(bytes, length, &f->model, &head, e);
	free(bytes);
	return r;
}

static void a_lie_under_a_good_checksum_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err e;
	const size_t record = sizeof(struct spill_header), log = record + BOARD_RECORD_SIZE;
	assert_int_equal(parse_with(f, offsetof(struct spill_header, n_kv), TOKENS + 1, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, finish), 99, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, unfinished), 2, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, first_given), TOKENS + 1, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, version), 2, &e), -EINVAL);
	assert_string_equal(e.what, "version 2, features 0x1 of the session format, this build reads version 1");
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, flags), BOARD_SCORE, &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, name), '/', &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, name_length), 65, &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, n_given), TOKENS + 1, &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, n_stops), 9, &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, params), 0x7fc00000, &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, flags), board_logprobs(TOP + 1), &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, flags), board_logprobs(BOARD_TOP + 1), &e), -EINVAL);
	assert_int_equal(parse_with(f, record + offsetof(struct board_record, flags), 0, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, features), 3, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, features), 0, &e), -EINVAL);
	assert_int_equal(parse_with(f, offsetof(struct spill_header, probs_bytes), 1 << 30, &e), -EINVAL);
	assert_int_equal(parse_with(f, log + 4 * 20, 100, &e), -EINVAL);
	assert_string_equal(e.what, "token 20 is 100, the vocabulary has 100");
	assert_int_equal(parse_with(f, log + 4 * 20, 99, &e), 0);
}

static void names_are_those_of_sessions(void **state)
{
	(void)state;
	static const char *const good[] = {"a", "..", "A.b_c-9", "~1", "~18446744073709551"}, *const bad[] = {"", "~", "~x", "a/b", "a b", "a~"};
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_true(spill_name_valid(good[i], strlen(good[i])));
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(spill_name_valid(bad[i], strlen(bad[i])));
	assert_false(spill_name_valid("a\0b", 3));
}

static void a_session_whose_pages_are_on_disk_alone_keeps_them_when_it_is_written_again(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t bytes, length;
	uint32_t kv;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	uint8_t *head = head_of(f, "a", KV, &bytes);
	assert_int_equal(spill_store(f->folder, OWNER, "a", head, bytes, NULL, &f->model, &kv, &e), 0);
	assert_int_equal(kv, KV);
	free(head);
	uint8_t *file = content(f, "a", &length);
	assert_int_equal(read_back(f, file, length), KV);
	free(file);
}

static void without_room_for_pages_the_tokens_are_written_and_without_any_the_old_file_stays(void **state)
{
	struct fixture *f = *state;
	struct err e;
	struct rlimit before, small;
	uint32_t kv = 1;
	size_t length;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = (struct rlimit){.rlim_cur = head_bytes(f) + PAGE, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int with_tokens = store(f, "b", &kv, &e);
	small.rlim_cur = 1000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	uint32_t ignored;
	int with_nothing = store(f, "a", &ignored, &e);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(with_tokens, 0);
	assert_int_equal(kv, 0);
	assert_int_equal(with_nothing, -EFBIG);
	assert_non_null(strstr(e.what, "1000/a.session: cannot write"));
	uint8_t *bytes = content(f, "b", &length);
	assert_int_equal(length, head_bytes(f));
	assert_int_equal(read_back(f, bytes, length), 0);
	free(bytes);
	bytes = content(f, "a", &length);
	assert_int_equal(read_back(f, bytes, length), KV);
	free(bytes);
}

static void a_writer_killed_at_any_time_leaves_a_whole_file(void **state)
{
	struct fixture *f = *state;
	struct err e;
	size_t length, n = 0;
	uint32_t kv;
	assert_int_equal(store(f, "a", &kv, &e), 0);
	for (unsigned round = 0; round < 40; round++) {
		pid_t pid = fork();
		if (pid == 0)
			for (;;)
				store(f, "a", &kv, &e);
		usleep(500 + round * 137 % 4000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		uint8_t *bytes = content(f, "a", &length);
		assert_int_equal(read_back(f, bytes, length), KV);
		free(bytes);
	}
	struct spill_entry *list = NULL;
	assert_int_equal(spill_list(f->folder, &list, &n, &e), 0);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].name, "a");
	free(list);
	assert_int_equal(faccessat(f->folder, "1000/a.session.tmp", F_OK, 0), -1);
}

static void a_folder_is_one_falconds_at_a_time(void **state)
{
	struct fixture *f = *state;
	struct err e;
	assert_int_equal(spill_folder_open(f->root, f->model.source, &e), -EWOULDBLOCK);
	assert_non_null(strstr(e.what, "another falcond uses"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_written_is_read_back),
		TEST(a_file_that_is_cut_off_anywhere_gives_its_whole_pages_or_nothing),
		TEST(a_flipped_bit_anywhere_costs_the_head_or_the_pages_from_there),
		TEST(a_page_of_another_place_or_file_is_not_taken),
		TEST(another_model_is_refused_and_another_arithmetic_leaves_the_log),
		TEST(a_lie_under_a_good_checksum_is_refused),
		TEST(names_are_those_of_sessions),
		TEST(a_session_whose_pages_are_on_disk_alone_keeps_them_when_it_is_written_again),
		TEST(without_room_for_pages_the_tokens_are_written_and_without_any_the_old_file_stays),
		TEST(a_writer_killed_at_any_time_leaves_a_whole_file),
		TEST(a_folder_is_one_falconds_at_a_time),
	};
	return cmocka_run_group_tests_name("spill", tests, NULL, NULL);
}
