/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cooked REP with contexts: measured on nng 1.5.2, a raw REP socket loses replies beyond about 64 a pipe, contexts lose none.
 * A few contexts always wait for a request; when one has got it, another is put in its place, so that any number of requests
 * may be open. A context that has replied goes to a list of spares, since nng_aio_free() may not be called from the aio's own
 * callback; so the memory is that of the most requests that were ever open at once, some hundred bytes each.
 *
 *     spare -> receiving -> held (the receiver's) -> sending -> spare
 *
 * nng replaces a stale socket file and refuses a live one by itself.
 *
 * nng 1.5.2 has a fault that must be lived with (its issue 1518, cured in 1.6): a peer that connects and hangs up before it has
 * sent its greeting can end the listener's accepting for good, and no event tells. The listener's statistics do: `other` has
 * risen and nothing moves any more. A watch looks four times a second and opens the listener anew; its pipes are closed by
 * that, and every client connects and asks again, as it would after a restart.
 */
#include "ipc/endpoint.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/transport/ipc/ipc.h>

#include "base/check.h"
#include "base/mem.h"

enum {
	RECEIVERS = 4,          /* contexts that wait for a request at any time */
	SEND_TIMEOUT_MS = 30000, /* a peer that takes no replies for so long has lost them */
	LINGER_S = 1,           /* how long close waits for replies on their way */
	WATCH_MS = 250,         /* how often the listener is looked after; nng itself pauses 100 ms after an error */
};

/* Replies on their way, in bytes: beyond the first, a peer that has more than the second of them is cut off. */
#define UNSENT_MAX (64u << 20)
#define UNSENT_PEER_MAX (16u << 20)

enum request_state { SPARE, RECEIVING, HELD, SENDING };

#define REQUEST_MAGIC 0x52455155u
#define ENDPOINT_MAGIC 0x454e4450u

struct endpoint_request {
	uint32_t magic;
	enum request_state state; /* under the endpoint's lock */
	struct endpoint *ep;
	nng_ctx context;
	nng_aio *aio;
	nng_msg *message; /* while HELD */
	nng_pipe pipe;
	size_t unsent; /* bytes of the reply while SENDING */
	uid_t uid;
	struct endpoint_request *next_spare, *next_all;
};

struct endpoint {
	uint32_t magic;
	bool closing;
	struct endpoint_options options;
	nng_socket socket;
	nng_listener listener;
	pthread_mutex_t lock;
	pthread_cond_t sent; /* `sending` has fallen */
	size_t sending, unsent; /* replies on their way, and their bytes */
	struct endpoint_request *all, *spare;
	nng_aio *watch;
	bool listening, suspect; /* of the watch: the listener is open; an error has come since the last look but one */
	uint64_t errors, accepted; /* of the listener's statistics at the last look */
};

static const char *path_of(const char *url)
{
	return strncmp(url, "ipc://", 6) == 0 && url[6] != '\0' ? url + 6 : NULL;
}

static void on_aio(void *arg);

/* A context that stands still, new if there is no spare one. NULL if nng has no memory. With the lock. */
static struct endpoint_request *take_spare(struct endpoint *ep)
{
	struct endpoint_request *r = ep->spare;
	if (r != NULL) {
		ep->spare = r->next_spare;
		return r;
	}
	r = xcalloc(1, sizeof *r);
	if (nng_ctx_open(&r->context, ep->socket) != 0) {
		free(r);
		return NULL;
	}
	if (nng_aio_alloc(&r->aio, on_aio, r) != 0) {
		nng_ctx_close(r->context);
		free(r);
		return NULL;
	}
	r->magic = REQUEST_MAGIC;
	r->ep = ep;
	r->next_all = ep->all;
	ep->all = r;
	return r;
}

static void put_spare(struct endpoint_request *r)
{
	r->state = SPARE;
	r->next_spare = r->ep->spare;
	r->ep->spare = r;
}

/* Sets one more context to wait for a request. */
static int receive_another(struct endpoint *ep)
{
	pthread_mutex_lock(&ep->lock);
	struct endpoint_request *r = ep->closing ? NULL : take_spare(ep);
	if (r != NULL)
		r->state = RECEIVING;
	pthread_mutex_unlock(&ep->lock);
	if (r == NULL)
		return -ENOMEM;
	nng_aio_set_timeout(r->aio, NNG_DURATION_INFINITE);
	nng_ctx_recv(r->context, r->aio);
	return 0;
}

static void on_received(struct endpoint_request *r)
{
	struct endpoint *ep = r->ep;
	bool hand_over = false;
	int rc = nng_aio_result(r->aio);
	nng_msg *message = rc == 0 ? nng_aio_get_msg(r->aio) : NULL;
	pthread_mutex_lock(&ep->lock);
	if (message != NULL && !ep->closing) {
		uint64_t uid;
		bool known = nng_pipe_get_uint64(nng_msg_get_pipe(message), NNG_OPT_IPC_PEER_UID, &uid) == 0;
		r->uid = known ? (uid_t)uid : (uid_t)-1;
		r->pipe = nng_msg_get_pipe(message);
		r->message = message;
		r->state = HELD;
		hand_over = true;
	} else {
		put_spare(r);
	}
	pthread_mutex_unlock(&ep->lock);
	if (!hand_over)
		nng_msg_free(message);
	if (rc != NNG_ECLOSED)
		receive_another(ep);
	if (hand_over)
		ep->options.receive(ep->options.arg, r);
}

static void on_sent(struct endpoint_request *r)
{
	struct endpoint *ep = r->ep;
	if (nng_aio_result(r->aio) != 0)
		nng_msg_free(nng_aio_get_msg(r->aio)); /* it stays ours when the send fails */
	pthread_mutex_lock(&ep->lock);
	put_spare(r);
	ep->sending--;
	ep->unsent -= r->unsent;
	pthread_cond_broadcast(&ep->sent);
	pthread_mutex_unlock(&ep->lock);
}

static void on_aio(void *arg)
{
	struct endpoint_request *r = arg;
	CHECK_OBJ(r, REQUEST_MAGIC);
	if (r->state == SENDING)
		on_sent(r);
	else
		on_received(r);
}

static int nng_err(struct err *e, int rc, const char *url, const char *doing)
{
	if (rc == NNG_EADDRINUSE) {
		err_set(e, -EADDRINUSE, "%s: another process listens there", url);
		err_hint(e, "stop it, or choose another socket");
		return -EADDRINUSE;
	}
	int code = rc == NNG_ENOMEM ? -ENOMEM : rc == NNG_EPERM ? -EACCES : -EIO;
	if (rc & NNG_ESYSERR)
		code = -(rc & ~NNG_ESYSERR);
	return err_set(e, code, "%s: cannot %s: %s", url, doing, nng_strerror(rc));
}

static int listen_at(struct endpoint *ep, struct err *e)
{
	const struct endpoint_options *o = &ep->options;
	int rc = nng_socket_set_size(ep->socket, NNG_OPT_RECVMAXSZ, o->max_bytes);
	if (rc == 0)
		rc = nng_listener_create(&ep->listener, ep->socket, o->url);
	if (rc == 0)
		rc = nng_listener_set_int(ep->listener, NNG_OPT_IPC_PERMISSIONS, (int)o->mode);
	if (rc == 0)
		rc = nng_listener_start(ep->listener, 0);
	if (rc != 0) {
		nng_listener_close(ep->listener);
		return nng_err(e, rc, o->url, "listen");
	}
	if (o->group != (gid_t)-1 && lchown(path_of(o->url), (uid_t)-1, o->group) < 0) {
		int code = err_set(e, -errno, "%s: cannot give the socket to group %u: %s", o->url, (unsigned)o->group, strerror(errno));
		err_hint(e, "run as root or as a member of the group");
		return code;
	}
	return 0;
}

static uint64_t stat_of(nng_stat *listener, const char *name)
{
	nng_stat *s = nng_stat_find(listener, name);
	return s != NULL ? nng_stat_value(s) : 0;
}

/* Whether the listener has stopped accepting: an error was counted before the last look, and nothing has moved since. */
static bool listener_is_dead(struct endpoint *ep)
{
	nng_stat *all;
	if (nng_stats_get(&all) != 0)
		return false;
	nng_stat *listener = nng_stat_find_listener(all, ep->listener);
	uint64_t errors = stat_of(listener, "other"), accepted = stat_of(listener, "accept");
	nng_stats_free(all);
	bool dead = ep->suspect && errors == ep->errors && accepted == ep->accepted;
	ep->suspect = errors != ep->errors;
	ep->errors = errors;
	ep->accepted = accepted;
	return dead;
}

static void on_watch(void *arg)
{
	struct endpoint *ep = arg;
	CHECK_OBJ(ep, ENDPOINT_MAGIC);
	if (nng_aio_result(ep->watch) != 0)
		return; /* the endpoint closes */
	if (ep->listening && listener_is_dead(ep)) {
		nng_listener_close(ep->listener);
		ep->listening = false;
	}
	if (!ep->listening && listen_at(ep, NULL) == 0) {
		ep->listening = true;
		ep->suspect = false;
		ep->errors = ep->accepted = 0;
	}
	nng_sleep_aio(WATCH_MS, ep->watch);
}

/* With no callback left to come: frees every context, the socket is closed. */
static void free_all(struct endpoint *ep)
{
	for (struct endpoint_request *r = ep->all, *next; r != NULL; r = next) {
		next = r->next_all;
		nng_aio_stop(r->aio);
		nng_aio_free(r->aio);
		free(r);
	}
	nng_aio_free(ep->watch);
	pthread_cond_destroy(&ep->sent);
	pthread_mutex_destroy(&ep->lock);
	free(ep);
}

int endpoint_open(const struct endpoint_options *o, struct endpoint **ret, struct err *e)
{
	if (path_of(o->url) == NULL) {
		err_set(e, -EINVAL, "%s: not the address of a local socket", o->url);
		err_hint(e, "write ipc:// and an absolute path, such as ipc:///run/falcond/falcond.sock");
		return -EINVAL;
	}
	struct endpoint *ep = xcalloc(1, sizeof *ep);
	ep->magic = ENDPOINT_MAGIC;
	ep->options = *o;
	pthread_mutex_init(&ep->lock, NULL);
	pthread_condattr_t clock;
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&ep->sent, &clock);
	pthread_condattr_destroy(&clock);
	int rc = nng_aio_alloc(&ep->watch, on_watch, ep);
	if (rc == 0)
		rc = nng_rep0_open(&ep->socket);
	if (rc != 0) {
		free_all(ep);
		return nng_err(e, rc, o->url, "open a socket");
	}
	rc = listen_at(ep, e);
	if (rc < 0) {
		nng_close(ep->socket);
		free_all(ep);
		return rc;
	}
	ep->listening = true;
	*ret = ep;
	for (int i = 0; i < RECEIVERS; i++)
		if (receive_another(ep) < 0) {
			endpoint_close(ep);
			*ret = NULL;
			return err_set(e, -ENOMEM, "%s: no memory to receive requests", o->url);
		}
	nng_sleep_aio(WATCH_MS, ep->watch);
	return 0;
}

