/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint against nng's own REQ, and against a client of a few lines that speaks the wire itself. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "ipc/endpoint.h"
#include "tests/support/tree.h"

enum { MANY = 1000, MAX_BYTES = 65536, MAX_PEERS = 400, MAX_USER_BYTES = 64 << 20 };

struct server {
	struct endpoint *ep;
	char folder[64], path[72], url[80];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct endpoint_request *held[MANY];
	size_t n, hold; /* requests are answered once `hold` are there */
	uid_t uid;
};

static void answer(struct endpoint_request *r)
{
	size_t length;
	const char *bytes = endpoint_bytes(r, &length);
	char *copy = malloc(length + 1);
	copy[0] = '>';
	memcpy(copy + 1, bytes, length);
	endpoint_reply(r, copy, length + 1);
	free(copy);
}

static void receive(void *arg, struct endpoint_request *r)
{
	struct server *s = arg;
	pthread_mutex_lock(&s->lock);
	s->uid = endpoint_uid(r);
	s->held[s->n++] = r;
	if (s->n >= s->hold) {
		for (size_t i = 0; i < s->n; i++)
			answer(s->held[i]);
		s->n = 0;
	}
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static struct endpoint_options options_of(struct server *s)
{
	return (struct endpoint_options){
		.url = s->url, .mode = 0620, .group = (gid_t)-1, .max_bytes = MAX_BYTES, .max_peers = MAX_PEERS,
		.max_user_bytes = MAX_USER_BYTES, .receive = receive, .arg = s};
}

static int start(void **state)
{
	struct server *s = calloc(1, sizeof *s);
	tree_make(s->folder, sizeof s->folder);
	snprintf(s->path, sizeof s->path, "%s/s", s->folder);
	snprintf(s->url, sizeof s->url, "ipc://%s", s->path);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	struct err e = {0};
	struct endpoint_options o = options_of(s);
	s->hold = 1;
	if (endpoint_open(&o, &s->ep, &e) < 0)
		fail_msg("%s", e.what);
	*state = s;
	return 0;
}

static int stop(void **state)
{
	struct server *s = *state;
	endpoint_close(s->ep);
	unlink(s->path);
	assert_int_equal(rmdir(s->folder), 0);
	free(s);
	return 0;
}

static nng_socket dial(struct server *s)
{
	nng_socket req;
	assert_int_equal(nng_req0_open(&req), 0);
	assert_int_equal(nng_dial(req, s->url, NULL, 0), 0);
	return req;
}

static void thousand_open_requests_are_all_answered(void **state)
{
	struct server *s = *state;
	static nng_ctx context[MANY];
	static nng_aio *aio[MANY];
	nng_socket req = dial(s);
	s->hold = MANY;
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < MANY; i++) {
			nng_msg *m;
			if (round == 0) {
				assert_int_equal(nng_ctx_open(&context[i], req), 0);
				assert_int_equal(nng_aio_alloc(&aio[i], NULL, NULL), 0);
				nng_aio_set_timeout(aio[i], 30000);
			}
			assert_int_equal(nng_msg_alloc(&m, 0), 0);
			assert_int_equal(nng_msg_append(m, &i, sizeof i), 0);
			nng_aio_set_msg(aio[i], m);
			nng_ctx_send(context[i], aio[i]);
			nng_aio_wait(aio[i]);
			assert_int_equal(nng_aio_result(aio[i]), 0);
			nng_ctx_recv(context[i], aio[i]);
		}
		for (int i = 0; i < MANY; i++) {
			nng_aio_wait(aio[i]);
			assert_int_equal(nng_aio_result(aio[i]), 0);
			nng_msg *m = nng_aio_get_msg(aio[i]);
			assert_int_equal(nng_msg_len(m), 1 + sizeof i);
			assert_memory_equal((char *)nng_msg_body(m) + 1, &i, sizeof i);
			nng_msg_free(m);
		}
	}
	for (int i = 0; i < MANY; i++) {
		nng_aio_free(aio[i]);
		nng_ctx_close(context[i]);
	}
	nng_close(req);
	s->hold = 1;
}

