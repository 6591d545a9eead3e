/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: names, request ids, owners and order of use. What must outlive falcond stands in the session's record on the board;
 * struct session is its shadow, in private memory. daemon/run.h moves a session through its runs.
 */
#ifndef FALCON_DAEMON_SESSION_H
#define FALCON_DAEMON_SESSION_H

#include <sys/queue.h>

#include "daemon/arena.h"
#include "daemon/owner.h"
#include "daemon/prefix.h"
#include "daemon/scores.h"
#include "daemon/stream.h"
#include "shm/board.h"
#include "shm/survey.h"

#define SESSION_MAGIC 0x53455353u

enum session_state {
	SESSION_IDLE,    /* no run, or the last one is over */
	SESSION_RUNNING,
	SESSION_PAUSED,  /* nobody reads it */
	SESSION_WAITING, /* it goes on when there are pages for it */
	SESSION_FOLLOWING, /* another session computes the beginning of its text (share.h) */
	SESSION_STATES
};

struct request;
struct spill_job;

/* metrics.c's: of the run */
struct session_metered {
	uint64_t asked_at, told_at; /* clock_ns: accepted; the last token that was seen, 0: none */
	uint32_t n_tokens;          /* that were seen */
	bool waits;                 /* nothing of it is computed yet */
};

struct session {
	uint32_t magic;
	uint32_t slot, run;        /* run: as `want` names it */
	enum session_state state;
	bool published;            /* the engine may hold the run: `want` is RUN, PAUSE or CANCEL, or DONE was answered */
	bool releasing;            /* `want` is CLOSE: pages are ours again at CLOSED */
	bool dropped;              /* freed at CLOSED; nobody finds it by name any more */
	bool cancelling;           /* the run ends when the engine has answered: DONE, or CLOSED where pages are being taken */
	bool is_new;               /* nothing of its run was published yet */
	bool starved;              /* it cannot go on without another page */
	struct owner *owner;
	char name[BOARD_NAME + 1], request[BOARD_REQUEST + 1];
	uint8_t name_length, request_length;

	/* The run, and how far it was when the board was looked at last. */
	uint32_t flags;            /* enum board_record_flags */
	uint32_t n_given, n_end;
	uint32_t n_tokens, n_kv;
	uint32_t n_pages;          /* granted entries of the page table */
	uint32_t n_cached;         /* tokens that needed no computing when the run began */
	uint32_t n_shared;         /* full pages that have been put into the index, and the key of the last one */
	struct prefix_key chain;
	uint32_t leader, leader_run, n_coming; /* following: slot and run, until it has passed so many pages */
	enum board_reason finish;  /* of the last run; 0: none */
	uint32_t failed;           /* not 0: the engine died of it alone, twice: as the record says */
	uint32_t room;             /* tokens that its log has memory for, where that is taken ahead (board_reserve) */
	uint64_t started;          /* number of the run's beginning: lower goes first when pages are scarce */
	uint64_t queued, reserved, probs; /* what the owner's counters hold of it */

	/* The reply to the op that made it, to be given again. */
	uint32_t first_given, first_cached, first_cursor;
	uint64_t first_seed;

	/* Its file in the state folder (spill.h). */
	struct spill_job *job;     /* that reads or writes it */
	bool loading;              /* job reads it into the session's pages */
	bool disk_unfinished;
	uint32_t disk_tokens, disk_kv; /* tokens that the file has, and positions with keys and values */
	uint64_t disk_generation;  /* of the record in it; 0: there is no file */

	uint64_t used_at, read_at; /* clock_ns of the last op, and of the last `next` */
	struct session_metered metered;
	struct stream stream;
	struct scores scores;      /* score runs */
	TAILQ_HEAD(request_list, request) waiters; /* requests that wait for it to go on */

	struct session *next_name, *next_request; /* hash chains */
	TAILQ_ENTRY(session) use;    /* order of last use */
	TAILQ_ENTRY(session) active; /* those that the board is looked at for */
	bool is_active;
};

TAILQ_HEAD(session_list, session);

