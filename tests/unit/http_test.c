/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP without a falcond behind it: what a client meets before there is a model, and each limit that keeps one client from holding
 * up others. Clients are plain sockets in the same thread; the loop is run until what is expected has happened.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "http/http.h"
#include "tests/support/tree.h"

enum { WAIT_MS = 30000, CLIENTS = 4 };

#define ASK "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"

struct lab {
	uv_loop_t loop;
	struct http *http;
	char folder[64], path[72], handed_path[72], address[80];
	int handed;
};

/* A client's end, and what came. */
struct client {
	int fd;
	struct buf got;
	bool ended;
};

static bool everybody(void *arg, uid_t uid)
{
	(void)arg;
	(void)uid;
	return true;
}

static void address_of(const char *path, struct sockaddr_un *at)
{
	*at = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(at->sun_path, path, strlen(path) + 1);
}

/* An address of its own, and a socket that was handed over. */
static void open_lab(struct lab *l, struct http_options o)
{
	struct sockaddr_un at;
	struct err e;
	tree_make(l->folder, sizeof l->folder);
	snprintf(l->path, sizeof l->path, "%s/a", l->folder);
	snprintf(l->handed_path, sizeof l->handed_path, "%s/h", l->folder);
	snprintf(l->address, sizeof l->address, "unix:%s", l->path);
	l->handed = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	address_of(l->handed_path, &at);
	assert_int_equal(bind(l->handed, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(l->handed, 8), 0);
	assert_int_equal(http_check_handed(l->handed, &e), 0);
	assert_int_equal(uv_loop_init(&l->loop), 0);
	o.loop = &l->loop;
	o.listen = l->address;
	o.mode = 0600;
	o.group = (gid_t)-1;
	o.handed = &l->handed;
	o.n_handed = 1;
	o.unready = "not yet";
	o.admin = everybody;
	o.max_bytes = 1000;
	if (o.limits.connections == 0)
		o.limits = http_limits;
	if (http_open(&o, &l->http, &e) < 0)
		fail_msg("%s", e.what);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

static void close_lab(struct lab *l)
{
	http_stop(l->http, "the end");
	while (!http_stopped(l->http))
		uv_run(&l->loop, UV_RUN_ONCE);
	uv_walk(&l->loop, close_handle, NULL);
	uv_run(&l->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&l->loop), 0);
	http_free(l->http);
	close(l->handed);
	unlink(l->handed_path);
	assert_int_equal(rmdir(l->folder), 0); /* the address's own file is gone */
}

static struct client dial(const char *path, const char *bytes)
{
	struct sockaddr_un at;
	struct client c = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	address_of(path, &at);
	assert_int_equal(connect(c.fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(fcntl(c.fd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(send(c.fd, bytes, strlen(bytes), MSG_NOSIGNAL), (ssize_t)strlen(bytes));
	return c;
}

/* One turn of the loop and of the client. */
static void turn(struct lab *l, struct client *c)
{
	char bytes[4096];
	uv_run(&l->loop, UV_RUN_NOWAIT);
	ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
	if (n > 0)
		buf_add(&c->got, bytes, (size_t)n);
	else if (n == 0 || errno != EAGAIN)
		c->ended = true;
	else
		usleep(1000);
}

static bool has(const struct client *c, const char *text)
{
	return c->got.data != NULL && strstr(c->got.data, text) != NULL;
}

/* Runs until the client has got this text, NULL: until falcond has closed its connection. Returns the milliseconds that it took. */
static uint64_t await(struct lab *l, struct client *c, const char *text)
{
	uint64_t begin = clock_ns();
	while (text != NULL ? !has(c, text) : !c->ended) {
		turn(l, c);
		if (clock_ns() - begin > WAIT_MS * UINT64_C(1000000))
			fail_msg("%s did not come; there is: %s", text ? text : "the end", c->got.data ? c->got.data : "nothing");
	}
	return (clock_ns() - begin) / 1000000;
}

static void hang_up(struct client *c)
{
	close(c->fd);
	buf_done(&c->got);
}

static void who_asks_at_an_address_before_there_is_a_model_is_told_at_once(void **state)
{
	(void)state;
	struct lab l;
	open_lab(&l, (struct http_options){.hold_ms = WAIT_MS * 10});
	struct client c = dial(l.path, ASK);
	await(&l, &c, "not yet");
	assert_true(has(&c, "HTTP/1.1 503 "));
	assert_true(has(&c, "Retry-After: 5"));
	hang_up(&c);
	close_lab(&l);
}

static void who_asks_at_a_handed_socket_waits_for_the_model(void **state)
{
	(void)state;
	struct lab l;
	open_lab(&l, (struct http_options){.hold_ms = WAIT_MS * 10});
	struct client c = dial(l.handed_path, ASK), health = dial(l.handed_path, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		      gone = dial(l.handed_path, ASK);
	await(&l, &health, "HTTP/1.1 503 ");
	hang_up(&gone);
	for (int i = 0; i < 50; i++)
		turn(&l, &c);
	assert_int_equal(c.got.length, 0);
	http_ready(l.http, "tales", 128);
	await(&l, &c, "\"tales\"");
	hang_up(&c);
	hang_up(&health);
	close_lab(&l);
}

static void but_not_for_ever(void **state)
{
	(void)state;
	struct lab l;
	open_lab(&l, (struct http_options){.hold_ms = 300});
	struct client c = dial(l.handed_path, ASK);
	assert_true(await(&l, &c, "not yet") >= 250);
	assert_true(has(&c, "HTTP/1.1 503 "));
	hang_up(&c);
	close_lab(&l);
}

static void who_waits_is_told_why_when_falcond_stops(void **state)
{
	(void)state;
	struct lab l;
	open_lab(&l, (struct http_options){.hold_ms = WAIT_MS * 10});
	struct client c = dial(l.handed_path, ASK);
	for (int i = 0; i < 50; i++)
		turn(&l, &c);
	http_stop(l.http, "no model");
	await(&l, &c, "no model");
	hang_up(&c);
	close_lab(&l);
}

/* What a half-open client, one that sends a byte now and then, and one with too long a head meet. */
static void a_client_that_says_nothing_is_cut_off(void **state)
{
	(void)state;
	struct lab l;
	struct http_limits limits = http_limits;
	limits.idle_s = 1;
	open_lab(&l, (struct http_options){.limits = limits});
	struct client c = dial(l.path, "GET /v1/mod");
	await(&l, &c, NULL);
	hang_up(&c);
	close_lab(&l);
}

static void a_client_that_never_ends_its_request_is_cut_off(void **state)
{
	(void)state;
	struct lab l;
	struct http_limits limits = http_limits;
	limits.request_s = 1;
	open_lab(&l, (struct http_options){.limits = limits});
	struct client c = dial(l.path, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: ");
	while (!c.ended) {
		if (send(c.fd, "x", 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
			break;
		turn(&l, &c);
		assert_true(c.got.length < 1000);
	}
	hang_up(&c);
	close_lab(&l);
}

static void a_head_that_is_too_long_is_refused(void **state)
{
	(void)state;
	struct lab l;
	struct http_limits limits = http_limits;
	limits.head_bytes = 4096;
	open_lab(&l, (struct http_options){.limits = limits});
	http_ready(l.http, "tales", 128);
	char head[6000];
	memset(head, 'x', sizeof head);
	memcpy(head, "GET /v1/models HTTP/1.1\r\nX: ", 28);
	head[sizeof head - 1] = '\0';
	struct client c = dial(l.path, head);
	await(&l, &c, "HTTP/1.1 4");
	await(&l, &c, NULL);
	hang_up(&c);
	close_lab(&l);
}

static void a_body_that_is_too_long_is_refused_with_a_length_and_without(void **state)
{
	(void)state;
	struct lab l;
	char chunks[2048];
	open_lab(&l, (struct http_options){0});
	http_ready(l.http, "tales", 128);
	struct client c = dial(l.path, "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n{");
	await(&l, &c, "HTTP/1.1 413 ");
	hang_up(&c);
	int n = snprintf(chunks, sizeof chunks, "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
	for (int i = 0; i < 11; i++)
		n += snprintf(chunks + n, sizeof chunks - (size_t)n, "64\r\n%0100d\r\n", i);
	c = dial(l.path, chunks);
	await(&l, &c, NULL);
	hang_up(&c);
	close_lab(&l);
}

/* The first CLIENTS - 1 are served, the last is not; once one has gone there is room again. */
static void expect_room_for_all_but_one(struct http_limits limits)
{
	struct lab l;
	struct client c[CLIENTS];
	open_lab(&l, (struct http_options){.limits = limits});
	http_ready(l.http, "tales", 128);
	for (int i = 0; i < CLIENTS - 1; i++) {
		c[i] = dial(l.path, ASK);
		await(&l, &c[i], "\"tales\"");
	}
	c[CLIENTS - 1] = dial(l.path, ASK);
	for (int i = 0; i < 100; i++)
		turn(&l, &c[CLIENTS - 1]);
	assert_int_equal(c[CLIENTS - 1].got.length, 0);
	hang_up(&c[CLIENTS - 1]);
	hang_up(&c[0]);
	for (int i = 0; i < 50; i++)
		turn(&l, &c[1]);
	assert_false(c[1].ended);
	c[0] = dial(l.path, ASK);
	await(&l, &c[0], "\"tales\"");
	for (int i = 0; i < CLIENTS - 1; i++)
		hang_up(&c[i]);
	close_lab(&l);
}

static void connections_are_limited(void **state)
{
	(void)state;
	struct http_limits limits = http_limits;
	limits.connections = CLIENTS - 1;
	expect_room_for_all_but_one(limits);
}

static void connections_of_one_user_are_limited(void **state)
{
	(void)state;
	struct http_limits limits = http_limits;
	limits.connections_uid = CLIENTS - 1;
	expect_room_for_all_but_one(limits);
}

static void what_is_no_listening_socket_is_not_taken(void **state)
{
	(void)state;
	struct err e;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(http_check_handed(pair[0], &e), -ENOTSOCK);
	assert_int_equal(http_check_handed(-1, &e), -ENOTSOCK);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_asks_at_an_address_before_there_is_a_model_is_told_at_once),
		cmocka_unit_test(who_asks_at_a_handed_socket_waits_for_the_model),
		cmocka_unit_test(but_not_for_ever),
		cmocka_unit_test(who_waits_is_told_why_when_falcond_stops),
		cmocka_unit_test(a_client_that_says_nothing_is_cut_off),
		cmocka_unit_test(a_client_that_never_ends_its_request_is_cut_off),
		cmocka_unit_test(a_head_that_is_too_long_is_refused),
		cmocka_unit_test(a_body_that_is_too_long_is_refused_with_a_length_and_without),
		cmocka_unit_test(connections_are_limited),
		cmocka_unit_test(connections_of_one_user_are_limited),
		cmocka_unit_test(what_is_no_listening_socket_is_not_taken),
	};
	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
