/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replier's half of nng's REQ/REP over a Unix socket, as its wire format says (nanomsg's sp-ipc-mapping-01 and
 * sp-request-reply-01): a greeting of 8 bytes each way; then messages, a byte 1 and a 64-bit length in front; a request begins
 * with the ids that its reply has to begin with.
 *
 * nng's own replier is not used, because in the version that Debian 12 has (1.5.2) any client can end it: one that hangs up
 * before its greeting stops the listener for good, and one that hangs up while it is written to and read from blocks the
 * thread that frees connections (docs/decisions/0008 has the figures). Clients use nng.
 *
 * One thread reads, another thread's reply is written by itself as far as the socket takes it. A peer that reads no replies is
 * not read from either. What all connections of one user take of descriptors and of memory is bounded, so that nobody locks out
 * the others.
 */
#include "config.h"

#include "ipc/endpoint.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

enum {
	GREETING = 8,        /* bytes */
	HEAD = 9,            /* bytes before a message */
	IDS_MAX = 64,        /* bytes of ids: 16 hops */
	BACKLOG = 512,
	EVENTS = 64,         /* taken at once */
	LINGER_MS = 1000,    /* how long close waits for replies on their way */
	PAUSE_MS = 100,      /* without accepting, when there are no descriptors left */
};

#define UNSENT_MAX (4u << 20) /* bytes on their way to one peer, beyond which it is not read from */

#define REQUEST_MAGIC 0x52455155u
#define ENDPOINT_MAGIC 0x454e4450u

struct reply {
	STAILQ_ENTRY(reply) next;
	size_t length, sent;
	char bytes[];
};

/* Whose connections there are. Under the endpoint's lock. */
struct user {
	TAILQ_ENTRY(user) link;
	uid_t uid;
	unsigned peers;
	size_t bytes;        /* of messages that are being read or were handed over, and of replies on their way */
};

/* A connection. The reading half is the thread's alone, the rest is under the endpoint's lock. */
struct peer {
	TAILQ_ENTRY(peer) link;
	struct endpoint *ep;
	struct user *user;
	int fd;
	bool dead;           /* is only waiting for its requests to be answered */
	unsigned requests;   /* held by the receiver */
	STAILQ_HEAD(, reply) replies;
	size_t unsent;

	bool greeted;
	uint8_t head[HEAD];  /* of the greeting or the message that is being read */
	size_t head_read;
	char *body;          /* of the message, once its head is complete */
	size_t length, body_read;
};

struct endpoint_request {
	uint32_t magic;
	struct peer *peer;
	TAILQ_ENTRY(endpoint_request) link;
	char *message; /* ids, then what was asked */
	size_t ids, length;
};

struct endpoint {
	uint32_t magic;
	struct endpoint_options options;
	char *path;
	int listener, epoll, wake;
	bool accepting; /* the thread's */
	pthread_t thread;
	pthread_mutex_t lock;
	bool closing;
	size_t unsent; /* of all peers */
	unsigned n_peers;
	TAILQ_HEAD(, peer) peers, dead;
	TAILQ_HEAD(, user) users;
	TAILQ_HEAD(, endpoint_request) held;
};

static void wake(struct endpoint *ep)
{
	uint64_t one = 1;
	if (write(ep->wake, &one, sizeof one) < 0)
		CHECK(errno == EAGAIN);
}

/* What the thread waits for on this connection. With the lock. */
static void arm(struct peer *p)
{
	struct epoll_event event = {.data.ptr = p};
	if (p->unsent <= UNSENT_MAX && !p->ep->closing)
		event.events |= EPOLLIN;
	if (p->unsent > 0)
		event.events |= EPOLLOUT;
	if (!p->dead)
		epoll_ctl(p->ep->epoll, EPOLL_CTL_MOD, p->fd, &event);
}

/* So many more bytes are on their way, or (a negative number, as unsigned ones wrap) fewer. With the lock. */
static void count_unsent(struct peer *p, size_t more)
{
	p->unsent += more;
	p->user->bytes += more;
	p->ep->unsent += more;
}

/* The user of a new connection. With the lock. */
static struct user *join(struct endpoint *ep, uid_t uid)
{
	struct user *u;
	TAILQ_FOREACH (u, &ep->users, link)
		if (u->uid == uid)
			break;
	if (u == NULL) {
		u = xcalloc(1, sizeof *u);
		u->uid = uid;
		TAILQ_INSERT_TAIL(&ep->users, u, link);
	}
	u->peers++;
	ep->n_peers++;
	return u;
}

