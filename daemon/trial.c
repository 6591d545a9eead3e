/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/trial.h"

#include "base/hooks.h"

/* Says on the board whom the engine may compute. */
static void publish(struct trial *t)
{
	const struct suspects *s = &t->suspects;
	uint32_t number = 0;
	if (s->tried != 0) {
		if (++t->number == 0)
			t->number = 1;
		number = t->number;
	}
	for (uint32_t i = 0; i < s->tried; i++)
		atomic_store_explicit(&t->board->words[s->of[i].slot].trial, number, memory_order_relaxed);
	stopping_place("falcond.trial.slots");
	atomic_store_explicit(&t->board->header->trial, number, memory_order_release);
	stopping_place("falcond.trial.stored");
}

void trial_init(struct trial *t, const struct board *board)
{
	*t = (struct trial){.board = board};
	uint32_t n = atomic_load_explicit(&board->header->n_used, memory_order_relaxed);
	for (uint32_t i = 0; i < n && i < board->n_slots; i++)
		atomic_store_explicit(&board->words[i].trial, 0, memory_order_relaxed);
	publish(t);
}

static bool running(const struct board *b, uint32_t slot, uint32_t *ret_run)
{
	uint32_t want = atomic_load_explicit(&b->words[slot].want, memory_order_acquire);
	uint32_t is = atomic_load_explicit(&b->words[slot].is, memory_order_acquire);
	*ret_run = board_run(want);
	return board_low(want) == BOARD_RUN && is == board_word(board_run(want), BOARD_RUNNING);
}

static bool listed(const struct suspect *list, uint32_t n, uint32_t slot)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i].slot == slot)
			return true;
	return false;
}

/* Who was in the step in progress. Returns how many. */
static uint32_t read_batch(const struct board *b, struct suspect batch[BOARD_BATCH])
{
	const struct board_header *h = b->header;
	uint32_t n = atomic_load_explicit(&h->n_suspects, memory_order_relaxed), taken = 0;
	if (atomic_load_explicit(&h->step, memory_order_acquire) % 2 == 0)
		return 0;
	for (uint32_t i = 0; i < n && i < BOARD_BATCH; i++) {
		uint32_t slot = h->suspects[i], run;
		if (slot >= b->n_slots || listed(batch, taken, slot) || !running(b, slot, &run))
			continue;
		batch[taken++] = (struct suspect){.slot = slot, .run = run, .progress = board_effective(b, slot)};
	}
	return taken;
}

bool trial_crash(struct trial *t, struct suspect *ret_guilty, uint32_t *ret_suspects)
{
	struct suspect batch[BOARD_BATCH];
	trial_scan(t);
	uint32_t n = *ret_suspects = read_batch(t->board, batch);
	if (n == 0)
		return false;
	enum suspects_verdict verdict = suspects_crash(&t->suspects, batch, n, ret_guilty);
	publish(t);
	return verdict == SUSPECTS_GUILTY;
}

static bool passed(void *arg, const struct suspect *x)
{
	const struct board *b = ((struct trial *)arg)->board;
	uint32_t run;
	return !running(b, x->slot, &run) || run != x->run || board_effective(b, x->slot) != x->progress;
}

bool trial_scan(struct trial *t)
{
	if (!suspects_clear(&t->suspects, passed, t))
		return false;
	publish(t);
	return true;
}

void trial_forget(struct trial *t)
{
	suspects_forget(&t->suspects);
	publish(t);
}
