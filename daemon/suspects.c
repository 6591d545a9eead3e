/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/suspects.h"

#include <string.h>

#include "base/check.h"

static bool same(const struct suspect *a, const struct suspect *b)
{
	return a->slot == b->slot && a->run == b->run;
}

/*
 * Keeps those suspects who were in the batch, as they are now. If none was, whoever was in it is suspected instead, and what was
 * known before counts for nothing.
 */
static void narrow(struct suspects *s, const struct suspect *batch, uint32_t n)
{
	uint32_t before = s->tried ? s->tried : s->n, kept = 0;
	for (uint32_t i = 0; i < before; i++)
		for (uint32_t j = 0; j < n; j++)
			if (same(&s->of[i], &batch[j]))
				s->of[kept++] = batch[j];
	if (kept == 0) {
		memcpy(s->of, batch, n * sizeof *batch);
		kept = n;
		s->alone = 0;
	}
	s->n = kept;
}

static uint32_t half(uint32_t n)
{
	return (n + 1) / 2;
}

enum suspects_verdict suspects_crash(struct suspects *s, const struct suspect *batch, uint32_t n, struct suspect *ret_guilty)
{
	CHECK(n > 0 && n <= BOARD_BATCH);
	bool first = s->n == 0;
	narrow(s, batch, n);
	s->alone = n == 1 ? s->alone + 1 : 0;
	if (s->alone == 2) {
		*ret_guilty = s->of[0];
		suspects_forget(s);
		return SUSPECTS_GUILTY;
	}
	if (first)
		return SUSPECTS_RETRY;
	s->tried = half(s->n);
	return SUSPECTS_TRIAL;
}

bool suspects_clear(struct suspects *s, bool (*passed)(void *arg, const struct suspect *x), void *arg)
{
	uint32_t looked = s->tried ? s->tried : s->n, kept = 0;
	for (uint32_t i = 0; i < looked; i++)
		if (!passed(arg, &s->of[i]))
			s->of[kept++] = s->of[i];
	if (kept == looked)
		return false;
	bool trial = s->tried != 0;
	memmove(&s->of[kept], &s->of[looked], (s->n - looked) * sizeof *s->of);
	s->n -= looked - kept;
	s->alone = 0;
	if (!trial)
		return false;
	s->tried = kept;
	if (kept > 0)
		return false;
	s->tried = half(s->n);
	return true;
}

bool suspects_forget(struct suspects *s)
{
	bool trial = s->tried != 0;
	s->n = s->tried = s->alone = 0;
	return trial;
}
