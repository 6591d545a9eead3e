/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's side of the board: it reads what falcond wants of each slot, keeps a view of those that run, and writes what
 * became of them. A view holds nothing that is not on the board; it is built from there when a run is taken, when a paused
 * one goes on, and when a new engine finds runs that an earlier one began, all by the same code. That is why an engine may be
 * killed at any moment.
 *
 * What falcond wrote is input: a record, token, page number or progress that cannot be right ends that run with BOARD_ERROR
 * and touches no other.
 */
#ifndef FALCON_ENGINE_SLOTS_H
#define FALCON_ENGINE_SLOTS_H

#include "engine/segments.h"
#include "engine/speculate.h"
#include "shm/probs.h"
#include "text/ending.h"

/* A slot whose run is RUNNING. */
struct session {
	uint32_t slot, run;
	uint32_t place;             /* in slots.running */
	uint32_t n_kv, n_tokens;    /* as progress says */
	uint32_t n_pages;           /* of pages[] below */
	uint64_t served;            /* number of the last step it was in, 0 for none: fairness alone */
	void **pages;               /* [n_table] payloads in ascending order */
	struct board_record record; /* a copy, checked when the view was built */
	struct ending ending;       /* over tokens [n_given, n_tokens) */
	struct speculate speculate; /* speed alone */
};

struct slots {
	const struct segments *segments;
	const struct tokenizer *tokenizer; /* NULL: the model has none */
	struct session **views;            /* [n_slots], NULL where no run is RUNNING */
	struct session **running;          /* [n_running], in no order */
	uint32_t n_running, capacity;
	bool told;                         /* something was published that falcond should look at; the caller clears it */
	struct err refused;                /* code != 0: why a run was refused last; the caller may log and clear it */
};

void slots_init(struct slots *s, const struct segments *segments, const struct tokenizer *tokenizer);
void slots_done(struct slots *s);

/* Reads `want` of every slot in use and answers it. Call it at start and after each wake-up, between steps. */
void slots_scan(struct slots *s);

/*
 * Positions that the session may be computed up to: those that have a page, and in a score run credit. False: the page table
 * is not to be believed, and the run has been ended.
 */
bool slots_limit(struct slots *s, struct session *o, uint32_t *ret_limit);

/* Whether o waits for its next token alone. */
static inline bool slots_decoding(const struct session *o)
{
	return o->n_kv + 1 == o->n_tokens && o->n_tokens < o->record.n_end && !(o->record.flags & BOARD_SCORE);
}

/* Tokens that may be drafted to follow o's last one: so many have a page, and one more is wanted after them. */
uint32_t slots_draft_room(const struct slots *s, const struct session *o);

/* Keeps n entries (shm/probs.h), the first in place `first`, before o is advanced by their tokens or positions. */
void slots_say(struct slots *s, const struct session *o, uint32_t first, const struct prob *entries, uint32_t n);

/*
 * Publishes that positions below n_kv are computed and that these n tokens follow, the last of them at n_kv (n is 0 where no
 * token was drawn). A run that ends with one of them is ended: the rest is forgotten, and o is gone. Returns how many counted.
 */
uint32_t slots_advance(struct slots *s, struct session *o, uint32_t n_kv, const int32_t *tokens, uint32_t n);

/* Ends the run for this reason; o is gone. */
void slots_end(struct slots *s, struct session *o, enum board_reason reason);

#endif