void endpoint_close(struct endpoint *ep)
{
	if (ep == NULL)
		return;
	CHECK_OBJ(ep, ENDPOINT_MAGIC);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += LINGER_S;
	nng_aio_stop(ep->watch);
	if (ep->listening)
		nng_listener_close(ep->listener); /* removes the file */
	pthread_mutex_lock(&ep->lock);
	ep->closing = true;
	while (ep->sending > 0 && pthread_cond_timedwait(&ep->sent, &ep->lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&ep->lock);
	nng_close(ep->socket);
	free_all(ep);
}

uid_t endpoint_uid(const struct endpoint_request *r)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	return r->uid;
}

const char *endpoint_bytes(const struct endpoint_request *r, size_t *ret_length)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	*ret_length = nng_msg_len(r->message);
	return nng_msg_body(r->message);
}

/* Bytes on their way to one peer. With the lock; walks all requests, so it is asked only when there is much on its way. */
static size_t unsent_to(const struct endpoint *ep, nng_pipe pipe)
{
	size_t sum = 0;
	for (const struct endpoint_request *r = ep->all; r != NULL; r = r->next_all)
		if (r->state == SENDING && nng_pipe_id(r->pipe) == nng_pipe_id(pipe))
			sum += r->unsent;
	return sum;
}

void endpoint_reply(struct endpoint_request *r, const char *bytes, size_t length)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	CHECK(r->state == HELD);
	struct endpoint *ep = r->ep;
	/* The request's message becomes the reply: it has room for the header that nng prepends. */
	nng_msg *message = r->message;
	r->message = NULL;
	nng_msg_clear(message);
	bool send = bytes != NULL && nng_msg_append(message, bytes, length) == 0;
	pthread_mutex_lock(&ep->lock);
	if (send) {
		r->state = SENDING;
		r->unsent = length;
		ep->sending++;
		ep->unsent += length;
	} else {
		put_spare(r);
	}
	nng_pipe peer = r->pipe;
	bool greedy = send && ep->unsent > UNSENT_MAX && unsent_to(ep, peer) > UNSENT_PEER_MAX;
	pthread_mutex_unlock(&ep->lock);
	if (greedy)
		nng_pipe_close(peer);
	if (!send) {
		nng_msg_free(message);
		return;
	}
	nng_aio_set_msg(r->aio, message);
	nng_aio_set_timeout(r->aio, SEND_TIMEOUT_MS);
	nng_ctx_send(r->context, r->aio);
}
