/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/schedule.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
	QUANTUM = 32,
	DEBT_MOST = 8 * QUANTUM, /* for generated tokens */
	ALONE = 32,              /* tokens of prompts while nobody generates, however long they take: fewer waste the weights' way */
	ALONE_CHUNKS = 4,        /* times chunk_ms then: somebody may come */
	BATCH_SHARE = 8,         /* one part in so many */
};

void schedule_init(struct schedule *s, const struct weights_hparams *hp, uint64_t weights)
{
	*s = (struct schedule){0};
	pace_init(&s->pace, hp, weights);
}

void schedule_done(struct schedule *s)
{
	free(s->accounts);
	s->accounts = NULL;
}

/* Accounts ------------------------------------------------------------------------------------------------------------- */

/* The owner's account, made where there is none. */
static struct schedule_account *account(struct schedule *s, uint64_t owner)
{
	uint32_t low = 0, high = s->n_accounts;
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (s->accounts[middle].owner < owner)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < s->n_accounts && s->accounts[low].owner == owner)
		return &s->accounts[low];
	if (s->n_accounts == s->capacity) {
		s->capacity = s->capacity ? 2 * s->capacity : 16;
		s->accounts = xreallocarray(s->accounts, s->capacity, sizeof *s->accounts);
	}
	memmove(&s->accounts[low + 1], &s->accounts[low], (s->n_accounts++ - low) * sizeof *s->accounts);
	s->accounts[low] = (struct schedule_account){.owner = owner};
	return &s->accounts[low];
}

/* Owners with nothing to compute keep no account: neither credit nor debt outlives their last session's work. */
static void keep_accounts(struct schedule *s, const struct schedule_item *items, uint32_t n)
{
	for (uint32_t i = 0; i < s->n_accounts; i++)
		s->accounts[i].seen = false;
	for (uint32_t i = 0; i < n; i++)
		account(s, items[i].owner)->seen = true;
	uint32_t kept = 0;
	for (uint32_t i = 0; i < s->n_accounts; i++)
		if (s->accounts[i].seen)
			s->accounts[kept++] = s->accounts[i];
	s->n_accounts = kept;
}

static void pay(struct schedule *s, uint64_t owner, uint32_t tokens)
{
	struct schedule_account *a = account(s, owner);
	a->deficit -= (int32_t)tokens;
	if (a->deficit < -DEBT_MOST)
		a->deficit = -DEBT_MOST;
}

/* Sharing out ---------------------------------------------------------------------------------------------------------- */

/* What is left of the step for the sessions at hand: interactive ones, or batch ones. */
struct round {
	struct schedule_item *items;
	uint32_t n_items;
	bool batch;
	uint32_t spans, tokens;
	float rows; /* of prompts; of all tokens where batch sessions yield */
};

/*
 * The item whose turn it is among those of one kind that still want tokens: of the first owner above `turn` (counted around),
 * the lowest rank.
 */
static struct schedule_item *next_item(const struct schedule *s, const struct round *r, bool decode)
{
	struct schedule_item *best = NULL;
	uint64_t best_distance = 0;
	for (struct schedule_item *i = r->items; i < r->items + r->n_items; i++) {
		if (i->batch != r->batch || i->decode != decode || i->n >= (decode ? 1 : i->ready) || (i->n == 0 && r->spans == 0))
			continue;
		uint64_t distance = i->owner - s->turn - 1; /* modulo 2^64: the owner served last comes last */
		if (best == NULL || distance < best_distance || (distance == best_distance && i->rank < best->rank)) {
			best = i;
			best_distance = distance;
		}
	}
	return best;
}

static void give(struct schedule *s, struct round *r, struct schedule_item *i, uint32_t tokens)
{
	float rows = (float)tokens * pace_row(&s->pace, i->first);
	r->spans -= i->n == 0;
	r->tokens -= tokens;
	r->rows -= rows;
	s->rows += rows;
	s->decoding += i->decode;
	s->prompt += i->decode ? 0 : tokens;
	i->n += tokens;
	pay(s, i->owner, tokens);
}

/* A token for each session that generates; where `most` are fewer, in turn. */
static void share_decode(struct schedule *s, struct round *r, uint32_t most)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->n_items; i++)
		n += r->items[i].decode && r->items[i].batch == r->batch;
	for (uint32_t i = 0; n <= most && i < r->n_items; i++)
		if (r->items[i].decode && r->items[i].batch == r->batch)
			give(s, r, &r->items[i], 1);
	for (uint32_t given = 0; n > most && given < most; given++) {
		struct schedule_item *i = next_item(s, r, true);
		s->turn = i->owner;
		give(s, r, i, 1);
	}
}