/* The connection is freed. With the lock. */
static void leave(struct endpoint *ep, struct user *u)
{
	ep->n_peers--;
	if (--u->peers > 0)
		return;
	CHECK(u->bytes == 0);
	TAILQ_REMOVE(&ep->users, u, link);
	free(u);
}

/*
 * The connection is over: what is on its way is forgotten. The thread sees the shutdown, closes the descriptor (it alone may,
 * since it may be about to read from it) and frees the peer once no request refers to it. With the lock.
 */
static void hang_up(struct peer *p)
{
	struct endpoint *ep = p->ep;
	if (p->dead)
		return;
	p->dead = true;
	TAILQ_REMOVE(&ep->peers, p, link);
	TAILQ_INSERT_TAIL(&ep->dead, p, link);
	shutdown(p->fd, SHUT_RDWR);
	count_unsent(p, -p->unsent);
	while (!STAILQ_EMPTY(&p->replies)) {
		struct reply *r = STAILQ_FIRST(&p->replies);
		STAILQ_REMOVE_HEAD(&p->replies, next);
		free(r);
	}
}

/* Closes the dead and frees those that no request refers to. By the thread, between two looks at the events. With the lock. */
static void bury(struct endpoint *ep)
{
	for (struct peer *p = TAILQ_FIRST(&ep->dead), *next; p != NULL; p = next) {
		next = TAILQ_NEXT(p, link);
		if (p->fd >= 0) {
			/* Said, since a child that was forked and has not executed yet would keep it there. */
			epoll_ctl(ep->epoll, EPOLL_CTL_DEL, p->fd, NULL);
			close(p->fd);
			p->fd = -1;
		}
		if (p->requests > 0)
			continue;
		if (p->body != NULL)
			p->user->bytes -= p->length;
		TAILQ_REMOVE(&ep->dead, p, link);
		leave(ep, p->user);
		free(p->body);
		free(p);
	}
}

/* Writes the parts as far as the socket takes them. Bytes written, or -1: the peer has gone. */
static ssize_t send_some(struct peer *p, const struct iovec *parts, int n)
{
	struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)n};
	for (;;) {
		ssize_t sent = sendmsg(p->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent >= 0)
			return sent;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno != EINTR)
			return -1;
	}
}

/* Sends what waits. With the lock. */
static void flush(struct peer *p)
{
	while (!p->dead && !STAILQ_EMPTY(&p->replies)) {
		struct reply *r = STAILQ_FIRST(&p->replies);
		struct iovec part = {.iov_base = r->bytes + r->sent, .iov_len = r->length - r->sent};
		ssize_t n = send_some(p, &part, 1);
		if (n < 0) {
			hang_up(p);
			return;
		}
		if (n == 0)
			break;
		r->sent += (size_t)n;
		count_unsent(p, -(size_t)n);
		if (r->sent == r->length) {
			STAILQ_REMOVE_HEAD(&p->replies, next);
			free(r);
		}
	}
	arm(p);
}

/* Sends the parts behind what waits already. With the lock. */
static void send_parts(struct peer *p, const struct iovec *parts, int n)
{
	size_t total = 0, done = 0;
	for (int i = 0; i < n; i++)
		total += parts[i].iov_len;
	if (STAILQ_EMPTY(&p->replies)) {
		ssize_t sent = send_some(p, parts, n);
		if (sent < 0) {
			hang_up(p);
			return;
		}
		done = (size_t)sent;
	}
	if (done == total)
		return;
	if (p->user->bytes + total - done > p->ep->options.max_user_bytes) {
		hang_up(p);
		return;
	}
	struct reply *r = xmalloc(sizeof *r + total - done);
	*r = (struct reply){.length = total - done};
	size_t at = 0;
	for (int i = 0; i < n; i++) {
		size_t skip = done < parts[i].iov_len ? done : parts[i].iov_len;
		memcpy(r->bytes + at, (const char *)parts[i].iov_base + skip, parts[i].iov_len - skip);
		at += parts[i].iov_len - skip;
		done -= skip;
	}
	STAILQ_INSERT_TAIL(&p->replies, r, next);
	count_unsent(p, r->length);
	arm(p);
}

/* The bytes of the ids that a request begins with: words up to the one with the highest bit. 0: it is none. */
static size_t ids_of(const char *message, size_t length)
{
	for (size_t at = 0; at + 4 <= length && at < IDS_MAX; at += 4)
		if ((uint8_t)message[at] & 0x80)
			return at + 4;
	return 0;
}

