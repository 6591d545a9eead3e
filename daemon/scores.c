/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/scores.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
	LOGPROBS = 16384,        /* positions without rows: 64 KiB a session */
	ROWS_BYTES = 4 << 20,    /* of logits a session, at least two rows */
	ROWS_MOST = 256,
};

void scores_init(struct scores *s, uint32_t n_tokens, uint32_t n_vocab, uint32_t n_embd, uint32_t flags)
{
	bool rows = flags & BOARD_ROWS;
	uint64_t fit = ROWS_BYTES / ((uint64_t)n_vocab * sizeof(float));
	uint32_t window = rows ? (uint32_t)(fit < 2 ? 2 : fit > ROWS_MOST ? ROWS_MOST : fit) : LOGPROBS;
	*s = (struct scores){.rows = rows, .n_tokens = n_tokens, .n_vocab = n_vocab, .n_embd = n_embd, .window = window};
	if (flags & BOARD_HIDDEN) {
		s->window = n_tokens;
		s->sum = xcalloc(n_embd, sizeof *s->sum);
		return;
	}
	s->logprobs = xcalloc(window, sizeof *s->logprobs);
	if (rows)
		s->logits = xcalloc(window, sizeof *s->logits);
}

void scores_done(struct scores *s)
{
	for (uint32_t i = 0; s->logits != NULL && i < s->window; i++)
		free(s->logits[i]);
	free(s->logits);
	free(s->logprobs);
	free(s->sum);
	*s = (struct scores){0};
}

/* Adds the hidden states of positions [end, last); payload begins with that of `first`. */
static void add_hidden(struct scores *s, uint32_t first, uint32_t last, const float *payload)
{
	for (uint32_t p = s->end; p < last; p++)
		for (uint32_t i = 0; i < s->n_embd; i++)
			s->sum[i] += (double)payload[(size_t)(p - first) * s->n_embd + i];
}

bool scores_take(struct scores *s, const struct board_row *row, const float *payload)
{
	uint64_t last = (uint64_t)row->first + row->count;
	if (s->window == 0 || last > scores_until(s) || row->first > s->end)
		return false;
	if (s->sum != NULL)
		add_hidden(s, row->first, (uint32_t)last, payload);
	for (uint32_t p = s->end; s->sum == NULL && p < last; p++) {
		if (s->rows) {
			float **logits = &s->logits[p % s->window];
			if (*logits == NULL)
				*logits = xmalloc(s->n_vocab * sizeof **logits);
			memcpy(*logits, payload, s->n_vocab * sizeof **logits);
		}
		s->logprobs[p % s->window] = s->rows ? payload[s->n_vocab] : payload[p - row->first];
	}
	if (last > s->end)
		s->end = (uint32_t)last;
	return true;
}

void scores_forget(struct scores *s, uint32_t cursor)
{
	if (s->sum != NULL)
		return;
	if (cursor > s->n_tokens)
		cursor = s->n_tokens;
	if (cursor > s->from)
		s->from = cursor;
	if (cursor > s->end)
		s->end = cursor;
}

uint32_t scores_until(const struct scores *s)
{
	return s->n_tokens - s->from < s->window ? s->n_tokens : s->from + s->window;
}
