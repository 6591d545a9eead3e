/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libfalcon: a client of falcond in C. A connection reconnects by itself; every call may be lost and is sent again, and the
 * protocol is made so that this changes nothing.
 *
 *	struct falcon *f = falcon_open(NULL, 0, NULL);
 *	struct falcon_request *r = falcon_request_new();
 *	struct falcon_run run;
 *	struct falcon_piece piece = {0};
 *
 *	falcon_set_text(r, "prompt", "Once upon a time", 16, NULL);
 *	falcon_set_int(r, "n", 40, NULL);
 *	if (falcon_generate(f, r, &run, NULL) == 0)
 *		while (!piece.done && falcon_next(f, run.session, &run.cursor, 30000, &piece, NULL) == 0)
 *			fwrite(piece.text, 1, piece.text_length, stdout);
 *
 * Functions return 0, or -1 with *e filled (e may be NULL). A setter's error is also kept in the request and told by the call
 * that sends it, so setters need no checking one by one. What a call returns by pointer belongs to the connection and is
 * valid until the next call on it. A connection is used by one thread at a time; open one a thread.
 */
#ifndef FALCON_H
#define FALCON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FALCON_API __attribute__((visibility("default")))

/*
 * What went wrong. `code` is one of the protocol's (docs/PROTOCOL.md: bad_request, no_session, busy ...) or of the library's:
 * no_daemon (nobody answers at the address), lost (the daemon has been away for 60 s), interrupted (see falcon_watch),
 * bad_reply (not what the protocol says).
 */
struct falcon_error {
	char code[24];
	char message[384]; /* one line, no final period, UTF-8 */
	char hint[256];    /* what to do about it; may be empty */
};

struct falcon;

/*
 * Connects. url: ipc://PATH, or NULL for $FALCOND_SOCKET, else the system's socket. Waits at most wait_ms for a daemon that
 * is not there yet. NULL with *e filled on failure.
 */
FALCON_API struct falcon *falcon_open(const char *url, uint32_t wait_ms, struct falcon_error *e);
FALCON_API void falcon_close(struct falcon *f); /* NULL is fine; sessions stay in the daemon */

/*
 * A call that waits ends with the error `interrupted` once poll(2) reports `events` (POLLIN ...) or an error on fd: a
 * signal's pipe, an output whose reader has gone. At most 4 are watched; fd -1 forgets all of them. An interrupted call may
 * have been carried out or not; sent again with the same request it is carried out once.
 */
FALCON_API void falcon_watch(struct falcon *f, int fd, short events);

/* What the daemon said when the connection was opened. */
struct falcon_hello {
	char version[32];
	char model[256];
	uint32_t context; /* tokens */
	uint32_t vocab;   /* tokens */
	size_t message;   /* largest message, bytes */
	uint64_t uid;     /* of the caller, as the kernel told the daemon */
	bool admin;
};
FALCON_API const struct falcon_hello *falcon_hello(const struct falcon *f);

/*
 * The fields of a request, by the protocol's names: "prompt", "n", "temp" ... A request may be changed and sent again; it
 * keeps its request_id until falcon_request_again(), so that a session is not made twice by accident.
 */
struct falcon_request;
FALCON_API struct falcon_request *falcon_request_new(void);
FALCON_API void falcon_request_free(struct falcon_request *r);  /* NULL is fine */
FALCON_API void falcon_request_again(struct falcon_request *r); /* what follows is a new request */
FALCON_API int falcon_set_text(struct falcon_request *r, const char *field, const char *text, size_t length, struct falcon_error *e);
FALCON_API int falcon_set_int(struct falcon_request *r, const char *field, int64_t value, struct falcon_error *e);
FALCON_API int falcon_set_real(struct falcon_request *r, const char *field, double value, struct falcon_error *e);
FALCON_API int falcon_set_bool(struct falcon_request *r, const char *field, bool value, struct falcon_error *e);
FALCON_API int falcon_set_ids(struct falcon_request *r, const char *field, const int32_t *ids, size_t n, struct falcon_error *e);
FALCON_API int falcon_add_stop(struct falcon_request *r, const char *text, size_t length, struct falcon_error *e);
FALCON_API int falcon_add_bias(struct falcon_request *r, int32_t id, double bias, struct falcon_error *e);

/* One message of a conversation, "system", "user" or "assistant", behind those added before: "messages", instead of a prompt. */
FALCON_API int falcon_add_message(struct falcon_request *r, const char *role, const char *text, size_t length, struct falcon_error *e);

/* A run that has been started. */
struct falcon_run {
	char session[96];
	uint32_t cursor;   /* where its output begins: falcon_next() moves it */
	uint32_t n_given;  /* tokens of the prompt, with all before it */
	uint32_t n_cached; /* of these, already computed */
	uint64_t seed;
};

/* Makes a session ("session" of the request: its name; without one the daemon names it) and starts a run. */
FALCON_API int falcon_generate(struct falcon *f, struct falcon_request *r, struct falcon_run *ret, struct falcon_error *e);