/* A whole message is there: it goes to the receiver. -1: it is no request. */
static int hand_over(struct peer *p)
{
	struct endpoint *ep = p->ep;
	size_t ids = ids_of(p->body, p->length);
	if (ids == 0)
		return -1;
	struct endpoint_request *r = xcalloc(1, sizeof *r);
	*r = (struct endpoint_request){.magic = REQUEST_MAGIC, .peer = p, .message = p->body, .ids = ids, .length = p->length};
	p->body = NULL;
	p->head_read = 0;
	pthread_mutex_lock(&ep->lock);
	p->requests++;
	TAILQ_INSERT_TAIL(&ep->held, r, link);
	pthread_mutex_unlock(&ep->lock);
	ep->options.receive(ep->options.arg, r);
	return 0;
}

/* A whole greeting or a message's head is there. -1: the peer does not speak our language, or too much. */
static int take_head(struct peer *p)
{
	static const uint8_t requester[GREETING] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
	if (!p->greeted) {
		p->greeted = true;
		p->head_read = 0;
		return memcmp(p->head, requester, GREETING) == 0 ? 0 : -1;
	}
	uint64_t length;
	memcpy(&length, p->head + 1, sizeof length);
	length = be64toh(length);
	if (p->head[0] != 1 || length < 4 || length > p->ep->options.max_bytes)
		return -1;
	pthread_mutex_lock(&p->ep->lock);
	bool fits = p->user->bytes + length <= p->ep->options.max_user_bytes;
	if (fits)
		p->user->bytes += length;
	pthread_mutex_unlock(&p->ep->lock);
	if (!fits)
		return -1;
	p->length = (size_t)length;
	p->body_read = 0;
	p->body = xmalloc(p->length);
	return 0;
}

/* Reads once. 1: there may be more; 0: not now; -1: the connection is over. */
static int read_some(struct peer *p)
{
	size_t want = p->greeted ? HEAD : GREETING;
	bool in_head = p->body == NULL;
	char *to = in_head ? (char *)p->head + p->head_read : p->body + p->body_read;
	size_t room = in_head ? want - p->head_read : p->length - p->body_read;
	ssize_t n = recv(p->fd, to, room, MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? 1 : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
	if (n == 0)
		return -1;
	if (in_head) {
		p->head_read += (size_t)n;
		return p->head_read == want && take_head(p) < 0 ? -1 : 1;
	}
	p->body_read += (size_t)n;
	return p->body_read == p->length && hand_over(p) < 0 ? -1 : 1;
}

/* Up to some messages' worth at a time, so that one peer does not keep the others waiting. */
static void read_from(struct peer *p)
{
	int more = 1;
	for (int i = 0; more > 0 && i < 32; i++) {
		pthread_mutex_lock(&p->ep->lock);
		bool go_on = !p->dead && p->unsent <= UNSENT_MAX;
		pthread_mutex_unlock(&p->ep->lock);
		if (!go_on)
			return;
		more = read_some(p);
	}
	if (more < 0) {
		pthread_mutex_lock(&p->ep->lock);
		hang_up(p);
		pthread_mutex_unlock(&p->ep->lock);
	}
}

static void set_accepting(struct endpoint *ep, bool on)
{
	struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.ptr = &ep->listener};
	ep->accepting = on;
	epoll_ctl(ep->epoll, EPOLL_CTL_MOD, ep->listener, &event);
}