/*
 * Deficit round robin: an owner's turn brings its account a quantum, and it is served until that is used up. A turn that the end
 * of the step cuts short goes on in the next.
 */
static void share_prompts(struct schedule *s, struct round *r)
{
	while (r->tokens > 0) {
		struct schedule_item *i = next_item(s, r, false);
		uint32_t fits = i && r->rows > 0 ? (uint32_t)(r->rows / pace_row(&s->pace, i->first)) : 0;
		if (fits == 0)
			return;
		struct schedule_account *a = account(s, i->owner);
		if (!a->in_turn)
			a->deficit += QUANTUM;
		if (a->deficit > 0) {
			uint32_t n = (uint32_t)a->deficit;
			n = n < i->ready - i->n ? n : i->ready - i->n;
			n = n < r->tokens ? n : r->tokens;
			give(s, r, i, n < fits ? n : fits);
		}
		a->in_turn = a->deficit > 0;
		s->turn = i->owner - a->in_turn;
	}
}

static bool any(const struct schedule_item *items, uint32_t n, bool batch)
{
	for (uint32_t i = 0; i < n; i++)
		if (items[i].batch == batch)
			return true;
	return false;
}

static bool any_prompt(const struct round *r)
{
	for (uint32_t i = 0; i < r->n_items; i++)
		if (!r->items[i].decode && r->items[i].batch == r->batch)
			return true;
	return false;
}

/* Rows of prompts, in a step that has only rows of sessions that generate so far. */
static float prompt_rows(const struct schedule *s, float chunk_ns)
{
	if (s->decoding == 0) {
		float rows = pace_room(&s->pace, 0, ALONE_CHUNKS * chunk_ns);
		return rows > ALONE ? rows : ALONE;
	}
	float rows = pace_room(&s->pace, s->rows, chunk_ns);
	return rows > 1 ? rows : 1;
}

/* Those who have the step: a token for each that generates, and prompts as chunk_ms allows. */
static void share_all(struct schedule *s, struct round *r, float chunk_ns)
{
	uint32_t room = r->spans < r->tokens ? r->spans : r->tokens;
	bool prompts = any_prompt(r);
	if (prompts)
		room -= room / 8; /* prompts get on even where more sessions generate than fit one step */
	share_decode(s, r, room);
	if (!prompts || (s->decoding > 0 && !pace_known(&s->pace, s->rows)))
		return;
	r->rows = prompt_rows(s, chunk_ns);
	/* A prompt's next token may count as more than the one row that always goes. */
	struct schedule_item *first = next_item(s, r, false);
	float least = first ? pace_row(&s->pace, first->first) : 0;
	r->rows = r->rows > least ? r->rows : least;
	share_prompts(s, r);
}

/* Those who yield: what the time saved up for them pays for. */
static void share_saved(struct schedule *s, struct round *r, float chunk_ns)
{
	float before = pace_ns(&s->pace, s->rows), most = BATCH_SHARE * before + chunk_ns;
	s->batch_ns = s->batch_ns < most ? s->batch_ns : most;
	float rows = pace_room(&s->pace, s->rows, s->batch_ns);
	if (rows < 1)
		return;
	r->rows = rows;
	uint32_t room = r->spans < r->tokens ? r->spans : r->tokens;
	share_decode(s, r, rows < (float)room ? (uint32_t)rows : room);
	share_prompts(s, r);
	s->batch_ns -= pace_ns(&s->pace, s->rows) - before;
}

void schedule_share(struct schedule *s, struct schedule_item *items, uint32_t n_items, struct schedule_limits limits)
{
	for (uint32_t i = 0; i < n_items; i++)
		items[i].n = 0;
	keep_accounts(s, items, n_items);
	s->rows = 0;
	s->decoding = s->prompt = 0;
	bool interactive = any(items, n_items, false);
	s->yielding = interactive && any(items, n_items, true);
	struct round r = {.items = items, .n_items = n_items, .batch = !interactive, .spans = limits.spans, .tokens = limits.tokens};
	share_all(s, &r, limits.chunk_ns);
	if (s->yielding) {
		r.batch = true;
		share_saved(s, &r, limits.chunk_ns);
	} else {
		s->batch_ns = 0;
	}
}

void schedule_measure(struct schedule *s, uint64_t ns)
{
	pace_measure(&s->pace, s->rows, ns);
	if (s->yielding)
		s->batch_ns += (float)ns / BATCH_SHARE;
}
