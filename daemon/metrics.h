/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What falcond counts, for Prometheus: one table of names, kinds and meanings, from which the text that is scraped and
 * docs/METRICS.md come. Counters are read where they are kept; what is measured over time is a histogram here.
 */
#ifndef FALCON_DAEMON_METRICS_H
#define FALCON_DAEMON_METRICS_H

#include <stdint.h>
#include <stdio.h>

#include "base/mem.h"
#include "daemon/session.h"
#include "ipc/protocol.h"

enum { METRICS_BUCKETS = 14 };

/* Counts of values by upper bound: bound i is first * 2^i; what is above the last is in n alone. */
struct histogram {
	double first;
	uint64_t at_most[METRICS_BUCKETS]; /* not cumulated */
	uint64_t n;
	double sum;
};

struct metrics {
	struct histogram first_token, between_tokens, queue_wait; /* seconds */
	struct histogram batch;                                   /* sessions in a step */
	uint64_t requests, refused[IPC_CODES];                    /* operations ever asked for; those answered with this error */
	uint64_t step;                                            /* of the board, when the batch was looked at last */
};

struct server;

void metrics_init(struct metrics *m);

/* n times the same value. */
void histogram_add(struct histogram *h, double value, uint64_t n);

/* A run was accepted now: what its session does from here on is measured. */
void metrics_run_begins(struct session *s);

/* The session has new progress. */
void metrics_progress(struct metrics *m, struct session *s);

/* The engine may have made steps. */
void metrics_steps(struct metrics *m, const struct board_header *h);

/* Appends everything in Prometheus' text format, version 0.0.4. */
void metrics_write(const struct server *s, struct buf *out);

/* The table in Markdown, for docs/METRICS.md. */
void metrics_describe(FILE *out);

#endif