/* A client on the wire: the greeting of scalability protocols (REQ is 0x30), then length-prefixed messages. */
static int raw_connect(struct server *s)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	memcpy(a.sun_path, s->path, strlen(s->path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return fd;
	close(fd);
	return -1;
}

static int raw_dial(struct server *s)
{
	static const uint8_t hello[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
	uint8_t reply[8];
	int fd = raw_connect(s);
	if (fd < 0)
		return -1;
	if (send(fd, hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello &&
	    recv(fd, reply, sizeof reply, MSG_WAITALL) == sizeof reply) {
		assert_int_equal(reply[5], 0x31);
		return fd;
	}
	close(fd);
	return -1;
}

static void raw_send(int fd, size_t length)
{
	uint8_t head[13] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 7};
	for (int i = 0; i < 4; i++)
		head[8 - i] = (uint8_t)((length + 4) >> 8 * i);
	char *body = calloc(1, length);
	send(fd, head, sizeof head, MSG_NOSIGNAL);
	size_t sent = 0;
	while (sent < length) {
		ssize_t n = send(fd, body + sent, length - sent, MSG_NOSIGNAL);
		if (n <= 0)
			break; /* the other side has hung up */
		sent += (size_t)n;
	}
	free(body);
}

/* Bytes of the reply's body, or -1 if the server hung up. */
static int raw_receive(int fd)
{
	uint8_t head[13];
	if (recv(fd, head, sizeof head, MSG_WAITALL) != sizeof head)
		return -1;
	int length = (head[7] << 8 | head[8]) - 4;
	char *body = malloc((size_t)length);
	assert_int_equal(recv(fd, body, (size_t)length, MSG_WAITALL), length);
	free(body);
	return length;
}

static void an_oversized_message_closes_that_pipe_alone(void **state)
{
	struct server *s = *state;
	int good = raw_dial(s), greedy = raw_dial(s);
	raw_send(good, 10);
	assert_int_equal(raw_receive(good), 11);
	raw_send(greedy, MAX_BYTES + 1);
	assert_int_equal(raw_receive(greedy), -1);
	raw_send(good, 20);
	assert_int_equal(raw_receive(good), 21);
	close(good);
	close(greedy);
}

static void the_peers_uid_is_the_kernels(void **state)
{
	struct server *s = *state;
	int fd = raw_dial(s);
	raw_send(fd, 1);
	assert_int_equal(raw_receive(fd), 2);
	assert_int_equal(s->uid, geteuid());
	close(fd);
	if (geteuid() != 0)
		return;
	/* This thread alone becomes another user for the connection, as only the bare system call allows. */
	assert_int_equal(chmod(s->folder, 0711), 0);
	assert_int_equal(chmod(s->path, 0666), 0);
	assert_int_equal(syscall(SYS_setresuid, -1, 12345, -1), 0);
	fd = raw_dial(s);
	assert_int_equal(syscall(SYS_setresuid, -1, 0, -1), 0);
	raw_send(fd, 1);
	assert_int_equal(raw_receive(fd), 2);
	assert_int_equal(s->uid, 12345);
	close(fd);
}

static void the_socket_has_the_mode_asked_for_and_goes_with_the_endpoint(void **state)
{
	struct server *s = *state;
	struct stat st;
	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0620);
	endpoint_close(s->ep);
	s->ep = NULL;
	assert_int_equal(stat(s->path, &st), -1);
}

/* One request on a connection of its own, again until it is answered: the listener may just be opened anew. */
static void ask_until_answered(struct server *s)
{
	int length = -1;
	for (int i = 0; i < 100 && length < 0; i++) {
		int fd = raw_dial(s);
		if (fd >= 0) {
			raw_send(fd, 3);
			length = raw_receive(fd);
			close(fd);
		}
		usleep(20000);
	}
	assert_int_equal(length, 4);
}

static void peers_that_hang_up_before_they_greet_do_not_end_the_service(void **state)
{
	struct server *s = *state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 20; i++)
			close(raw_connect(s));
		ask_until_answered(s);
	}
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

