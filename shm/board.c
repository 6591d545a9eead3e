/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "shm/board.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "shm/probs.h"

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

void board_plan(uint32_t n_slots, uint32_t n_context, uint32_t n_vocab, struct board_header *ret)
{
	memset(ret, 0, sizeof *ret);
	ret->magic = BOARD_MAGIC;
	ret->abi = BOARD_ABI;
	ret->n_slots = n_slots;
	ret->n_context = n_context;
	ret->n_table = (n_context + PAGE_TOKENS - 1) / PAGE_TOKENS;
	ret->ring_stride = (uint32_t)round_up(sizeof(struct board_row) + ((uint64_t)n_vocab + 1) * sizeof(float), 64);
	ret->words_offset = 4096;
	ret->tables_offset = round_up(ret->words_offset + (uint64_t)n_slots * sizeof(struct board_words), 4096);
	ret->ring_offset = round_up(ret->tables_offset + n_slots * round_up(ret->n_table, BOARD_BLOCK) * sizeof(uint32_t), 4096);
	ret->logs_offset = round_up(ret->ring_offset + (uint64_t)BOARD_RING * ret->ring_stride, 4096);
	ret->log_stride = round_up(BOARD_RECORD_SIZE + (uint64_t)n_context * sizeof(int32_t), 4096);
	ret->probs_offset = ret->logs_offset + ret->log_stride * n_slots;
	ret->probs_stride = round_up((uint64_t)n_context * PROBS_MOST * sizeof(struct prob), 4096);
	ret->size = ret->probs_offset + ret->probs_stride * n_slots;
}

void board_fingerprint(const uint8_t image[16], uint32_t kv, uint32_t dense, uint8_t ret[16])
{
	struct { uint8_t image[16]; uint32_t arithmetic, kv, page_tokens, dense; } state = {
		.arithmetic = PAGES_ARITHMETIC, .kv = kv, .page_tokens = PAGE_TOKENS, .dense = dense};
	memcpy(state.image, image, sizeof state.image);
	hash128(&state, sizeof state, ret);
}

int board_open(void *base, uint64_t size, struct board *ret_board, struct err *e)
{
	struct board_header *h = base;
	if (size < 4096 || h->magic != BOARD_MAGIC)
		return err_set(e, -EINVAL, "not a board segment");
	if (h->abi != BOARD_ABI || h->features != 0)
		return err_set(e, -EINVAL, "board segment: layout %u, features %#x, this build reads layout %u", h->abi,
			       h->features, BOARD_ABI);
	struct board_header planned;
	if (h->n_slots == 0 || h->n_slots > 1 << 20 || h->n_context == 0 || h->n_context > 1 << 24 ||
	    h->ring_stride < sizeof(struct board_row) + 8 || h->ring_stride > 1 << 28)
		return err_set(e, -EINVAL, "board segment: %u slots of %u tokens, ring of %u bytes", h->n_slots, h->n_context,
			       h->ring_stride);
	board_plan(h->n_slots, h->n_context, (uint32_t)((h->ring_stride - sizeof(struct board_row)) / sizeof(float) - 1), &planned);
	if (planned.n_table != h->n_table || planned.ring_stride != h->ring_stride || planned.words_offset != h->words_offset ||
	    planned.tables_offset != h->tables_offset || planned.ring_offset != h->ring_offset ||
	    planned.logs_offset != h->logs_offset || planned.log_stride != h->log_stride || planned.size != h->size ||
	    planned.probs_offset != h->probs_offset || planned.probs_stride != h->probs_stride ||
	    h->size != size)
		return err_set(e, -EINVAL, "board segment: its geometry does not add up");
	uint8_t *at = base;
	*ret_board = (struct board){.header = h,
				    .words = (void *)(at + planned.words_offset),
				    .tables = (void *)(at + planned.tables_offset),
				    .ring = at + planned.ring_offset,
				    .logs = at + planned.logs_offset,
				    .n_slots = planned.n_slots,
				    .n_context = planned.n_context,
				    .n_table = planned.n_table,
				    .ring_stride = planned.ring_stride,
				    .log_stride = planned.log_stride,
				    .probs = at + planned.probs_offset,
				    .probs_stride = planned.probs_stride};
	memcpy(ret_board->fixed, h, BOARD_FIXED);
	return 0;
}

static int reserve(const struct board *b, const void *first, uint64_t bytes)
{
	off_t at = (const uint8_t *)first - (const uint8_t *)b->header;
	return !b->reserves || fallocate(b->fd, FALLOC_FL_KEEP_SIZE, at, (off_t)bytes) == 0 ? 0 : -errno;
}

int board_reserve(const struct board *b, uint32_t slot, uint32_t n_tokens)
{
	int r = reserve(b, &b->words[slot], sizeof *b->words);
	for (uint32_t place = 0; r == 0 && place < b->n_table && place <= n_tokens / PAGE_TOKENS; place += BOARD_BLOCK)
		r = reserve(b, board_page(b, slot, place), BOARD_BLOCK * sizeof(uint32_t));
	if (r == 0)
		r = reserve(b, board_record(b, slot), BOARD_RECORD_SIZE + (uint64_t)n_tokens * sizeof(int32_t));
	return r;
}

