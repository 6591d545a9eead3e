/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP for those who speak it already: OpenAI's API. It is one more client of the protocol (ipc/protocol.h),
 * inside falcond: every route asks for operations and shapes what they answer, so that HTTP can do nothing that the socket
 * cannot, and whoever asks has the rights of his uid or key and no others. Knows nothing of sessions, segments or the engine.
 *
 * libmicrohttpd does the HTTP, driven by the caller's loop; no thread is started.
 */
#ifndef FALCON_HTTP_HTTP_H
#define FALCON_HTTP_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/err.h"
#include "base/mem.h"

struct http;

/* Takes a reply and its reference, later or at once; NULL: falcond stops. */
typedef void http_answer(void *arg, json_t *reply);

/* What a client may take up. Those that are slow, half-open or many are cut off by these and hold nobody else up. */
struct http_limits {
	unsigned connections;     /* open at once, at one address; */
	unsigned connections_uid; /* of them of one uid, where a connection tells it, that is, on Unix sockets */
	unsigned idle_s;          /* that a client may say or take nothing */
	unsigned request_s;       /* that he may take to send a request, head and body */
	size_t head_bytes;        /* of a request line and headers */
};
extern const struct http_limits http_limits; /* the usual ones */

struct http_options {
	uv_loop_t *loop;
	const char *listen;    /* addresses with blanks between: unix:PATH, 127.0.0.1:PORT, [::1]:PORT */
	const char *keys;      /* file of API keys for TCP, or NULL */
	uint32_t mode;         /* of unix sockets */
	gid_t group;           /* of unix sockets, (gid_t)-1: as it is */
	const int *handed;     /* [n_handed] listening sockets that somebody handed over, served besides; they are duplicated */
	unsigned n_handed;
	unsigned hold_ms;      /* that a request at one of these waits for http_ready(); at an address it is refused at once */
	const char *unready;   /* what it is told then; a constant */
	uint64_t max_bytes;    /* of a body */
	struct http_limits limits;
	bool (*admin)(void *arg, uid_t uid);
	void (*ask)(void *arg, uint64_t owner, bool admin, json_t *request, http_answer *answer, void *answer_arg);
	void (*metrics)(void *arg, struct buf *out); /* appends all in Prometheus' text format */
	/* A token's bytes, and whether they are part of a text; NULL: the model has no tokenizer. */
	const char *(*token)(void *arg, int32_t id, size_t *ret_length, bool *ret_is_text);
	void *arg;
};

/* Checks addresses without opening them, for `falcond --check`. 0 or -EINVAL. */
int http_check(const char *listen, struct err *e);

/* Whether a descriptor is a socket that `handed` may have. 0, -ENOTSOCK: it does not listen; -EINVAL: other machines reach it. */
int http_check_handed(int fd, struct err *e);

/* Opens the sockets. Until http_ready() all that needs a model answers 503, or waits. 0 or -errno. */
int http_open(const struct http_options *o, struct http **ret, struct err *e);

/* From here on requests are served. model and context as `hello` says. */
void http_ready(struct http *h, const char *model, uint32_t context);

/* Something happened that those who watch events want to know: its name, a constant. */
void http_tell(struct http *h, const char *what);

/*
 * Closes the sockets and lets go of every client, in mid-answer too; who waits for a model is told why, a constant. What was
 * asked is still answered to it: run the loop until http_stopped(), then free it by http_free().
 */
void http_stop(struct http *h, const char *why);
bool http_stopped(const struct http *h);
void http_free(struct http *h); /* NULL too */

#endif
