/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What falcond keeps of each user: how much of everything is in use, held against the limits before more is taken, and the
 * user's own counters. An owner is a uid; one that was seen once is remembered, there are few.
 */
#ifndef FALCON_DAEMON_OWNER_H
#define FALCON_DAEMON_OWNER_H

#include <stdint.h>

#include "daemon/turns.h"

struct owner {
	uint64_t id;
	uint32_t requests;     /* open */
	uint32_t sessions;
	uint64_t pages;        /* that the running sessions may need */
	uint64_t probs;        /* bytes of log-probabilities that the sessions have or may need */
	uint64_t queued;       /* tokens of prompts that wait to be computed */
	uint64_t next_number;  /* of sessions without a name */
	uint64_t prefill, cached, decode; /* tokens, ever */
	struct turns_queue arrived; /* requests that nobody has looked at yet */
	struct turns_queue heavy;   /* those that wait for a thread */
	uint32_t threads;           /* that are at requests */
	bool has_turn;              /* is in the server's turns */
	TAILQ_ENTRY(owner) turn;
	struct owner *next;
};

struct owners {
	struct owner *buckets[256];
};

/* The owner of this id, made at first sight. */
struct owner *owner_get(struct owners *o, uint64_t id);
void owners_done(struct owners *o);

#endif
