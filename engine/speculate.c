/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/speculate.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { LEAST_ENTRIES = 64, MOST_ENTRIES = 1 << 14, FIRST_LENGTH = 3 };

static const float allowance = 1.0f / 64;

void speculate_init(struct speculate *s, uint32_t n_most)
{
	uint32_t n = LEAST_ENTRIES;
	while (n < n_most && n < MOST_ENTRIES)
		n *= 2;
	*s = (struct speculate){.ends = xcalloc(n, sizeof *s->ends), .mask = n - 1, .indexed = SPECULATE_GRAM - 1,
		.length = FIRST_LENGTH, .credit = 0.75f};
}

void speculate_done(struct speculate *s)
{
	free(s->ends);
	s->ends = NULL;
}

/* The table's entry for the gram that ends before position `end`. */
static uint32_t *entry(struct speculate *s, const int32_t *log, uint32_t end)
{
	uint32_t hash = 0;
	for (uint32_t i = end - SPECULATE_GRAM; i < end; i++)
		hash = (hash ^ (uint32_t)log[i]) * 0x9e3779b1u;
	return &s->ends[(hash ^ hash >> 15) & s->mask];
}

uint32_t speculate_draft(struct speculate *s, int32_t *log, uint32_t n, uint32_t most)
{
	if (s->ends == NULL || n <= SPECULATE_GRAM)
		return 0;
	while (s->indexed + 1 < n) { /* up to the gram before the last, which would only find itself */
		s->indexed++;
		*entry(s, log, s->indexed) = s->indexed;
	}
	uint32_t from = *entry(s, log, n);
	if (from == 0 || memcmp(log + from - SPECULATE_GRAM, log + n - SPECULATE_GRAM, SPECULATE_GRAM * sizeof *log) != 0)
		return 0;
	for (uint32_t i = 0; i < most; i++) /* one by one: a text that repeats itself is drafted from its own draft */
		log[n + i] = log[from + i];
	return most;
}

void speculate_learn(struct speculate *s, uint32_t drafted, uint32_t right, float cost)
{
	s->credit += allowance + (float)right - cost;
	if (s->credit > SPECULATE_CREDIT)
		s->credit = SPECULATE_CREDIT;
	if (drafted == 0)
		return;
	s->length = right == drafted ? (2 * right > s->length ? 2 * right : s->length) : right + 1;
	if (s->length > SPECULATE_MOST)
		s->length = SPECULATE_MOST;
}