/* Puts the prompt at position `at`, the end of a session, and starts its next run; a request without one goes on from there. */
FALCON_API int falcon_append(struct falcon *f, const char *session, uint32_t at, struct falcon_request *r, struct falcon_run *ret,
			     struct falcon_error *e);

/* What came after a cursor. */
struct falcon_piece {
	const char *text; /* whole UTF-8 characters, NUL bytes possible; a NUL follows */
	size_t text_length;
	const int32_t *ids;
	size_t n_ids;
	uint32_t computed; /* tokens of the session that are computed: how far a prompt is read */
	bool done;
	char finish[16]; /* with done: stop, eos, length, context, cancelled, error */
	/*
	 * Of a run with the request's "logprobs": ln p(ids[i], given all before it), NaN where there is none. Of a session made by
	 * falcon_score(): [i] of the token at position first + i + 1.
	 */
	const double *logprobs; /* [n_logprobs] */
	size_t n_logprobs;
	uint32_t first;
	const float *rows; /* [n_rows][vocab] logits, if they were asked for; row i is what follows position first + i */
	size_t n_rows;
	/* Of a run with "logprobs" above 0: the likeliest tokens in the place of ids[i] are top[i * n_top] and so on. */
	const struct falcon_likely { int32_t id; double logprob; } *top; /* [n_ids][n_top]; id -1: the vocabulary has no more */
	size_t n_top;
};

/* Waits at most wait_ms (30000 at most) for something after *cursor, and moves *cursor behind it. Nothing is no error. */
FALCON_API int falcon_next(struct falcon *f, const char *session, uint32_t *cursor, uint32_t wait_ms, struct falcon_piece *ret,
			   struct falcon_error *e);

/* Ends the run; what is there can still be read. ret_cursor (or NULL): the session's end. */
FALCON_API int falcon_cancel(struct falcon *f, const char *session, uint32_t *ret_cursor, struct falcon_error *e);

/* Ends the session. ret_dropped (or NULL): whether there was one. */
FALCON_API int falcon_drop(struct falcon *f, const char *session, bool *ret_dropped, struct falcon_error *e);

/* A second session with the same tokens. r: its name as "new", its "seed"; session and cursor of *ret are filled. */
FALCON_API int falcon_fork(struct falcon *f, const char *session, struct falcon_request *r, struct falcon_run *ret,
			   struct falcon_error *e);

/* Token ids of a text, and back. special: whether names of special tokens in the text mean those tokens. */
FALCON_API int falcon_tokenize(struct falcon *f, const char *text, size_t length, bool special, const int32_t **ret_ids,
			       size_t *ret_n, struct falcon_error *e);
FALCON_API int falcon_detokenize(struct falcon *f, const int32_t *ids, size_t n, const char **ret_text, size_t *ret_length,
				 struct falcon_error *e);

/* Scores the request's "prompt" or "ids" ("rows": with logits); read it by falcon_next() from cursor 0. */
FALCON_API int falcon_score(struct falcon *f, struct falcon_request *r, struct falcon_run *ret, uint32_t *ret_n_tokens,
			    struct falcon_error *e);

/*
 * The request's "prompt" or "ids" as a vector: the mean of the last hidden states (after the output norm) of its tokens, not scaled to
 * any length. *ret_embedding: [*ret_n] numbers; ret_n_tokens (or NULL): how many tokens the text has.
 */
FALCON_API int falcon_embed(struct falcon *f, struct falcon_request *r, const float **ret_embedding, size_t *ret_n,
			    uint32_t *ret_n_tokens, struct falcon_error *e);

/*
 * A session as a file (docs/STATE.md), in parts that `take` is given in order; without `pages` it is small, and whoever imports it
 * computes again. take returns 0, or another number to give up, which is returned; a session that generates cannot be exported.
 */
FALCON_API int falcon_export(struct falcon *f, const char *session, bool pages, int (*take)(void *arg, const void *bytes, size_t n),
			     void *arg, struct falcon_error *e);

/*
 * A session from such a file, under the name `session` or, if that is NULL, the file's. give fills `bytes` with at most n bytes and
 * returns how many; 0 at the end, -1 to give up. ret_session (or NULL): the session's name, ret_n_tokens (or NULL) its length.
 */
FALCON_API int falcon_import(struct falcon *f, const char *session, ptrdiff_t (*give)(void *arg, void *bytes, size_t n), void *arg,
			     char ret_session[96], uint32_t *ret_n_tokens, struct falcon_error *e);

/* Before a stop, for administrators: pauses all runs and, with `spill`, writes all sessions. How many there are, and were saved. */
FALCON_API int falcon_drain(struct falcon *f, bool spill, uint32_t *ret_sessions, uint32_t *ret_saved, struct falcon_error *e);

/* The protocol's JSON objects of `sessions` and `status`, NUL-terminated. */
FALCON_API int falcon_sessions(struct falcon *f, const char **ret_json, struct falcon_error *e);
FALCON_API int falcon_status(struct falcon *f, const char **ret_json, struct falcon_error *e);

/* For administrators: the daemon becomes the program that is installed now. What is asked next the new one answers. */
FALCON_API int falcon_upgrade(struct falcon *f, struct falcon_error *e);

#ifdef __cplusplus
}
#endif

#endif
