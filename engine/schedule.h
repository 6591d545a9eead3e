/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who gets how many tokens of the next step. Sessions that generate come first, one token each: a long prompt delays them
 * by one chunk and no more. What is left of the step's budget goes to prompts, owner after owner in pieces of 32 tokens, so
 * that an owner's share does not grow with the number of sessions it opens; a piece is small enough that no deficit needs to
 * be carried from one round to the next.
 *
 * What is kept between steps (whose turn it is, how long a token takes) only steers speed and fairness. An engine that starts
 * anew begins without it, and no session's bytes depend on it.
 */
#ifndef FALCON_ENGINE_SCHEDULE_H
#define FALCON_ENGINE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

struct schedule {
	uint64_t turn;      /* owner served last: the next higher one is first */
	uint64_t token_ns;  /* time of one token of a prompt, smoothed; 0: not measured yet */
};

/* A session that could be computed now. */
struct schedule_item {
	uint64_t owner;
	uint64_t rank;  /* among one owner's: lower goes first */
	uint32_t ready; /* tokens whose turn it may be, at least 1 */
	bool decode;    /* it waits for its next token: takes one */
	uint32_t n;     /* result: tokens it gets */
};

/* Limits of one step. */
struct schedule_limits {
	uint32_t spans;  /* sessions */
	uint32_t tokens; /* all tokens together */
	uint32_t prompt; /* tokens of prompts among them */
};

/* Tokens of prompts that fit chunk_ms, at least 32, or 128 while nobody waits for a next token. */
uint32_t schedule_prompt(const struct schedule *s, uint32_t chunk_ms, bool decoding);

/* Sets n of every item. */
void schedule_share(struct schedule *s, struct schedule_item *items, uint32_t n_items, struct schedule_limits limits);

/* A step of this many tokens, `prompt` of them of prompts, took ns. */
void schedule_measure(struct schedule *s, uint32_t prompt, uint32_t tokens, uint64_t ns);

#endif
