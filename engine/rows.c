/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/rows.h"

#include <string.h>

#include "base/hooks.h"

uint32_t rows_free(const struct board *b)
{
	uint64_t head = atomic_load_explicit(&b->header->ring_head, memory_order_relaxed);
	uint64_t used = head - atomic_load_explicit(&b->header->ring_tail, memory_order_acquire);
	return used <= BOARD_RING ? BOARD_RING - (uint32_t)used : 0;
}

/* Where the next entry's payload goes; publish() makes it visible. */
static float *fill(const struct board *b, struct board_row row)
{
	struct board_row *entry = board_row(b, atomic_load_explicit(&b->header->ring_head, memory_order_relaxed));
	*entry = row;
	return (float *)(void *)(entry + 1);
}

static void publish(const struct board *b)
{
	uint64_t head = atomic_load_explicit(&b->header->ring_head, memory_order_relaxed);
	stopping_place("engine.rows.filled");
	atomic_store_explicit(&b->header->ring_head, head + 1, memory_order_release);
	stopping_place("engine.rows.published");
}

void rows_publish_logits(const struct board *b, uint32_t slot, uint32_t run, uint32_t position, const float *logits,
			 uint32_t n_vocab, float logprob)
{
	float *payload = fill(b, (struct board_row){.slot = slot, .run = run, .first = position, .count = 1});
	memcpy(payload, logits, n_vocab * sizeof *logits);
	payload[n_vocab] = logprob;
	publish(b);
}

/* Values of `width` floats each of positions [first, first + n), in as few entries as hold them. */
static void publish_values(const struct board *b, struct board_row row, const float *values, uint32_t width, uint32_t n)
{
	uint32_t most = board_payload(b) / width;
	for (; n > 0; n -= row.count) {
		row.count = n < most ? n : most;
		memcpy(fill(b, row), values, (size_t)row.count * width * sizeof *values);
		publish(b);
		values += (size_t)row.count * width;
		row.first += row.count;
	}
}

void rows_publish_logprobs(const struct board *b, uint32_t slot, uint32_t run, uint32_t first, const float *logprobs,
			   uint32_t n)
{
	publish_values(b, (struct board_row){.slot = slot, .run = run, .first = first}, logprobs, 1, n);
}

void rows_publish_hidden(const struct board *b, uint32_t slot, uint32_t run, uint32_t first, const float *hidden, uint32_t n_embd,
			 uint32_t n)
{
	publish_values(b, (struct board_row){.slot = slot, .run = run, .first = first}, hidden, n_embd, n);
}
