/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/adopt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/run.h"
#include "daemon/source.h"

enum { DEATHS_BOARD = 3, DEATHS_LOGS = 6 }; /* that the board, and then its token logs, are taken for the cause of */

/* When the set's board was made; what is damaged there only makes another set the younger one. */
static uint64_t created(const struct keep_set *set)
{
	uint64_t ns = 0;
	off_t at = offsetof(struct board_header, created);
	return pread(set->fds[KEEP_BOARD], &ns, sizeof ns, at) == sizeof ns ? ns : 0;
}

static struct keep_set *youngest(struct keep *k)
{
	struct keep_set *best = NULL;
	for (unsigned i = 0; i < k->n_found; i++)
		if (best == NULL || created(&k->found[i]) > created(best))
			best = &k->found[i];
	return best;
}

/* Counts this falcond among those that began; returns how many died before it. By pread and pwrite: nothing is trusted yet. */
static uint32_t count_deaths(const struct keep_set *set)
{
	uint64_t word = 0;
	off_t at = offsetof(struct board_header, adoptions);
	int fd = set->fds[KEEP_BOARD];
	if (pread(fd, &word, sizeof word, at) != sizeof word)
		return 0;
	uint32_t deaths = board_adoptions(word);
	word = board_adoptions_word(deaths + 1);
	if (pwrite(fd, &word, sizeof word, at) != sizeof word)
		log_warning("cannot count adoptions on the board: %s", strerror(errno));
	return deaths;
}

static bool read_header(const struct keep_set *set, struct weights_header *ret)
{
	return pread(set->fds[KEEP_WEIGHTS], ret, sizeof *ret, 0) == sizeof *ret && ret->magic == WEIGHTS_MAGIC;
}

/* The whole set, if it is good. 0 or -errno. */
static int take_board(struct adopt *a, struct store *s, struct keep_set *set, const struct config *c, struct err *e)
{
	int r = store_adopt(s, set, c, e);
	if (r < 0)
		return r;
	r = survey(&s->board, s->arena.n_pages, s->hp.n_vocab, &a->survey, e);
	if (r < 0) {
		store_forget(s);
		return r;
	}
	*set = (struct keep_set){.fds = {-1, -1, -1}}; /* they are the store's */
	a->board = a->weights = true;
	return 0;
}

static void take_logs(struct adopt *a, const struct keep_set *set, const struct weights_header *header, uint32_t deaths)
{
	memcpy(a->source_hash, header->source_hash, sizeof a->source_hash);
	if (deaths < DEATHS_LOGS)
		tokenlog_read(set->fds[KEEP_BOARD], &a->logs);
	else
		log_error("%u falconds in a row ended over these segments: their sessions are given up", deaths);
}

int adopt_begin(struct adopt *a, struct store *s, struct keep *k, const struct config *c, struct err *e)
{
	*a = (struct adopt){0};
	struct keep_set *set = youngest(k);
	struct weights_header header;
	if (set == NULL)
		return 0;
	int r = store_lock(set->fds[KEEP_BOARD], e);
	if (r < 0)
		return r;
	uint32_t deaths = count_deaths(set);
	struct err why;
	bool known = read_header(set, &header) && source_is(c->model, &header);
	if (!known) {
		err_set(&why, -EINVAL, "the model's file is another one than they were made of");
	} else if (deaths >= DEATHS_BOARD) {
		err_set(&why, -EIO, "%u falconds in a row ended over them", deaths);
	} else if (take_board(a, s, set, c, &why) == 0) {
		return 0;
	}
	log_warning("segments: not taken over as they are: %s", why.what);
	take_logs(a, set, &header, deaths);
	a->weights = known && store_share_weights(s, k, set, &why) == 0;
	if (known && !a->weights)
		log_warning("segments: the weights are not taken over: %s", why.what);
	return 0;
}

static void adopt_found(struct adopt *a, struct sessions *t, struct owners *o)
{
	arena_adopt(t->arena, a->survey.refs);
	for (uint32_t i = 0; i < a->survey.n; i++) {
		const struct survey_session *found = &a->survey.sessions[i];
		run_adopt(t, session_adopt(t, owner_get(o, board_record(&t->board, found->slot)->owner), found), found);
	}
	sessions_adopted(t);
	log_info("segments: taken over with %u sessions", a->survey.n);
}

/* One session from its log. False: it cannot go on. */
static bool restore(const struct tokenlog *l, struct sessions *t, struct owners *o)
{
	struct err e;
	const struct board_record *r = &l->record;
	if (tokenlog_check(l, &t->board, t->n_vocab, &e) < 0) {
		log_warning("segments: a session is lost: %s", e.what);
		return false;
	}
	struct owner *owner = owner_get(o, r->owner);
	if (session_find(t, owner, r->name, r->name_length) != NULL)
		return false;
	struct session *s = session_restore(t, owner, r, l->ids, l->probs, r->n_tokens);
	if (s == NULL)
		return false;
	run_restore(t, s, board_run(r->over) != r->ready);
	return true;
}

static void adopt_logs(struct adopt *a, const struct store *s, struct sessions *t, struct owners *o)
{
	uint32_t n = 0;
	if (a->logs.n == 0)
		return;
	if (memcmp(a->source_hash, s->source_hash, sizeof s->source_hash) != 0) {
		log_warning("segments: %u sessions were of another model, and are given up", a->logs.n);
		return;
	}
	for (uint32_t i = 0; i < a->logs.n; i++)
		n += restore(&a->logs.list[i], t, o);
	log_notice("segments: %u of %u sessions go on from their token logs; their keys and values are computed again", n, a->logs.n);
}

void adopt_sessions(struct adopt *a, const struct store *s, struct sessions *t, struct owners *o)
{
	if (a->board)
		adopt_found(a, t, o);
	else
		adopt_logs(a, s, t, o);
}

void adopt_end(struct adopt *a, struct keep *k)
{
	for (unsigned i = 0; i < k->n_found; i++) {
		keep_forget(k, &k->found[i]);
		keep_close_set(&k->found[i]);
	}
	k->n_found = 0;
	survey_done(&a->survey);
	tokenlog_done(&a->logs);
}

void adopt_settle(const struct board *b)
{
	atomic_store_explicit(&b->header->adoptions, board_adoptions_word(0), memory_order_relaxed);
}