/* Connections with requests that nobody will read the replies of, some cut in the middle of a message. */
static void peers_that_hang_up_with_requests_open_leave_nothing_behind(void **state)
{
	struct server *s = *state;
	ask_until_answered(s);
	size_t before = open_descriptors();
	for (int i = 0; i < 300; i++) {
		int fd = raw_dial(s);
		for (int k = 0; k < 8; k++)
			raw_send(fd, 50);
		if (i % 3 == 0)
			send(fd, "\1\0\0\0", 4, MSG_NOSIGNAL);
		close(fd);
	}
	ask_until_answered(s);
	for (int i = 0; i < 200 && open_descriptors() > before; i++)
		usleep(10000);
	assert_true(open_descriptors() <= before);
}

/* Half a gigabyte of replies is asked for and none is read: the server stops reading instead of piling them up. */
static void a_peer_that_reads_nothing_is_not_read_from(void **state)
{
	struct server *s = *state;
	int fd = raw_dial(s);
	size_t asked = 0, body = 60000;
	char *bytes = calloc(1, body + 13);
	const uint8_t head[13] = {1, 0, 0, 0, 0, 0, 0, (uint8_t)((body + 4) >> 8), (uint8_t)(body + 4), 0x80, 0, 0, 7};
	memcpy(bytes, head, sizeof head);
	struct timeval patience = {.tv_sec = 1};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	while (asked < 500000000) {
		if (send(fd, bytes, body + 13, MSG_NOSIGNAL) != (ssize_t)(body + 13))
			break;
		asked += body;
	}
	assert_in_range(asked, 1, 16000000);
	ask_until_answered(s); /* others are served */
	close(fd);
	free(bytes);
}

