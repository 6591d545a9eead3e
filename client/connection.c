/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One nng REQ socket a connection. nng connects again by itself (every 10 ms) and sends an unanswered request again; here is
 * only how long that is worth while: a daemon that has been away for 60 s after its first reply is lost, and before it nobody
 * waits longer than was asked for. The wait is a poll(2) on an eventfd that nng's threads write, so that it can also watch
 * the caller's descriptors.
 */
#include "client/connection.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "base/check.h"
#include "base/clock.h"
#include "ipc/protocol.h"

enum { RECONNECT_MS = 10, AWAY_MS = 60000, HELLO_MS = 10000, WATCHED_MAX = 4, MESSAGE_DEFAULT = 1 << 20 };

#define FALCON_MAGIC 0x46414c43u

struct falcon {
	uint32_t magic;
	char *url;
	nng_socket socket;
	nng_ctx context;
	nng_aio *aio;
	int wake; /* eventfd: the aio has ended, or a pipe has come or gone */
	pthread_mutex_t lock;
	unsigned pipes;       /* under lock */
	uint64_t alone_since; /* ns, while there is no pipe; under lock */
	bool aio_ended;       /* under lock */
	bool greeted;         /* the daemon has replied once */
	struct pollfd watched[WATCHED_MAX];
	unsigned n_watched;
	struct falcon_hello hello;
	struct client_results results;
};

int client_error(struct falcon_error *e, const char *code, const char *format, ...)
{
	if (e == NULL)
		return -1;
	*e = (struct falcon_error){0};
	snprintf(e->code, sizeof e->code, "%s", code);
	va_list args;
	va_start(args, format);
	vsnprintf(e->message, sizeof e->message, format, args);
	va_end(args);
	return -1;
}

void client_hint(struct falcon_error *e, const char *format, ...)
{
	if (e == NULL)
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(e->hint, sizeof e->hint, format, args);
	va_end(args);
}

int client_bad_reply(struct falcon *f, const char *op, struct falcon_error *e)
{
	client_error(e, "bad_reply", "%s: the answer to `%s` is not what the protocol says", f->url, op);
	client_hint(e, "is it falcond, and of this version?");
	return -1;
}

static void wake(struct falcon *f)
{
	uint64_t one = 1;
	if (write(f->wake, &one, sizeof one) < 0)
		CHECK(errno == EAGAIN); /* the counter is full: it is awake */
}

static void on_aio(void *arg)
{
	struct falcon *f = arg;
	pthread_mutex_lock(&f->lock);
	f->aio_ended = true;
	pthread_mutex_unlock(&f->lock);
	wake(f);
}

static void on_pipe(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
	(void)pipe;
	struct falcon *f = arg;
	pthread_mutex_lock(&f->lock);
	if (event == NNG_PIPE_EV_ADD_POST)
		f->pipes++;
	else if (f->pipes > 0 && --f->pipes == 0)
		f->alone_since = clock_ns();
	pthread_mutex_unlock(&f->lock);
	wake(f);
}

static void forget_results(struct falcon *f)
{
	json_decref(f->results.reply);
	ids_done(&f->results.ids);
	free(f->results.logprobs);
	free(f->results.top);
	free(f->results.rows);
	buf_done(&f->results.text);
	f->results = (struct client_results){0};
}

struct client_results *client_results(struct falcon *f)
{
	return &f->results;
}

/* Milliseconds until the daemon counts as lost; INT64_MAX while it is connected and has replied before. */
static int64_t patience_ms(struct falcon *f, uint64_t begun)
{
	uint64_t now = clock_ns();
	if (!f->greeted)
		return HELLO_MS - (int64_t)((now - begun) / 1000000);
	pthread_mutex_lock(&f->lock);
	bool connected = f->pipes > 0;
	uint64_t since = f->alone_since > begun ? f->alone_since : begun;
	pthread_mutex_unlock(&f->lock);
	return connected || since > now ? INT64_MAX : AWAY_MS - (int64_t)((now - since) / 1000000);
}

static void cancel_aio(struct falcon *f)
{
	nng_aio_cancel(f->aio);
	nng_aio_wait(f->aio);
}

static int lost(struct falcon *f, struct falcon_error *e)
{
	client_error(e, f->greeted ? "lost" : "no_daemon", "%s: %s", f->url,
		     f->greeted ? "the daemon has not come back for 60 s" : "somebody listens, but does not answer");
	client_hint(e, "see whether falcond runs: systemctl status falcond");
	return -1;
}

