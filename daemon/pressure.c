/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pressure.h"

#include <stdlib.h>

#include "base/mem.h"

/* How many of the tables that are to be dropped hold each page. [n_pages], the caller frees it. */
static uint32_t *tally_new(const struct sessions *t)
{
	return xcalloc(t->arena->n_pages, sizeof(uint32_t));
}

/* Counts this session's table as one to be dropped. Returns the pages that nobody else holds then. */
static uint32_t tally(const struct sessions *t, const struct session *s, uint32_t *seen)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->n_pages; i++) {
		uint32_t page = *board_page(&t->board, s->slot, i);
		n += arena_held(t->arena, page) && ++seen[page] == t->arena->refs[page];
	}
	return n;
}

/* Pages on their way: of sessions that the engine has been asked to let go of, and those that a thread still writes to a file. */
static uint32_t pending(const struct sessions *t, uint32_t *seen)
{
	const struct session *s;
	uint32_t n = t->arena->n_held;
	TAILQ_FOREACH (s, &t->active, active)
		if (s->releasing)
			n += tally(t, s, seen);
	return n;
}

static bool gives(const struct session *s, enum session_state state, const struct session *to)
{
	return s != to && s->state == state && s->n_pages > 0 && !s->releasing && !s->loading;
}

struct gain {
	uint32_t *seen;
	uint32_t have; /* pages that are free, or will be */
};

/* Drops the session's pages: at once if no engine may hold them, else once it has let go of them. */
static void take(struct sessions *t, struct session *s, struct gain *g)
{
	const struct arena *a = t->arena;
	uint32_t before = a->n_free + a->n_held;
	if (s->published)
		g->have += tally(t, s, g->seen);
	run_release(t, s);
	g->have += a->n_free + a->n_held - before;
}

/* Takes pages of sessions in this state, least recently used first, until there will be enough. */
static void take_from(struct sessions *t, enum session_state state, const struct session *to, uint32_t need, struct gain *g)
{
	for (struct session *s = TAILQ_FIRST(&t->used), *next; s != NULL && g->have < need; s = next) {
		next = TAILQ_NEXT(s, use);
		if (!gives(s, state, to))
			continue;
		if (t->save != NULL)
			t->save(t->arg, s);
		take(t, s, g);
	}
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

static void take_unused(struct sessions *t, const struct session *to, uint32_t need, struct gain *g)
{
	*g = (struct gain){.seen = tally_new(t), .have = t->arena->n_free};
	g->have += pending(t, g->seen);
	take_from(t, SESSION_IDLE, to, need, g);
	take_from(t, SESSION_PAUSED, to, need, g);
}

void pressure_relieve(struct sessions *t, struct session *s, uint32_t need)
{
	struct gain g;
	take_unused(t, s, need, &g);
	for (struct session *victim; s->starved && g.have == 0 && (victim = youngest_after(t, s)) != NULL;)
		take(t, victim, &g);
	free(g.seen);
}

bool pressure_make_room(struct sessions *t, struct session *s, uint32_t need)
{
	struct gain g;
	if (t->arena->n_free < need) {
		take_unused(t, s, need, &g);
		free(g.seen);
	}
	return t->arena->n_free >= need;
}

uint32_t pressure_available(const struct sessions *t, const struct session *s)
{
	const struct session *at;
	uint32_t *seen = tally_new(t), n = t->arena->n_free + pending(t, seen);
	TAILQ_FOREACH (at, &t->used, use)
		if (gives(at, SESSION_IDLE, s) || gives(at, SESSION_PAUSED, s))
			n += tally(t, at, seen);
	free(seen);
	return n;
}
