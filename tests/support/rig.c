/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/support/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/spawn.h"
#include "shm/heritage.h"
#include "shm/segment.h"

#define ENGINE "./falcon-engine" /* tests run in the build folder */
#define SET_ID "000102030405060708090a0b0c0d0e0f"

static void good(int r, const struct err *e)
{
	if (r < 0)
		fail_msg("%s%s%s", e->what, e->hint[0] ? "; " : "", e->hint);
}

int rig_pack(const char *model)
{
	struct err e = {0};
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", getenv("srcdir") ? getenv("srcdir") : ".", model);
	int image = segment_create("weights", 0, &e), status[2];
	good(image, &e);
	assert_int_equal(pipe2(status, O_CLOEXEC), 0);
	const char *argv[] = {"falcon-engine", "--pack", path, "--set-id", SET_ID, NULL};
	pid_t pid;
	good(spawn(ENGINE, argv, (int[]){image, status[1]}, 2, &pid, &e), &e);
	close(status[1]);
	char said[4096];
	size_t length = 0;
	for (ssize_t n; (n = read(status[0], said + length, sizeof said - 1 - length)) > 0;)
		length += (size_t)n;
	said[length] = '\0';
	close(status[0]);
	int code;
	assert_int_equal(waitpid(pid, &code, 0), pid);
	if (!WIFEXITED(code) || WEXITSTATUS(code) != 0)
		fail_msg("packing %s ended with %#x: %s", path, (unsigned)code, said);
	good(segment_seal(image, true, &e), &e);
	int weights = segment_reopen_readonly(image, &e);
	good(weights, &e);
	close(image);
	return weights;
}

void rig_prompt(int32_t *ids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		ids[i] = (int32_t)(300 + i * i * 7919 % 3700);
}

static void make_pages(struct rig *r, const struct weights_header *image, const struct rig_shape *shape)
{
	struct err e = {0};
	struct pages_header h;
	pages_plan(&r->hp, shape->kv, shape->n_pages, &h);
	memcpy(h.set_id, image->set_id, sizeof h.set_id);
	memcpy(h.fingerprint, image->fingerprint, sizeof h.fingerprint);
	good(r->pages = segment_create("pages", h.size, &e), &e);
	assert_int_equal(pwrite(r->pages, &h, sizeof h, 0), sizeof h);
	good(segment_seal(r->pages, false, &e), &e);
}

static void make_board(struct rig *r, const struct weights_header *image, const struct rig_shape *shape)
{
	struct err e = {0};
	struct board_header h;
	board_plan(shape->n_slots, shape->n_context, r->hp.n_vocab, &h);
	memcpy(h.set_id, image->set_id, sizeof h.set_id);
	board_fingerprint(image->fingerprint, shape->kv, shape->dense, h.fingerprint);
	h.chunk_ms = shape->chunk_ms;
	h.speculate = shape->speculate;
	h.n_used = shape->n_slots;
	good(r->board_fd = segment_create("board", h.size, &e), &e);
	assert_int_equal(pwrite(r->board_fd, &h, sizeof h, 0), sizeof h);
	good(segment_seal(r->board_fd, false, &e), &e);
	void *base;
	good(segment_map(r->board_fd, true, &base, &r->board_size, &e), &e);
	good(board_open(base, r->board_size, &r->board, &e), &e);
}

void rig_open(struct rig *r, int weights, const struct rig_shape *shape)
{
	struct weights_header image;
	*r = (struct rig){.weights = weights, .n_pages = shape->n_pages, .dense = shape->dense};
	assert_int_equal(pread(weights, &image, sizeof image, 0), sizeof image);
	r->hp = image.hparams;
	make_pages(r, &image, shape);
	make_board(r, &image, shape);
	r->wake_engine = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->wake_falcond = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(pipe2(r->lifeline, O_CLOEXEC), 0);
}

void rig_close(struct rig *r)
{
	rig_kill(r);
	munmap(r->board.header, r->board_size);
	const int fds[] = {r->pages, r->board_fd, r->wake_engine, r->wake_falcond, r->lifeline[0], r->lifeline[1]};
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
		close(fds[i]);
}

pid_t rig_spawn(const struct rig *r, unsigned threads, const char *isa)
{
	struct err e = {0};
	char number[16];
	snprintf(number, sizeof number, "%u", threads);
	assert_int_equal(isa ? setenv("FALCON_ISA", isa, 1) : unsetenv("FALCON_ISA"), 0);
	assert_int_equal(setenv("OPENBLAS_NUM_THREADS", "1", 1), 0);
	const char *dense = r->dense ? "openblas" : "exact";
	const char *argv[] = {"falcon-engine", "--serve", "--threads", number, "--dense", dense, NULL};
	const int fds[] = {r->weights, r->pages, r->board_fd, r->wake_engine, r->wake_falcond, r->lifeline[0]};
	pid_t pid;
	good(spawn(ENGINE, argv, fds, 6, &pid, &e), &e);
	return pid;
}

void rig_listen(const struct rig *r, int timeout_ms)
{
	struct pollfd fd = {.fd = r->wake_falcond, .events = POLLIN};
	uint64_t count;
	if (poll(&fd, 1, timeout_ms) > 0)
		assert_int_equal(read(r->wake_falcond, &count, sizeof count), sizeof count);
}