/* Waits until the aio has ended. 0, or -1 with the aio cancelled: interrupted, or lost. */
static int wait_for_aio(struct falcon *f, struct falcon_error *e)
{
	uint64_t begun = clock_ns();
	for (;;) {
		pthread_mutex_lock(&f->lock);
		bool ended = f->aio_ended;
		pthread_mutex_unlock(&f->lock);
		if (ended)
			return 0;
		int64_t left = patience_ms(f, begun);
		if (left <= 0) {
			cancel_aio(f);
			return lost(f, e);
		}
		struct pollfd fds[1 + WATCHED_MAX] = {{.fd = f->wake, .events = POLLIN}};
		memcpy(fds + 1, f->watched, f->n_watched * sizeof *fds);
		int n = poll(fds, 1 + f->n_watched, left > 1000 ? 1000 : (int)left);
		uint64_t count;
		if (n > 0 && fds[0].revents && read(f->wake, &count, sizeof count) < 0)
			CHECK(errno == EAGAIN || errno == EINTR);
		for (unsigned i = 1; n > 0 && i <= f->n_watched; i++)
			if (fds[i].revents) {
				cancel_aio(f);
				return client_error(e, "interrupted", "interrupted");
			}
	}
}

/* One send or receive of the context, watched. 0, or -1. */
static int run_aio(struct falcon *f, void (*start)(nng_ctx, nng_aio *), struct falcon_error *e)
{
	f->aio_ended = false;
	start(f->context, f->aio);
	if (wait_for_aio(f, e) < 0)
		return -1;
	int rc = nng_aio_result(f->aio);
	return rc == 0 ? 0 : client_error(e, "lost", "%s: %s", f->url, nng_strerror(rc));
}

/* Sends the bytes and waits for the reply, which the caller frees. */
static int exchange(struct falcon *f, const struct buf *bytes, nng_msg **ret, struct falcon_error *e)
{
	nng_msg *message;
	if (bytes->length > f->hello.message) {
		client_error(e, "too_large", "the message would have %zu bytes, the daemon takes %zu", bytes->length, f->hello.message);
		client_hint(e, "send less at once; limits.message of the daemon's configuration raises it");
		return -1;
	}
	CHECK(nng_msg_alloc(&message, 0) == 0 && nng_msg_append(message, bytes->data, bytes->length) == 0);
	nng_aio_set_msg(f->aio, message);
	if (run_aio(f, nng_ctx_send, e) < 0) {
		if (nng_aio_result(f->aio) != 0) /* ours again when a send fails */
			nng_msg_free(message);
		return -1;
	}
	nng_aio_set_msg(f->aio, NULL);
	if (run_aio(f, nng_ctx_recv, e) < 0) {
		if (nng_aio_result(f->aio) == 0) /* it came while it was given up */
			nng_msg_free(nng_aio_get_msg(f->aio));
		return -1;
	}
	*ret = nng_aio_get_msg(f->aio);
	nng_aio_set_msg(f->aio, NULL);
	f->greeted = true;
	return 0;
}

int client_call(struct falcon *f, const char *op, json_t *request, json_t **ret, struct falcon_error *e)
{
	CHECK_OBJ(f, FALCON_MAGIC);
	forget_results(f);
	struct buf bytes = {0};
	json_object_set_new(request, "op", json_string(op));
	ipc_encode(request, &bytes);
	nng_msg *message = NULL;
	int rc = exchange(f, &bytes, &message, e);
	buf_done(&bytes);
	if (rc < 0)
		return -1;
	json_t *reply = json_loadb(nng_msg_body(message), nng_msg_len(message), JSON_ALLOW_NUL, NULL);
	nng_msg_free(message);
	f->results.reply = reply;
	if (!json_is_object(reply))
		return client_bad_reply(f, op, e);
	const json_t *error = json_object_get(reply, "error");
	if (error != NULL) {
		const char *code = json_string_value(json_object_get(error, "code"));
		const char *what = json_string_value(json_object_get(error, "message"));
		const char *hint = json_string_value(json_object_get(error, "hint"));
		client_error(e, code ? code : "bad_reply", "%s", what ? what : "the daemon answers with an error that has no message");
		client_hint(e, "%s", hint ? hint : "");
		return -1;
	}
	*ret = reply;
	return 0;
}

static int greet(struct falcon *f, struct falcon_error *e)
{
	json_t *reply;
	if (client_call(f, "hello", json_object(), &reply, e) < 0)
		return -1;
	int protocol, admin = 0;
	json_int_t context, vocab, uid;
	const char *version, *model;
	if (json_unpack(reply, "{s:i,s:s,s:s,s:I,s:I,s:I,s?b}", "protocol", &protocol, "version", &version, "model", &model, "context",
			&context, "vocab", &vocab, "uid", &uid, "admin", &admin) < 0)
		return client_bad_reply(f, "hello", e);
	if (protocol != IPC_VERSION) {
		client_error(e, "unsupported", "%s: the daemon speaks protocol %d, this client %d", f->url, protocol, IPC_VERSION);
		client_hint(e, "use the client that came with it");
		return -1;
	}
	json_int_t message = json_integer_value(json_object_get(json_object_get(reply, "limits"), "message"));
	if (message > 0)
		f->hello.message = (size_t)message;
	snprintf(f->hello.version, sizeof f->hello.version, "%s", version);
	snprintf(f->hello.model, sizeof f->hello.model, "%s", model);
	f->hello.context = (uint32_t)context;
	f->hello.vocab = (uint32_t)vocab;
	f->hello.uid = (uint64_t)uid;
	f->hello.admin = admin != 0;
	return 0;
}

