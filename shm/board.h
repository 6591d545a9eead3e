/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The board: who wants what computed and how far it is. falcond writes requests and grants, the engine writes progress;
 * neither needs anything else to go on, so either may die at any time. docs/BOARD.md has a row for every field.
 *
 *	header (4,096 bytes) | words, 128 bytes a slot | page tables | rows ring | token logs | log-probabilities (shm/probs.h)
 *
 * Rules. One writer a field. A payload is written first, then one release store of the word that publishes it; the reader
 * loads that word with acquire. Each side treats what the other wrote as input: indices and lengths are checked before use.
 * There are no wake-up words: after publishing write the eventfd; on waking read it, then scan.
 *
 * A session occupies one slot; a record there whose `ready` is not 0 says so. It runs in numbered runs: `generate` starts one, `append` the next. falcond publishes a run
 * with `want` = {run, RUN}; the engine takes it by storing progress and then `is` = {run, RUNNING}, and ends it with
 * `is` = {run, DONE}. Run numbers of a slot only rise, across sessions too, so a stale `is` never matches.
 *
 *	want (falcond)              is (engine, between steps)
 *	{k, RUN}                    {k, RUNNING}, later {k, DONE} with `reason`
 *	{k, PAUSE}                  {k, PAUSED}, unless it is {k, DONE}; {k, RUN} again resumes
 *	{k, CANCEL}                 {k, DONE} with reason CANCELLED, unless it is {k, DONE} already
 *	{k, CLOSE}                  {k, CLOSED}: the engine has let go of pages and log; falcond then stores {k, NONE}
 *
 * The token log holds ids of positions [0, n_tokens); falcond writes [.., n_from) before it publishes a run, the engine the
 * rest. n_kv counts positions whose keys and values are complete; the engine never writes below it.
 */
#ifndef FALCON_SHM_BOARD_H
#define FALCON_SHM_BOARD_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "shm/pages.h"

#define BOARD_MAGIC UINT64_C(0x3144524243464c46) /* "FLFCBRD1" */
#define BOARD_ABI 4u

enum {
	BOARD_NAME = 64,       /* bytes of a session's name, without NUL */
	BOARD_REQUEST = 64,    /* bytes of a request id */
	BOARD_STOPS = 8,       /* stop strings a session */
	BOARD_STOP_BYTES = 64, /* bytes of one */
	BOARD_BIASES = 64,     /* logit biases a session */
	BOARD_BATCH = 256,     /* sessions in one step */
	BOARD_RING = 64,       /* entries of the rows ring */
	BOARD_TOP = 20,        /* likeliest tokens that are told beside a generated one */
	BOARD_BLOCK = 16,      /* entries of a page table that stand side by side: a cache line, 512 tokens */
};

enum board_want { BOARD_NONE = 0, BOARD_RUN, BOARD_PAUSE, BOARD_CANCEL, BOARD_CLOSE };
enum board_is { BOARD_NEVER = 0, BOARD_RUNNING, BOARD_PAUSED, BOARD_DONE, BOARD_CLOSED };
enum board_reason {
	BOARD_STOP = 1,  /* a stop string */
	BOARD_EOS,       /* an end-of-text token */
	BOARD_LENGTH,    /* n tokens were generated */
	BOARD_CONTEXT,   /* the context is full */
	BOARD_CANCELLED,
	BOARD_ERROR,     /* the engine cannot compute it (numbers that are not finite, or a record it does not accept) */
};

/* Whether the engine drafts tokens from a session's own log: where it pays, or (for tests) wherever it can. */
enum board_speculate { BOARD_PLAIN = 0, BOARD_SPECULATE, BOARD_SPECULATE_ALWAYS };

/* {run, verb or state} in one word. Runs are 24 bits. */
static inline uint32_t board_word(uint32_t run, uint32_t low) { return run << 8 | (low & 0xffu); }
static inline uint32_t board_run(uint32_t word) { return word >> 8; }
static inline uint32_t board_low(uint32_t word) { return word & 0xffu; }