static void accept_one(struct endpoint *ep)
{
	static const uint8_t replier[GREETING] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
	int fd = accept4(ep->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			set_accepting(ep, false);
		return;
	}
	struct ucred who;
	socklen_t size = sizeof who;
	struct peer *p = xcalloc(1, sizeof *p);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
	unsigned most = ep->options.max_peers;
	p->ep = ep;
	p->fd = fd;
	STAILQ_INIT(&p->replies);
	pthread_mutex_lock(&ep->lock);
	p->user = join(ep, getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.uid : (uid_t)-1);
	TAILQ_INSERT_TAIL(&ep->peers, p, link);
	if (ep->n_peers > most || p->user->peers > (most + 1) / 2 || epoll_ctl(ep->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		hang_up(p);
	else
		send_parts(p, &(struct iovec){.iov_base = (void *)(uintptr_t)replier, .iov_len = sizeof replier}, 1);
	pthread_mutex_unlock(&ep->lock);
}

static void handle(struct endpoint *ep, const struct epoll_event *event)
{
	uint64_t count;
	if (event->data.ptr == &ep->wake) {
		if (read(ep->wake, &count, sizeof count) < 0)
			CHECK(errno == EAGAIN || errno == EINTR);
	} else if (event->data.ptr == &ep->listener) {
		accept_one(ep);
	} else {
		struct peer *p = event->data.ptr;
		if (event->events & EPOLLOUT) {
			pthread_mutex_lock(&ep->lock);
			flush(p);
			pthread_mutex_unlock(&ep->lock);
		}
		if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			read_from(p);
	}
}

/* While the endpoint closes, replies leave and nothing is read. */
static void drain(struct endpoint *ep, const struct epoll_event *event)
{
	struct peer *p = event->data.ptr;
	if (event->data.ptr == &ep->wake || event->data.ptr == &ep->listener)
		return;
	pthread_mutex_lock(&ep->lock);
	if (event->events & EPOLLOUT)
		flush(p);
	else
		hang_up(p);
	pthread_mutex_unlock(&ep->lock);
}

/* The endpoint's thread: until close, and then until replies have left. */
static void *serve(void *arg)
{
	struct endpoint *ep = arg;
	struct epoll_event events[EVENTS];
	uint64_t until = 0; /* ns; 0: not closing */
	for (;;) {
		int n = epoll_wait(ep->epoll, events, EVENTS, until ? 10 : ep->accepting ? -1 : PAUSE_MS);
		if (!ep->accepting && !until)
			set_accepting(ep, true);
		for (int i = 0; i < n; i++)
			(until ? drain : handle)(ep, &events[i]);
		pthread_mutex_lock(&ep->lock);
		bury(ep);
		bool closing = ep->closing, empty = ep->unsent == 0;
		pthread_mutex_unlock(&ep->lock);
		if (closing && until == 0) {
			until = clock_ns() + LINGER_MS * 1000000ull;
			set_accepting(ep, false);
		}
		if (closing && (empty || clock_ns() > until))
			return NULL;
	}
}

/* Whether somebody listens at the address. */
static bool is_live(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool live = fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno != ECONNREFUSED);
	if (fd >= 0)
		close(fd);
	return live;
}

/* Binds; what a process that was killed left behind is replaced. 0 or -errno. */
static int bind_to(int fd, const struct sockaddr_un *address)
{
	struct stat st;
	if (bind(fd, (const struct sockaddr *)address, sizeof *address) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode) || is_live(address))
		return -EADDRINUSE;
	if (unlink(address->sun_path) < 0 || bind(fd, (const struct sockaddr *)address, sizeof *address) < 0)
		return -errno;
	return 0;
}

static int listen_failed(int code, const char *url, const char *doing, struct err *e)
{
	if (code == -EADDRINUSE) {
		err_set(e, code, "%s: another process listens there, or it is a file", url);
		err_hint(e, "stop it, or choose another socket");
	} else {
		err_set(e, code, "%s: cannot %s: %s", url, doing, strerror(-code));
	}
	return code;
}

/* The socket, with its mode and group before anybody can connect. */
static int listen_at(struct endpoint *ep, struct err *e)
{
	const struct endpoint_options *o = &ep->options;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(ep->path) >= sizeof address.sun_path)
		return listen_failed(-ENAMETOOLONG, o->url, "listen", e);
	memcpy(address.sun_path, ep->path, strlen(ep->path));
	ep->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ep->listener < 0)
		return listen_failed(-errno, o->url, "open a socket", e);
	int code = bind_to(ep->listener, &address);
	if (code < 0)
		return listen_failed(code, o->url, "listen", e);
	const char *doing = NULL;
	if (chmod(ep->path, (mode_t)o->mode) < 0)
		doing = "set the socket's mode";
	else if (o->group != (gid_t)-1 && lchown(ep->path, (uid_t)-1, o->group) < 0)
		doing = "give the socket to its group";
	else if (listen(ep->listener, BACKLOG) < 0)
		doing = "listen";
	if (doing == NULL)
		return 0;
	code = -errno;
	unlink(ep->path);
	return listen_failed(code, o->url, doing, e);
}

/* Everything but the peers. Closes what is open. */
static void endpoint_free(struct endpoint *ep)
{
	int fds[] = {ep->listener, ep->epoll, ep->wake};
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&ep->lock);
	free(ep->path);
	free(ep);
}