static void a_live_socket_is_refused_and_a_stale_one_replaced(void **state)
{
	struct server *s = *state;
	struct endpoint_options o = options_of(s);
	struct endpoint *second = NULL;
	struct err e = {0};
	assert_int_equal(endpoint_open(&o, &second, &e), -EADDRINUSE);
	assert_null(second);
	assert_non_null(strstr(e.what, "another process"));
	ask_until_answered(s); /* the first one is still there */
	endpoint_close(s->ep);

	struct sockaddr_un a = {.sun_family = AF_UNIX};
	memcpy(a.sun_path, s->path, strlen(s->path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	close(fd); /* what a killed process leaves */
	assert_int_equal(access(s->path, F_OK), 0);
	assert_int_equal(endpoint_open(&o, &s->ep, &e), 0);
	fd = raw_dial(s);
	raw_send(fd, 3);
	assert_int_equal(raw_receive(fd), 4);
	close(fd);
}

static void a_peer_that_goes_before_its_reply_is_nobodys_error(void **state)
{
	struct server *s = *state;
	s->hold = 3;
	int gone = raw_dial(s);
	raw_send(gone, 1);
	pthread_mutex_lock(&s->lock);
	while (s->n < 1)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	close(gone);
	int a = raw_dial(s), b = raw_dial(s);
	raw_send(a, 5);
	raw_send(b, 6);
	assert_int_equal(raw_receive(a), 6);
	assert_int_equal(raw_receive(b), 7);
	close(a);
	close(b);
	s->hold = 1;
}

static void a_request_may_be_dropped(void **state)
{
	struct server *s = *state;
	s->hold = 2;
	int fd = raw_dial(s);
	raw_send(fd, 1);
	pthread_mutex_lock(&s->lock);
	while (s->n < 1)
		pthread_cond_wait(&s->changed, &s->lock);
	endpoint_reply(s->held[0], NULL, 0);
	s->n = 0;
	s->hold = 1;
	pthread_mutex_unlock(&s->lock);
	raw_send(fd, 2);
	assert_int_equal(raw_receive(fd), 3);
	close(fd);
}

static void other_addresses_are_refused(void **state)
{
	struct server *s = *state;
	struct endpoint_options o = options_of(s);
	struct endpoint *second = NULL;
	struct err e = {0};
	o.url = "tcp://127.0.0.1:1";
	assert_int_equal(endpoint_open(&o, &second, &e), -EINVAL);
	o.url = "ipc:///nowhere/at/all/s";
	assert_true(endpoint_open(&o, &second, &e) < 0);
	assert_non_null(strstr(e.what, "/nowhere/at/all/s"));
	assert_null(second);
}

static void one_user_has_at_most_half_of_the_connections(void **state)
{
	struct server *s = *state;
	int fds[MAX_PEERS / 2];
	for (int i = 0; i < MAX_PEERS / 2; i++) {
		fds[i] = raw_dial(s);
		assert_true(fds[i] >= 0);
	}
	assert_int_equal(raw_dial(s), -1); /* accepted, so that nobody waits, and closed before any greeting */
	raw_send(fds[0], 10);
	assert_int_equal(raw_receive(fds[0]), 11); /* those that are there go on */
	for (int i = 0; i < MAX_PEERS / 2; i++)
		close(fds[i]);
	ask_until_answered(s);
}

/* Messages that never end: each connection has sent all but the last byte of one. */
static void what_one_user_has_in_memory_is_bounded(void **state)
{
	struct server *s = *state;
	struct endpoint_options o = options_of(s);
	struct err e;
	enum { FIT = 16, TRIED = 20 };
	o.max_user_bytes = FIT * 60004;
	endpoint_close(s->ep);
	assert_int_equal(endpoint_open(&o, &s->ep, &e), 0);
	int fds[TRIED], open = 0;
	for (int i = 0; i < TRIED; i++) {
		const uint8_t head[13] = {1, 0, 0, 0, 0, 0, 0, 60004 >> 8, 60004 & 255, 0x80, 0, 0, 7};
		static char body[59999];
		char byte;
		fds[i] = raw_dial(s);
		assert_true(fds[i] >= 0);
		send(fds[i], head, sizeof head, MSG_NOSIGNAL);
		send(fds[i], body, sizeof body, MSG_NOSIGNAL);
		struct timeval patience = {.tv_usec = i < FIT ? 1 : 5000000};
		setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		open += recv(fds[i], &byte, 1, 0) < 0 && errno == EAGAIN;
	}
	assert_int_equal(open, FIT);
	close(fds[0]); /* makes room for one */
	for (int i = FIT; i < TRIED; i++)
		close(fds[i]);
	ask_until_answered(s);
	send(fds[1], "", 1, MSG_NOSIGNAL); /* and those that were there are served */
	struct timeval patience = {.tv_sec = 20};
	setsockopt(fds[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	assert_int_equal(raw_receive(fds[1]), 60001);
	for (int i = 1; i < FIT; i++)
		close(fds[i]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(thousand_open_requests_are_all_answered),
		TEST(an_oversized_message_closes_that_pipe_alone),
		TEST(the_peers_uid_is_the_kernels),
		TEST(the_socket_has_the_mode_asked_for_and_goes_with_the_endpoint),
		TEST(peers_that_hang_up_before_they_greet_do_not_end_the_service),
		TEST(peers_that_hang_up_with_requests_open_leave_nothing_behind),
		TEST(a_peer_that_reads_nothing_is_not_read_from),
		TEST(one_user_has_at_most_half_of_the_connections),
		TEST(what_one_user_has_in_memory_is_bounded),
		TEST(a_live_socket_is_refused_and_a_stale_one_replaced),
		TEST(a_peer_that_goes_before_its_reply_is_nobodys_error),
		TEST(a_request_may_be_dropped),
		TEST(other_addresses_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