/* {n_kv, n_tokens} in one word. */
static inline uint64_t board_progress(uint32_t n_kv, uint32_t n_tokens) { return (uint64_t)n_kv << 32 | n_tokens; }
static inline uint32_t board_n_kv(uint64_t progress) { return (uint32_t)(progress >> 32); }
static inline uint32_t board_n_tokens(uint64_t progress) { return (uint32_t)progress; }

/* A slot's words: one cache line for each writer. */
struct board_words {
	/* falcond */
	_Atomic uint32_t want;       /* publishes the record, the log up to n_from and the page table up to n_pages */
	_Atomic uint32_t n_pages;    /* entries of the page table that are granted; publishes them */
	_Atomic uint32_t rows_until; /* score runs: positions below this may be computed (credit of the rows ring) */
	_Atomic uint32_t trial;      /* the last trial that it takes part in (see the header) */
	uint8_t pad0[48];
	/* engine */
	_Atomic uint64_t progress;   /* publishes keys, values and log; valid while is.run == want.run */
	_Atomic uint32_t is;         /* publishes progress of the run it names, and reason */
	_Atomic uint32_t reason;     /* enum board_reason of the run that is DONE */
	uint8_t pad1[48];
};
static_assert(sizeof(struct board_words) == 128, "board_words");
static_assert(offsetof(struct board_words, trial) == 12, "board_words.trial");
static_assert(offsetof(struct board_words, progress) == 64, "board_words.progress");

enum { BOARD_FAILED_LATE = 255 }; /* its step never ended */
/* LOGPROBS: shm/probs.h; how many likeliest tokens are told stands in the bits of TOP. */
enum board_record_flags { BOARD_IGNORE_EOS = 1, BOARD_SCORE = 2, BOARD_ROWS = 4, BOARD_LOGPROBS = 8, BOARD_HIDDEN = 16,
	BOARD_TOPS = 0x1f00 };
static inline uint32_t board_top(uint32_t flags) { return (flags & BOARD_TOPS) >> 8; }
static inline uint32_t board_logprobs(uint32_t top) { return BOARD_LOGPROBS | (top << 8 & BOARD_TOPS); } /* flags */

/* Who yields to whom. Records written before the field was there have 0. */
enum board_priority { BOARD_INTERACTIVE = 0, BOARD_BATCHED = 1 };

/* Sampling parameters; DESIGN of the sampler in model/sampler.h. */
struct board_params {
	float temp;              /* 0: greedy */
	float top_p, min_p;      /* 1 and 0: off */
	float repeat_penalty;    /* 1: off */
	float presence_penalty, frequency_penalty; /* 0: off */
	uint32_t top_k;          /* 0: off */
	uint32_t repeat_last_n;  /* tokens that the repeat penalty looks back over */
	uint64_t seed;
};
static_assert(sizeof(struct board_params) == 40, "board_params");

struct board_bias { int32_t id; float bias; };

/*
 * What a session is, in front of its token log. The layout is frozen by `version` and the record says where it stands, so that it
 * is found and read whatever the board's ABI, and without the rest of the board. falcond writes it; `n_tokens` is the engine's
 * while a run goes on, a copy of progress for readers of the log alone.
 *
 * Killed between any two stores falcond leaves a record that can be told whole or not. A run's terms (`flags` up to `stops`) are
 * written between board_record_begin(), which keeps the old ones in `undo`, and the store of `ready`, which says that a session
 * stands here and is to do that run. `ready` 0: there is no session. `over` says that the run is done with, and why.
 */
struct board_record {
	uint64_t magic;        /* BOARD_RECORD_MAGIC, which no log has in it: ids are below 2^24 */
	uint32_t version;      /* BOARD_RECORD_VERSION */
	uint32_t capacity;     /* tokens that the log has room for */
	uint64_t offset;       /* of this record in its segment */
	uint64_t owner;        /* a uid, or an API key's number */
	uint64_t generation;   /* rises each time the session changes; the newest copy wins */
	uint64_t used;         /* clock_ns of the last op */
	uint64_t started;      /* order of the runs' beginnings */
	uint64_t first_seed;   /* the reply to the op that made the session, to be given again */
	uint32_t first_given, first_cached, first_cursor;
	uint32_t name_length, request_length;
	char name[BOARD_NAME];
	char request[BOARD_REQUEST]; /* request_id of the op that created the session */