/* Starts the thread, which takes no signals. */
static int start(struct endpoint *ep)
{
	struct epoll_event on_listener = {.events = EPOLLIN, .data.ptr = &ep->listener};
	struct epoll_event on_wake = {.events = EPOLLIN, .data.ptr = &ep->wake};
	sigset_t all, old;
	ep->epoll = epoll_create1(EPOLL_CLOEXEC);
	ep->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ep->epoll < 0 || ep->wake < 0 || epoll_ctl(ep->epoll, EPOLL_CTL_ADD, ep->listener, &on_listener) < 0 ||
	    epoll_ctl(ep->epoll, EPOLL_CTL_ADD, ep->wake, &on_wake) < 0)
		return -errno;
	ep->accepting = true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int code = -pthread_create(&ep->thread, NULL, serve, ep);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return code;
}

int endpoint_open(const struct endpoint_options *o, struct endpoint **ret, struct err *e)
{
	if (strncmp(o->url, "ipc://", 6) != 0 || o->url[6] == '\0') {
		err_set(e, -EINVAL, "%s: not the address of a local socket", o->url);
		err_hint(e, "write ipc:// and an absolute path, such as ipc:///run/falcond/falcond.sock");
		return -EINVAL;
	}
	struct endpoint *ep = xcalloc(1, sizeof *ep);
	*ep = (struct endpoint){.magic = ENDPOINT_MAGIC, .options = *o, .listener = -1, .epoll = -1, .wake = -1};
	ep->path = xstrdup(o->url + 6);
	TAILQ_INIT(&ep->peers);
	TAILQ_INIT(&ep->dead);
	TAILQ_INIT(&ep->users);
	TAILQ_INIT(&ep->held);
	pthread_mutex_init(&ep->lock, NULL);
	int code = listen_at(ep, e);
	if (code == 0) {
		*ret = ep; /* the receiver may look at it from its first request on */
		code = start(ep);
		if (code < 0) {
			*ret = NULL;
			unlink(ep->path);
			listen_failed(code, o->url, "listen", e);
		}
	}
	if (code < 0)
		endpoint_free(ep);
	return code;
}

void endpoint_close(struct endpoint *ep)
{
	if (ep == NULL)
		return;
	CHECK_OBJ(ep, ENDPOINT_MAGIC);
	unlink(ep->path);
	pthread_mutex_lock(&ep->lock);
	ep->closing = true;
	struct peer *p;
	TAILQ_FOREACH (p, &ep->peers, link)
		arm(p);
	pthread_mutex_unlock(&ep->lock);
	wake(ep);
	pthread_join(ep->thread, NULL);
	while (!TAILQ_EMPTY(&ep->held)) {
		struct endpoint_request *r = TAILQ_FIRST(&ep->held);
		TAILQ_REMOVE(&ep->held, r, link);
		r->peer->requests--;
		r->peer->user->bytes -= r->length;
		free(r->message);
		free(r);
	}
	while ((p = TAILQ_FIRST(&ep->peers)) != NULL)
		hang_up(p);
	bury(ep);
	endpoint_free(ep);
}

uid_t endpoint_uid(const struct endpoint_request *r)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	return r->peer->user->uid;
}

const char *endpoint_bytes(const struct endpoint_request *r, size_t *ret_length)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	*ret_length = r->length - r->ids;
	return r->message + r->ids;
}

void endpoint_reply(struct endpoint_request *r, const char *bytes, size_t length)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	struct peer *p = r->peer;
	struct endpoint *ep = p->ep;
	uint8_t head[HEAD] = {1};
	uint64_t total = htobe64(r->ids + length);
	memcpy(head + 1, &total, sizeof total);
	const struct iovec parts[] = {
		{.iov_base = head, .iov_len = sizeof head},
		{.iov_base = r->message, .iov_len = r->ids},
		{.iov_base = (void *)(uintptr_t)bytes, .iov_len = length},
	};
	pthread_mutex_lock(&ep->lock);
	TAILQ_REMOVE(&ep->held, r, link);
	p->user->bytes -= r->length;
	if (bytes != NULL && !p->dead)
		send_parts(p, parts, length > 0 ? 3 : 2);
	p->requests--;
	bool over = p->dead && p->requests == 0;
	pthread_mutex_unlock(&ep->lock);
	if (over)
		wake(ep); /* it can be buried */
	r->magic = 0;
	free(r->message);
	free(r);
}
