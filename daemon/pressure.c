/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pressure.h"

/* Pages that dropping this session's table would free. */
static uint32_t exclusive(const struct sessions *t, const struct session *s)
{
	const uint32_t *table = board_table(&t->board, s->slot);
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->n_pages; i++)
		n += table[i] < t->arena->n_pages && arena_exclusive(t->arena, table[i]);
	return n;
}

/* Pages on their way: of sessions that the engine has been asked to let go of, and those that a thread still writes to a file. */
static uint32_t pending(const struct sessions *t)
{
	const struct session *s;
	uint32_t n = t->arena->n_held;
	TAILQ_FOREACH (s, &t->active, active)
		if (s->releasing)
			n += exclusive(t, s);
	return n;
}

static bool gives(const struct session *s, enum session_state state, const struct session *to)
{
	return s != to && s->state == state && s->n_pages > 0 && !s->releasing && !s->loading;
}

/* Takes pages of sessions in this state, least recently used first, until `have` reaches `need`. Returns what there is then. */
static uint32_t take_from(struct sessions *t, enum session_state state, const struct session *to, uint32_t have, uint32_t need)
{
	for (struct session *s = TAILQ_FIRST(&t->used), *next; s != NULL && have < need; s = next) {
		next = TAILQ_NEXT(s, use);
		if (!gives(s, state, to))
			continue;
		have += exclusive(t, s);
		if (t->save != NULL)
			t->save(t->arg, s);
		run_release(t, s);
	}
	return have;
}

/* The run that began last among those that may be stopped for s, or NULL. */
static struct session *youngest_after(const struct sessions *t, const struct session *s)
{
	struct session *at, *youngest = NULL;
	TAILQ_FOREACH (at, &t->active, active)
		if (gives(at, SESSION_RUNNING, s) && !at->cancelling && at->started > s->started &&
		    (youngest == NULL || at->started > youngest->started))
			youngest = at;
	return youngest;
}

static uint32_t take_unused(struct sessions *t, const struct session *to, uint32_t need)
{
	uint32_t have = t->arena->n_free;
	if (have < need)
		have += pending(t);
	have = take_from(t, SESSION_IDLE, to, have, need);
	return take_from(t, SESSION_PAUSED, to, have, need);
}

void pressure_relieve(struct sessions *t, struct session *s, uint32_t need)
{
	uint32_t have = take_unused(t, s, need);
	for (struct session *victim; s->starved && have == 0 && (victim = youngest_after(t, s)) != NULL;) {
		have += exclusive(t, victim);
		run_release(t, victim);
	}
}

bool pressure_make_room(struct sessions *t, struct session *s, uint32_t need)
{
	if (t->arena->n_free < need)
		take_unused(t, s, need);
	return t->arena->n_free >= need;
}

uint32_t pressure_available(const struct sessions *t, const struct session *s)
{
	const struct session *at;
	uint32_t n = t->arena->n_free + pending(t);
	TAILQ_FOREACH (at, &t->used, use)
		if (gives(at, SESSION_IDLE, s) || gives(at, SESSION_PAUSED, s))
			n += exclusive(t, at);
	return n;
}