	_Atomic uint32_t ready; /* the run whose terms stand below; publishes them. 0: no session */
	_Atomic uint32_t run;   /* the run that terms are being written for: beyond `ready`, they are not whole */
	_Atomic uint32_t over;  /* {run, reason}: this run has ended, or (reason 0) never was one */

	/* Terms of the run. */
	uint32_t flags;        /* enum board_record_flags */
	uint32_t n_given;      /* text and stops count from this position */
	uint32_t n_from;       /* tokens in the log when the run was published, >= n_given (a fork in mid-run has more) */
	uint32_t n_end;        /* the run ends when n_tokens reaches it */
	uint32_t kv_from;      /* n_kv when the run was published, <= n_from */
	uint32_t n_cached;     /* tokens that needed no computing when the run began */
	uint32_t n_tokens;     /* engine, while the run goes on */
	struct board_params params;
	uint32_t n_stops, n_biases;
	uint8_t stop_length[BOARD_STOPS];
	char stops[BOARD_STOPS][BOARD_STOP_BYTES];
	/* Not kept in `undo`: nothing but the next token depends on what follows, and the request that was cut writes it again. */
	struct board_bias biases[BOARD_BIASES];
	uint32_t failed;       /* not 0: the engine died of this run alone, twice: the signal, or BOARD_FAILED_LATE */
	uint32_t priority;     /* enum board_priority */
	uint8_t undo[608];     /* the terms before board_record_begin() */
	uint64_t probs_offset; /* of its log-probabilities in its segment, 0 in records written before there were any */
};
#define BOARD_RECORD_MAGIC UINT64_C(0x3153455343464c46) /* "FLFCSES1" */
#define BOARD_RECORD_VERSION 1u
static_assert(offsetof(struct board_record, owner) == 24, "board_record.owner");
static_assert(offsetof(struct board_record, first_seed) == 56, "board_record.first_seed");
static_assert(offsetof(struct board_record, name) == 84, "board_record.name");
static_assert(offsetof(struct board_record, ready) == 212, "board_record.ready");
static_assert(offsetof(struct board_record, flags) == 224, "board_record.flags");
static_assert(offsetof(struct board_record, n_tokens) == 248, "board_record.n_tokens");
static_assert(offsetof(struct board_record, params) == 256, "board_record.params");
static_assert(offsetof(struct board_record, stop_length) == 304, "board_record.stop_length");
static_assert(offsetof(struct board_record, stops) == 312, "board_record.stops");
static_assert(offsetof(struct board_record, biases) == 824, "board_record.biases");
static_assert(offsetof(struct board_record, undo) == 1344, "board_record.undo");
static_assert(offsetof(struct board_record, probs_offset) == 1952, "board_record.probs_offset");
enum {
	BOARD_RECORD_SIZE = 2048,
	BOARD_TERMS = offsetof(struct board_record, biases) - offsetof(struct board_record, flags), /* bytes that undo keeps */
};
static_assert(sizeof(struct board_record) <= BOARD_RECORD_SIZE && BOARD_TERMS <= 608, "board_record");

/*
 * One entry of the rows ring: what a score run has to say of positions [first, first + count). The engine publishes it by
 * ring_head, before the progress that passes these positions; an engine that starts anew may publish them again, so falcond
 * drops what it has already. payload: float32.
 *	without BOARD_ROWS: count values, ln p(token first+i+1 | all before); nothing is said after the last token
 *	with BOARD_ROWS:    count is 1: n_vocab logits of position first, then ln p(token first+1 | ...) (0 after the last)
 *	with BOARD_HIDDEN:  count rows of n_embd: the last hidden states, after the output norm
 */
struct board_row {
	uint32_t slot, run;
	uint32_t first, count;
	/* payload follows, board_payload() floats at most */
};
static_assert(sizeof(struct board_row) == 16, "board_row");

