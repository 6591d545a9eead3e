/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A test that plays falcond: it packs a model, makes the segments, starts real engines over them and writes the board by hand.
 * Whatever cannot go wrong in a sound machine fails the cmocka test at hand.
 */
#ifndef FALCON_TESTS_RIG_H
#define FALCON_TESTS_RIG_H

#include <sys/types.h>

#include "shm/board.h"

enum { RIG_WAIT_MS = 60000 }; /* longer than any step on a busy machine */

struct rig {
	int weights, pages, board_fd, wake_engine, wake_falcond;
	int lifeline[2];
	struct weights_hparams hp;
	struct board board;
	uint64_t board_size;
	uint32_t n_pages, next_page; /* pages are given out in ascending order and never taken back */
	pid_t engine;                /* 0: none */
	uint32_t dense;
};

struct rig_shape {
	uint32_t n_slots, n_context, n_pages;
	uint32_t kv;       /* enum pages_kv */
	uint32_t chunk_ms;
	uint32_t dense;    /* of all its engines: 0 exact, 1 openblas */
	uint32_t speculate; /* enum board_speculate */
};

/* What one run asks for; zero means off, none, or greedy. */
struct rig_run {
	uint64_t owner;
	const int32_t *ids; /* [n_ids] the prompt */
	uint32_t n_ids;
	uint32_t n;         /* tokens to generate */
	uint32_t flags;     /* enum board_record_flags */
	float temp, repeat_penalty;
	uint32_t repeat_last_n;
	uint32_t priority;  /* enum board_priority */
	uint64_t seed;
	const char *stop;
	uint32_t pages;     /* pages granted; 0: as many as the run needs */
	bool keep;          /* the slot's pages of its last run stay, and more are granted where that is too few */
};

#define RIG_MODEL "models/falcon-tales.Q8_0.gguf"

/* Packs a model of the source tree with falcon-engine --pack into a sealed segment, as falcond does. The descriptor. */
int rig_pack(const char *model);

/* Ids without any meaning, the same ones each time, of the bundled model's vocabulary. */
void rig_prompt(int32_t *ids, uint32_t n);

/* Makes pages and board around packed weights. */
void rig_open(struct rig *r, int weights, const struct rig_shape *shape);
void rig_close(struct rig *r); /* kills the engine; the weights stay the caller's */

/* Starts an engine held to this instruction set (NULL: the best) and waits until it is ready. */
void rig_start(struct rig *r, unsigned threads, const char *isa);
/* Starts one without waiting; the caller reaps it. */
pid_t rig_spawn(const struct rig *r, unsigned threads, const char *isa);
void rig_kill(struct rig *r); /* SIGKILL, and waits for its end */

/* Writes a run into a slot and publishes it as the next run of that slot. */
void rig_begin(struct rig *r, uint32_t slot, const struct rig_run *run);
/* Writes the record, log and pages alone; rig_publish() makes them a run. A test may spoil them in between. */
void rig_write(struct rig *r, uint32_t slot, const struct rig_run *run);
void rig_publish(struct rig *r, uint32_t slot);
void rig_grant(struct rig *r, uint32_t slot, uint32_t n_pages); /* up to n_pages in all */
void rig_want(struct rig *r, uint32_t slot, enum board_want want); /* of the slot's current run */

/* Waits until `is` of the current run says this. */
void rig_expect(struct rig *r, uint32_t slot, enum board_is is);
/* Waits until `is` names the current run, whatever it says. */
void rig_expect_taken(struct rig *r, uint32_t slot);
/* Waits until the run is DONE: its reason. */
enum board_reason rig_finish(struct rig *r, uint32_t slot);
/* Waits until the slot has this many tokens. */
void rig_expect_tokens(struct rig *r, uint32_t slot, uint32_t n_tokens);

/* How far the slot's current run is. */
uint32_t rig_n_tokens(const struct rig *r, uint32_t slot);
uint32_t rig_n_kv(const struct rig *r, uint32_t slot);

/* Writes the engine's eventfd, for a test that changed the board by hand. */
void rig_wake(const struct rig *r);
/* Waits for falcond's eventfd, at most timeout_ms. */
void rig_listen(const struct rig *r, int timeout_ms);

#endif