struct sessions {
	struct board board;
	struct arena *arena;
	struct prefix prefix;       /* of the arena */
	uint32_t n_vocab, n_embd;
	int wake_engine;            /* eventfd */
	struct session **slots;     /* [n_slots], NULL: free */
	uint32_t *free_slots;       /* [n_free] stack, low ones on top at first */
	uint32_t n_free, n_slots;
	uint32_t n_sessions;        /* not dropped */
	uint32_t n_buckets;         /* a power of two */
	struct session **by_name, **by_request;
	struct session_list used;   /* least recently used first */
	struct session_list active;
	uint32_t n_waiting, n_following; /* SESSION_WAITING, SESSION_FOLLOWING */
	bool draining;              /* no run is published any more */
	bool unsettled;             /* pages may be had that could not before: run.c looks who needs some */
	uint64_t next_started;
	uint64_t first_number;      /* names without a number below were given out by earlier falconds */
	uint64_t cached, generated; /* tokens, ever */
	uint64_t begun, begun_cached; /* sessions with a prompt of their own, ever; those that needed not all of it computed */
	void (*changed)(void *arg, struct session *s); /* progress, or the end of a run */
	void (*gone)(void *arg, struct session *s);    /* dropped: its waiters must be answered */
	/* NULL without a state folder. */
	void (*save)(void *arg, struct session *s);    /* its pages are about to be dropped */
	void (*load)(void *arg, struct session *s);    /* it has pages for disk_kv positions; run_loaded() says that they are filled */
	void *arg;
};

/* board, arena, n_vocab, n_embd, wake_engine, changed, gone and arg are set by the caller. */
void sessions_init(struct sessions *t);
/* After sessions were adopted: the slots that have none are free, with nothing left in them. */
void sessions_adopted(struct sessions *t);
void sessions_done(struct sessions *t); /* frees every session; the board is left as it is */

struct session *session_find(const struct sessions *t, const struct owner *o, const char *name, size_t length);
struct session *session_find_request(const struct sessions *t, const struct owner *o, const char *request, size_t length);

/*
 * A new session in a free slot, with an empty record on the board and the name and request id in it. name NULL: a name like ~7.
 * NULL if there is no slot, or no memory. The caller fills the rest and starts it, or drops it.
 */
struct session *session_new(struct sessions *t, struct owner *o, const char *name, size_t name_length, const char *request,
			    size_t request_length);

/*
 * The session that stands whole in its own slot, as a survey of the board found it: everything of struct session but its runs,
 * which run_adopt() goes on with. The record is made whole where falcond was killed while it wrote it.
 */
struct session *session_adopt(struct sessions *t, struct owner *o, const struct survey_session *found);

/*
 * A session of a record and its log from elsewhere (another board, a file), in a free slot and without pages. The record was
 * checked against the board; its n_tokens ids need not be aligned, nor the entries of its log-probabilities, if its flags say that it
 * has some (NULL: they are lost, and so are those of its next tokens). NULL if there is no slot, or no memory. It is there, for a
 * falcond that starts anew, once run_rest(), run_hold() or run_start() has it.
 */
struct session *session_restore(struct sessions *t, struct owner *o, const struct board_record *from, const void *ids,
				const void *probs, uint32_t n_tokens);

/*
 * Counts what log-probabilities of a run with these flags may need for tokens [first, end), and takes memory for them where that is
 * taken ahead; until the session is forgotten, since a later run stands in the same place. False: there is no memory.
 */
bool session_take_probs(const struct sessions *t, struct session *s, uint32_t flags, uint32_t first, uint32_t end);

/* Takes memory for a log of n_tokens and a little more. False: there is none. */
bool session_room(const struct sessions *t, struct session *s, uint32_t n_tokens);

/* The number that the owner's next session without a name will be called by. */
uint64_t session_number(const struct sessions *t, const struct owner *o);

/* The number that the session's next run will have. */
uint32_t session_next_run(const struct sessions *t, const struct session *s);

/* Takes it out of names, counts and order; what run.c calls when it closes. */
void session_forget(struct sessions *t, struct session *s);
/* Gives the slot back; the engine has let go of it and its pages are dropped. */
void session_free(struct sessions *t, struct session *s);

/* It was used now. */
void session_touch(struct sessions *t, struct session *s);

static inline bool session_anonymous(const struct session *s) { return s->name[0] == '~'; }
static inline bool session_running(const struct session *s) { return s->state != SESSION_IDLE; }
/* Positions whose keys and values need no computing: they are in memory, or in its file. */
static inline uint32_t session_known(const struct session *s)
{
	return s->n_pages > 0 && !s->releasing && !s->loading ? s->n_kv : s->disk_kv;
}
const char *session_state_name(const struct session *s);
const char *session_where(const struct session *s); /* its keys and values: memory, disk, or log: to be computed from there */

/* What happened to a session that has failed. */
enum { SESSION_FAILURE = 160 };
void session_failure(const struct session *s, char ret_text[SESSION_FAILURE]);

#endif