struct board_header {
	/* falcond, constant once an engine runs */
	uint64_t magic;
	uint32_t abi;
	uint32_t features;
	uint8_t set_id[16];
	uint8_t fingerprint[16]; /* state fingerprint: image, arithmetic version, kv type, page size, dense */
	uint32_t n_slots;
	uint32_t n_context;   /* tokens a session may have */
	uint32_t n_table;     /* entries of one page table: ceil(n_context / 32); board_page() says where */
	uint32_t ring_stride; /* bytes of one ring entry */
	uint64_t words_offset, tables_offset, ring_offset, logs_offset;
	uint64_t log_stride;  /* bytes of one record and log, a multiple of 4,096 */
	uint64_t size;
	uint64_t created;     /* CLOCK_REALTIME ns: of two sets the younger counts */
	uint64_t memory;      /* `memory` of the configuration that it was made by */
	double huge_share;    /* of the weights, in huge pages, when they were packed */
	uint64_t probs_offset;
	uint64_t probs_stride; /* bytes of one slot's log-probabilities, a multiple of 4,096 */
	uint8_t pad0[256 - 152];

	/* falcond, changing */
	_Atomic uint32_t n_used;    /* slots ever used: the engine scans [0, n_used) */
	uint32_t chunk_ms;          /* time budget of a step's prefill, milliseconds */
	_Atomic uint64_t ring_tail; /* entries that falcond has taken */
	_Atomic uint32_t trial;     /* not 0: only slots whose `trial` is this number are computed */
	uint32_t speculate;         /* enum board_speculate */
	_Atomic uint64_t adoptions; /* board_adoptions(): falconds that began to adopt this board since it last served well */
	_Atomic uint64_t names;     /* numbers of sessions without a name that may have been given out, rounded up */
	uint8_t pad1[256 - 40];

	/* engine */
	_Atomic uint64_t ring_head;     /* entries published */
	_Atomic uint64_t step;          /* number of the step in progress or last done; odd while in progress */
	_Atomic uint64_t step_started;  /* CLOCK_MONOTONIC ns of the step in progress */
	_Atomic uint64_t tokens_prefill, tokens_decode; /* counters, over all engines */
	_Atomic uint32_t batch_max;     /* most sessions in one step */
	_Atomic uint32_t n_suspects;    /* slots in the step in progress: the suspects if the engine dies */
	uint32_t suspects[BOARD_BATCH];
	_Atomic uint32_t ready;         /* pid of the engine that has mapped everything and scans */
	uint32_t threads;               /* published by ready */
	char isa[16];                   /* published by ready: the kernels' instruction set */
	_Atomic uint64_t step_expected; /* ns that the engine expects the step in progress to take; published by step */
};
static_assert(offsetof(struct board_header, n_slots) == 48, "board_header.n_slots");
static_assert(offsetof(struct board_header, size) == 104, "board_header.size");
static_assert(offsetof(struct board_header, created) == 112, "board_header.created");
static_assert(offsetof(struct board_header, n_used) == 256, "board_header.n_used");
static_assert(offsetof(struct board_header, trial) == 272, "board_header.trial");
static_assert(offsetof(struct board_header, adoptions) == 280, "board_header.adoptions");
static_assert(offsetof(struct board_header, ring_head) == 512, "board_header.ring_head");
static_assert(offsetof(struct board_header, step_expected) == 1608, "board_header.step_expected");
static_assert(sizeof(struct board_header) <= 4096, "board_header");

enum { BOARD_FIXED = offsetof(struct board_header, pad0) }; /* bytes of the header that are constant once an engine runs */

/*
 * A mapped board: what was computed and copied once from a checked header. Nobody goes by the numbers that stand there later: an
 * engine gone mad may have written over them.
 */
struct board {
	struct board_header *header;
	struct board_words *words; /* [n_slots] */
	uint32_t *tables;          /* [n_table / BOARD_BLOCK, rounded up][n_slots][BOARD_BLOCK] page numbers, falcond's */
	uint8_t *ring;             /* [BOARD_RING][ring_stride] */
	uint8_t *logs;             /* [n_slots][log_stride] */
	uint8_t *probs;            /* [n_slots][probs_stride] */
	int fd;                    /* of the segment, where it reserves */
	bool reserves;             /* the segment is a file of a tmpfs, which may be full: memory is taken before it is written to */
	uint32_t n_slots, n_context, n_table, ring_stride;
	uint64_t log_stride, probs_stride;
	uint8_t fixed[BOARD_FIXED];
};

