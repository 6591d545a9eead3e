/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions in the state folder: written when falcond stops, when they have long been idle, and when others need their pages;
 * found again at the next start by their heads alone, which go to the board; their pages are read back when a run needs them.
 * All reading and writing is done in libuv's threads.
 *
 * A job has what it needs of its session: a copy of record and log, and pins on the pages (daemon/arena.h), so the session may
 * go on, or be dropped, meanwhile. Files are written and removed one after the other, in the order in which that was asked
 * for; they are read beside that.
 */
#ifndef FALCON_DAEMON_SPILL_H
#define FALCON_DAEMON_SPILL_H

#include <uv.h>

#include "daemon/session.h"
#include "daemon/spill_file.h"
#include "daemon/store.h"

struct spill_job;
TAILQ_HEAD(spill_queue, spill_job);

struct spill_lane {
	struct spill_queue queue;
	uint32_t running, width;
};

struct spill {
	bool enabled;              /* there is a state folder */
	uv_loop_t *loop;
	struct sessions *sessions;
	struct owners *owners;
	struct spill_model model;
	int folder;
	struct spill_lane writes, reads;
	bool all;                  /* spill_all() was asked for: what cannot be clean yet is written when it can */
	bool engine_gone;          /* nothing on the board changes any more */
	bool with_pages;
	uint64_t failed_at;        /* clock_ns of the last failure; 0: the last one succeeded */
	uint64_t written, read, failed; /* sessions, ever */
	char error[384];           /* of the last failure */
	void (*idle)(void *arg);   /* the last job is done */
	void *arg;
};

/* loop, sessions, owners, idle and arg are set; without spill_open() there is no folder, but copies can be had. */
void spill_init(struct spill *p, const struct store *store);

/* Opens the state folder for this model. 0 or -errno. */
int spill_open(struct spill *p, const char *folder, struct err *e);
void spill_close(struct spill *p); /* no job may be under way; a zeroed one is fine */

/*
 * Makes sessions of the folder's files. One that is there already, by the board, wins unless its file is newer; a file that is
 * no good session is put aside with a message.
 */
int spill_scan(struct spill *p, struct err *e);

/* Hooks of struct sessions: see there. */
void spill_save(struct spill *p, struct session *s);
void spill_load(struct spill *p, struct session *s);
void spill_forget(struct spill *p, struct session *s);

/* Once a second: writes what has been idle for `after` seconds (0: never), or what is idle while pages run short. */
void spill_tick(struct spill *p, uint64_t after);

/* Writes every session that its file does not have as it is, with or without pages. spill_busy() says when that is done. */
void spill_all(struct spill *p, bool with_pages, bool engine_gone);

static inline bool spill_busy(const struct spill *p)
{
	return p->writes.running > 0 || p->reads.running > 0 || !TAILQ_EMPTY(&p->writes.queue) || !TAILQ_EMPTY(&p->reads.queue);
}

/* Sessions that their file does not have as they are. */
uint32_t spill_unsaved(const struct spill *p);

/*
 * A session as it is now, to be written by a thread: a copy of record and log, and pins on pages in memory; pages that its file
 * alone has are taken from there.
 */
struct spill_copy {
	struct spill *spill;
	uint64_t owner;
	char name[BOARD_NAME + 1];
	uint8_t *head;
	size_t head_bytes;
	uint64_t generation;
	uint32_t n_tokens, n_kv;
	bool unfinished;
	uint32_t *table;           /* [n_pages] pinned; NULL: pages come from the file */
	uint32_t n_pages;
};

/* In the loop, both. */
void spill_copy_init(struct spill_copy *c, struct spill *p, const struct session *s, bool with_pages);
void spill_copy_done(struct spill_copy *c);

/* In a thread: writes it to an empty file. */
int spill_copy_write(struct spill_copy *c, int fd, uint32_t *ret_kv, struct err *e);

/* An empty file without a name: in the state folder, or in memory if there is none. The descriptor or -errno. */
int spill_scratch(const struct spill *p, struct err *e);

/* Fills what a head says beside record and log. */
void spill_take_head(struct session *s, const struct spill_head *head);

/*
 * Reads the pages of another file into a session without any, if there is room for them; takes the descriptor. Its next run waits
 * for them.
 */
void spill_load_from(struct spill *p, struct session *s, int fd, uint32_t n_kv);

#endif
