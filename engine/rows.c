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

void rows_publish_logprobs(const struct board *b, uint32_t slot, uint32_t run, uint32_t first, const float *logprobs,
			   uint32_t n)
{
	uint32_t most = (uint32_t)((b->header->ring_stride - sizeof(struct board_row)) / sizeof *logprobs);
	while (n > 0) {
		uint32_t count = n < most ? n : most;
		float *payload = fill(b, (struct board_row){.slot = slot, .run = run, .first = first, .count = count});
		memcpy(payload, logprobs, count * sizeof *logprobs);
		publish(b);
		logprobs += count;
		first += count;
		n -= count;
	}
}