/* Fills the constant part of a header (set id and fingerprint are the caller's). */
void board_plan(uint32_t n_slots, uint32_t n_context, uint32_t n_vocab, struct board_header *ret);

/*
 * The state fingerprint: what keys, values and next tokens depend on besides a session's own record. image: the weights'
 * fingerprint; dense: 0 exact, 1 openblas. Segments of another fingerprint are good for their token logs alone.
 */
void board_fingerprint(const uint8_t image[16], uint32_t kv, uint32_t dense, uint8_t ret[16]);

/* Checks the header of a segment of `size` bytes mapped at base and computes the pointers. 0 or -EINVAL. */
int board_open(void *base, uint64_t size, struct board *ret_board, struct err *e);

static inline struct board_record *board_record(const struct board *b, uint32_t slot)
{
	return (struct board_record *)(void *)(b->logs + b->log_stride * slot);
}

static inline int32_t *board_log(const struct board *b, uint32_t slot)
{
	return (int32_t *)(void *)(b->logs + b->log_stride * slot + BOARD_RECORD_SIZE);
}

/*
 * Entry `place` of a slot's page table. The first blocks of all slots come first, then the second ones: so a short session has no
 * memory for what its table might have in a long context, which shared memory would else give to it with its neighbour's.
 */
static inline uint32_t *board_page(const struct board *b, uint32_t slot, uint32_t place)
{
	return b->tables + ((size_t)(place / BOARD_BLOCK) * b->n_slots + slot) * BOARD_BLOCK + place % BOARD_BLOCK;
}

static inline struct board_row *board_row(const struct board *b, uint64_t index)
{
	return (struct board_row *)(void *)(b->ring + (size_t)b->ring_stride * (index % BOARD_RING));
}

/* Floats that an entry of the rows ring has room for. */
static inline uint32_t board_payload(const struct board *b)
{
	return (b->ring_stride - (uint32_t)sizeof(struct board_row)) / (uint32_t)sizeof(float);
}

/*
 * falcond's, where `reserves`: takes the memory of a slot with a log of n_tokens, or of the rows ring; a store there would otherwise
 * end whoever makes it (SIGBUS). 0 or -errno: there is none.
 */
int board_reserve(const struct board *b, uint32_t slot, uint32_t n_tokens);
int board_reserve_ring(const struct board *b);
int board_reserve_probs(const struct board *b, uint32_t slot, uint64_t bytes); /* of the slot's log-probabilities */

/* falcond's: the constant part of the header as it was, for the next engine to find. */
void board_repair(const struct board *b);

/* How far a session is: its progress if the engine has taken the run that `want` names, else where the run starts. */
uint64_t board_effective(const struct board *b, uint32_t slot);

/* What follows writes the terms of `run`: keeps those that stand there. Nothing is kept twice for one run. */
void board_record_begin(struct board_record *r, uint32_t run);

/* The terms that stood there before a write which was cut short (run beyond ready). */
void board_record_undo(struct board_record *r);

/*
 * What the engine reads of a record whose run was published: the session's name and owner and the run's terms, which stay as they
 * are until it is over. The rest, left 0, is falcond's, which may be writing it now.
 */
void board_record_read(const struct board *b, uint32_t slot, struct board_record *ret);

/* The count of adoptions in its word, which carries its own complement so that a damaged one counts as 0. */
static inline uint32_t board_adoptions(uint64_t word) { return (uint32_t)word == ~(uint32_t)(word >> 32) ? (uint32_t)word : 0; }
static inline uint64_t board_adoptions_word(uint32_t count) { return (uint64_t)~count << 32 | count; }

/*
 * Checks a record against the board's limits (lengths, counts, positions, finite parameters), whoever wrote it.
 * 0 or -EINVAL with the field's name.
 */
int board_record_check(const struct board *b, const struct board_record *record, uint32_t n_vocab, struct err *e);

#endif