int board_reserve_ring(const struct board *b)
{
	return reserve(b, b->ring, (uint64_t)BOARD_RING * b->ring_stride);
}

int board_reserve_probs(const struct board *b, uint32_t slot, uint64_t bytes)
{
	return reserve(b, probs_at(b, slot, 0, 0), bytes);
}

void board_repair(const struct board *b)
{
	memcpy(b->header, b->fixed, BOARD_FIXED);
}

uint64_t board_effective(const struct board *b, uint32_t slot)
{
	struct board_words *w = &b->words[slot];
	uint32_t want = atomic_load_explicit(&w->want, memory_order_acquire);
	uint32_t is = atomic_load_explicit(&w->is, memory_order_acquire);
	if (board_run(is) == board_run(want) && board_low(is) != BOARD_NEVER)
		return atomic_load_explicit(&w->progress, memory_order_acquire);
	const struct board_record *r = board_record(b, slot);
	return board_progress(r->kv_from, r->n_from);
}

void board_record_begin(struct board_record *r, uint32_t run)
{
	if (atomic_load_explicit(&r->run, memory_order_relaxed) == run)
		return;
	memcpy(r->undo, &r->flags, BOARD_TERMS);
	atomic_store_explicit(&r->run, run, memory_order_release);
	atomic_thread_fence(memory_order_release); /* no term is written before */
}

void board_record_undo(struct board_record *r)
{
	memcpy(&r->flags, r->undo, BOARD_TERMS);
	atomic_store_explicit(&r->run, atomic_load_explicit(&r->ready, memory_order_relaxed), memory_order_release);
}

void board_record_read(const struct board *b, uint32_t slot, struct board_record *ret)
{
	enum { TERMS = offsetof(struct board_record, flags), END = offsetof(struct board_record, undo) };
	const struct board_record *r = board_record(b, slot);
	*ret = (struct board_record){.version = r->version, .owner = r->owner, .name_length = r->name_length,
		.request_length = r->request_length};
	memcpy(ret->name, r->name, sizeof ret->name);
	memcpy((uint8_t *)ret + TERMS, (const uint8_t *)r + TERMS, END - TERMS);
}

static int record_counts(uint32_t n_context, const struct board_record *r, struct err *e)
{
	if (r->version != BOARD_RECORD_VERSION)
		return err_set(e, -EINVAL, "session record: version %u, this build reads %u", r->version, BOARD_RECORD_VERSION);
	if (r->name_length == 0 || r->name_length > BOARD_NAME || r->request_length > BOARD_REQUEST)
		return err_set(e, -EINVAL, "session record: name of %u bytes, request id of %u", r->name_length, r->request_length);
	if (r->n_given > r->n_from || r->n_from > n_context || r->kv_from > r->n_from || r->n_end < r->n_given ||
	    r->n_end - r->n_given > INT32_MAX)
		return err_set(e, -EINVAL, "session record: given %u, from %u, end %u, computed %u of a context of %u", r->n_given,
			       r->n_from, r->n_end, r->kv_from, n_context);
	if (r->priority > BOARD_BATCHED)
		return err_set(e, -EINVAL, "session record: priority %u", r->priority);
	if (board_top(r->flags) > BOARD_TOP)
		return err_set(e, -EINVAL, "session record: %u likeliest tokens", board_top(r->flags));
	if (r->n_stops > BOARD_STOPS || r->n_biases > BOARD_BIASES)
		return err_set(e, -EINVAL, "session record: %u stop strings, %u logit biases", r->n_stops, r->n_biases);
	for (uint32_t i = 0; i < r->n_stops; i++)
		if (r->stop_length[i] == 0 || r->stop_length[i] > BOARD_STOP_BYTES)
			return err_set(e, -EINVAL, "session record: stop string %u has %u bytes", i, r->stop_length[i]);
	return 0;
}

int board_record_check(const struct board *b, const struct board_record *record, uint32_t n_vocab, struct err *e)
{
	int r = record_counts(b->n_context, record, e);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < record->n_biases; i++)
		if (record->biases[i].id < 0 || (uint32_t)record->biases[i].id >= n_vocab || !isfinite(record->biases[i].bias))
			return err_set(e, -EINVAL, "session record: logit bias %u is for token %d", i, record->biases[i].id);
	const struct board_params *p = &record->params;
	if (!(p->temp >= 0 && isfinite(p->temp)) || !(p->top_p >= 0 && p->top_p <= 1) || !(p->min_p >= 0 && p->min_p <= 1) ||
	    !(p->repeat_penalty > 0 && isfinite(p->repeat_penalty)) || !isfinite(p->presence_penalty) ||
	    !isfinite(p->frequency_penalty))
		return err_set(e, -EINVAL, "session record: a sampling parameter is out of range");
	return 0;
}