/* One round of waiting for something that the engine of this rig should do; fails the test if it takes too long. */
static void wait_once(const struct rig *r, uint64_t since, const char *what)
{
	int code;
	if (r->engine && waitpid(r->engine, &code, WNOHANG) == r->engine)
		fail_msg("the engine ended with status %#x while the test waited for %s", (unsigned)code, what);
	if (clock_ns() - since > (uint64_t)RIG_WAIT_MS * 1000000)
		fail_msg("waited %d ms for %s", RIG_WAIT_MS, what);
	rig_listen(r, 100);
}

void rig_start(struct rig *r, unsigned threads, const char *isa)
{
	uint64_t start = clock_ns();
	assert_int_equal(r->engine, 0);
	r->engine = rig_spawn(r, threads, isa);
	while (atomic_load(&r->board.header->ready) != (uint32_t)r->engine)
		wait_once(r, start, "an engine to be ready");
}

void rig_kill(struct rig *r)
{
	if (r->engine == 0)
		return;
	kill(r->engine, SIGKILL);
	assert_int_equal(waitpid(r->engine, NULL, 0), r->engine);
	r->engine = 0;
}

void rig_wake(const struct rig *r)
{
	const uint64_t one = 1;
	assert_int_equal(write(r->wake_engine, &one, sizeof one), sizeof one);
}

void rig_write(struct rig *r, uint32_t slot, const struct rig_run *run)
{
	struct board_record *record = board_record(&r->board, slot);
	memset(record, 0, sizeof *record);
	record->version = BOARD_RECORD_VERSION;
	record->flags = run->flags;
	record->owner = run->owner;
	record->name_length = (uint32_t)snprintf(record->name, sizeof record->name, "slot-%u", slot);
	record->n_given = record->n_from = run->n_ids;
	record->n_end = run->n_ids + run->n;
	record->priority = run->priority;
	record->params = (struct board_params){.temp = run->temp, .top_p = 1, .seed = run->seed,
		.repeat_penalty = run->repeat_penalty != 0 ? run->repeat_penalty : 1, .repeat_last_n = run->repeat_last_n};
	if (run->stop != NULL) {
		record->n_stops = 1;
		record->stop_length[0] = (uint8_t)strlen(run->stop);
		memcpy(record->stops[0], run->stop, record->stop_length[0]);
	}
	memcpy(board_log(&r->board, slot), run->ids, run->n_ids * sizeof *run->ids);
	uint32_t needed = (run->n_ids + run->n + PAGE_TOKENS - 1) / PAGE_TOKENS;
	if (!run->keep)
		atomic_store(&r->board.words[slot].n_pages, 0);
	rig_grant(r, slot, run->pages ? run->pages : needed);
}

void rig_publish(struct rig *r, uint32_t slot)
{
	struct board_words *w = &r->board.words[slot];
	atomic_store_explicit(&w->want, board_word(board_run(w->want) + 1, BOARD_RUN), memory_order_release);
	rig_wake(r);
}

void rig_begin(struct rig *r, uint32_t slot, const struct rig_run *run)
{
	rig_write(r, slot, run);
	rig_publish(r, slot);
}

void rig_grant(struct rig *r, uint32_t slot, uint32_t n_pages)
{
	struct board_words *w = &r->board.words[slot];
	for (uint32_t i = w->n_pages; i < n_pages; i++) {
		assert_true(r->next_page < r->n_pages);
		*board_page(&r->board, slot, i) = r->next_page++;
	}
	if (n_pages > w->n_pages)
		atomic_store_explicit(&w->n_pages, n_pages, memory_order_release);
	rig_wake(r);
}

void rig_want(struct rig *r, uint32_t slot, enum board_want want)
{
	struct board_words *w = &r->board.words[slot];
	atomic_store_explicit(&w->want, board_word(board_run(w->want), want), memory_order_release);
	rig_wake(r);
}

void rig_expect(struct rig *r, uint32_t slot, enum board_is is)
{
	struct board_words *w = &r->board.words[slot];
	uint64_t start = clock_ns();
	while (atomic_load_explicit(&w->is, memory_order_acquire) != board_word(board_run(w->want), is))
		wait_once(r, start, "the engine's answer");
}

void rig_expect_taken(struct rig *r, uint32_t slot)
{
	struct board_words *w = &r->board.words[slot];
	uint64_t start = clock_ns();
	while (board_run(atomic_load_explicit(&w->is, memory_order_acquire)) != board_run(w->want))
		wait_once(r, start, "a run to be taken");
}

enum board_reason rig_finish(struct rig *r, uint32_t slot)
{
	rig_expect(r, slot, BOARD_DONE);
	return r->board.words[slot].reason;
}

void rig_expect_tokens(struct rig *r, uint32_t slot, uint32_t n_tokens)
{
	uint64_t start = clock_ns();
	while (rig_n_tokens(r, slot) < n_tokens)
		wait_once(r, start, "tokens");
}

uint32_t rig_n_tokens(const struct rig *r, uint32_t slot)
{
	return board_n_tokens(board_effective(&r->board, slot));
}

uint32_t rig_n_kv(const struct rig *r, uint32_t slot)
{
	return board_n_kv(board_effective(&r->board, slot));
}