/* One attempt to connect: 0 or nng's error. */
static int dial_once(struct falcon *f)
{
	nng_dialer dialer;
	int rc = nng_dialer_create(&dialer, f->socket, f->url);
	if (rc != 0)
		return rc;
	nng_dialer_set_ms(dialer, NNG_OPT_RECONNMINT, RECONNECT_MS);
	nng_dialer_set_ms(dialer, NNG_OPT_RECONNMAXT, RECONNECT_MS);
	rc = nng_dialer_start(dialer, 0);
	if (rc != 0)
		nng_dialer_close(dialer);
	return rc;
}

/* Connects, again and again for wait_ms. */
static int dial(struct falcon *f, uint32_t wait_ms, struct falcon_error *e)
{
	uint64_t until = clock_ns() + (uint64_t)wait_ms * 1000000;
	if (strncmp(f->url, "ipc://", 6) != 0 || f->url[6] == '\0') {
		client_error(e, "no_daemon", "%s: not the address of a local socket", f->url);
		client_hint(e, "write ipc:// and an absolute path");
		return -1;
	}
	for (;;) {
		int rc = dial_once(f);
		if (rc == 0)
			return 0;
		if (clock_ns() >= until) {
			bool forbidden = access(f->url + 6, F_OK) == 0 && access(f->url + 6, W_OK) < 0;
			client_error(e, "no_daemon", "%s: %s", f->url, forbidden ? "permission denied" : "no daemon listens there");
			client_hint(e, forbidden ? "the socket's group may use it: socket_group in falcond.yaml"
						 : "start falcond, or name its socket by -s or $FALCOND_SOCKET");
			return -1;
		}
		poll(NULL, 0, RECONNECT_MS);
	}
}

/* The parts that need no daemon: 0 or nng's error. */
static int open_socket(struct falcon *f)
{
	int rc = f->wake < 0 ? NNG_ENOFILES : nng_req0_open(&f->socket);
	if (rc == 0)
		rc = nng_pipe_notify(f->socket, NNG_PIPE_EV_ADD_POST, on_pipe, f);
	if (rc == 0)
		rc = nng_pipe_notify(f->socket, NNG_PIPE_EV_REM_POST, on_pipe, f);
	if (rc == 0)
		rc = nng_ctx_open(&f->context, f->socket);
	if (rc == 0)
		rc = nng_aio_alloc(&f->aio, on_aio, f);
	return rc;
}

struct falcon *falcon_open(const char *url, uint32_t wait_ms, struct falcon_error *e)
{
	if (url == NULL)
		url = getenv("FALCOND_SOCKET");
	if (url == NULL || url[0] == '\0')
		url = IPC_DEFAULT_URL;
	struct falcon *f = xcalloc(1, sizeof *f);
	f->magic = FALCON_MAGIC;
	f->url = xstrdup(url);
	f->hello.message = MESSAGE_DEFAULT;
	f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&f->lock, NULL);
	int rc = open_socket(f);
	if (rc != 0) {
		client_error(e, "no_daemon", "cannot open a socket: %s", nng_strerror(rc));
		falcon_close(f);
		return NULL;
	}
	nng_aio_set_timeout(f->aio, NNG_DURATION_INFINITE);
	if (dial(f, wait_ms, e) < 0 || greet(f, e) < 0) {
		falcon_close(f);
		return NULL;
	}
	return f;
}

void falcon_close(struct falcon *f)
{
	if (f == NULL)
		return;
	CHECK_OBJ(f, FALCON_MAGIC);
	nng_close(f->socket);
	if (f->aio != NULL) {
		nng_aio_stop(f->aio);
		nng_aio_free(f->aio);
	}
	if (f->wake >= 0)
		close(f->wake);
	forget_results(f);
	pthread_mutex_destroy(&f->lock);
	free(f->url);
	free(f);
}

const struct falcon_hello *falcon_hello(const struct falcon *f)
{
	CHECK_OBJ(f, FALCON_MAGIC);
	return &f->hello;
}

void falcon_watch(struct falcon *f, int fd, short events)
{
	CHECK_OBJ(f, FALCON_MAGIC);
	if (fd < 0) {
		f->n_watched = 0;
		return;
	}
	CHECK(f->n_watched < WATCHED_MAX);
	f->watched[f->n_watched++] = (struct pollfd){.fd = fd, .events = events};
}
