/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who gets how many tokens of the next step.
 *
 * Sessions that generate come first, one token each. Prompts get what fits chunk_ms beside them: so a long prompt delays
 * another user's next token by one step, and that step by chunk_ms. The measured pace (engine/pace.h) says how many tokens
 * that is; where it does not know what the generating sessions take alone, one step goes without prompts to see. Prompts are
 * served by deficit round robin over owners, in quanta of 32 tokens, and a generated token is paid for from the same account:
 * an owner's share does not grow with the number of sessions it opens.
 *
 * Batch sessions get what interactive ones leave: all of it where there are none, else an eighth of the time, saved up until a
 * token can be paid for. So they yield and never starve.
 *
 * What is kept between steps only steers speed and fairness. An engine that starts anew begins without it, and no session's
 * bytes depend on it.
 */
#ifndef FALCON_ENGINE_SCHEDULE_H
#define FALCON_ENGINE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/pace.h"

/* A session that could be computed now. */
struct schedule_item {
	uint64_t owner;
	uint64_t rank;  /* among one owner's: lower goes first */
	uint32_t ready; /* tokens whose turn it may be, at least 1 */
	uint32_t first; /* position of the first of them */
	bool decode;    /* it waits for its next token: takes one */
	bool batch;     /* yields to those that are not */
	uint32_t n;     /* result: tokens it gets */
};

/* Limits of one step. */
struct schedule_limits {
	uint32_t spans;  /* sessions */
	uint32_t tokens; /* all tokens together */
	float chunk_ns;  /* that prompts may add to a step in which others generate */
};

struct schedule {
	struct pace pace;
	uint64_t turn;   /* owner served last: the next higher one is first */
	float batch_ns;  /* time saved up for batch sessions */
	struct schedule_account {
		uint64_t owner;
		int32_t deficit; /* tokens it may have before others are served again */
		bool in_turn;    /* its turn goes on: it has had this one's quantum */
		bool seen;       /* in this step */
	} *accounts;             /* [n_accounts] owners of the last step's items, ascending */
	uint32_t n_accounts, capacity;

	/* The step that was shared out last. */
	float rows;          /* as pace_row() counts them */
	uint32_t decoding;   /* sessions in it that generate */
	uint32_t prompt;     /* tokens of prompts in it */
	bool yielding;       /* batch sessions were there beside interactive ones */
};

void schedule_init(struct schedule *s, const struct weights_hparams *hp, uint64_t weights); /* weights: bytes */
void schedule_done(struct schedule *s);

/* Sets n of every item. */
void schedule_share(struct schedule *s, struct schedule_item *items, uint32_t n_items, struct schedule_limits limits);

/* The step that was shared out last took ns. */
void schedule_measure(struct schedule *s, uint64_t ns);

#endif
