/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What falcond tells whoever started it as systemd does: the test is at the other end of NOTIFY_SOCKET. tests/systemd/service sees
 * the same from a real systemd, which shows no more than the last word of each kind.
 */
#define _GNU_SOURCE
#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/daemon.h"

enum { WAIT_S = 60, FDS_MOST = 8, LINES_MOST = 4096 };

static void hang_up(const struct daemon *d, int fd)
{
	char path[96];
	close(fd);
	snprintf(path, sizeof path, "%s/n", d->folder);
	unlink(path);
	unsetenv("NOTIFY_SOCKET");
}

static int listen_as_systemd(const struct daemon *d)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	snprintf(at.sun_path, sizeof at.sun_path, "%s/n", d->folder);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	const struct timeval wait = {.tv_sec = WAIT_S};
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait), 0);
	setenv("NOTIFY_SOCKET", at.sun_path, 1);
	return fd;
}

/* The next message. Descriptors that come with it are closed, which is the answer to a barrier; returns how many. */
static unsigned hear(int fd, char *ret_text, size_t size)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_MOST * sizeof(int))];
	} control;
	struct iovec text = {ret_text, size - 1};
	struct msghdr m = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	if (n < 0)
		fail_msg("falcond said nothing for %d s", WAIT_S);
	ret_text[n] = '\0';
	unsigned fds = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at < c->cmsg_len; at += sizeof(int), fds++) {
			int got;
			memcpy(&got, (char *)c + at, sizeof got);
			close(got);
		}
	}
	return fds;
}

static void falcond_says_how_far_it_is_and_what_is_to_be_kept_before_it_is_ready(void **state)
{
	(void)state;
	struct daemon d;
	char text[1024];
	unsigned percent, last = 0, reports = 0, stored = 0;
	bool barrier = false;
	daemon_prepare(&d);
	int fd = listen_as_systemd(&d);
	daemon_launch(&d, NULL);
	for (unsigned i = 0;; i++) {
		assert_true(i < LINES_MOST);
		unsigned fds = hear(fd, text, sizeof text);
		if (sscanf(text, "STATUS=packing the model: %u %%", &percent) == 1) {
			assert_in_range(percent, last, 100);
			last = percent;
			reports++;
		} else if (strstr(text, "FDSTORE=1") != NULL) {
			assert_int_equal(stored, 0);
			stored = fds;
		} else if (strstr(text, "BARRIER=1") != NULL) {
			assert_int_equal(fds, 1);
			barrier = stored > 0;
		} else if (strstr(text, "READY=1") != NULL) {
			break;
		}
	}
	assert_true(reports > 1);
	assert_int_equal(last, 100);
	assert_int_equal(stored, 3); /* weights, pages, board, in one message */
	assert_true(barrier);
	assert_int_equal(access(d.path, F_OK), 0); /* clients are served */
	hear(fd, text, sizeof text);
	assert_string_equal(text, "STATUS=serving falcon-tales");
	assert_int_equal(daemon_stop(&d), 0);
	do
		hear(fd, text, sizeof text);
	while (strcmp(text, "STOPPING=1") != 0);
	hang_up(&d, fd);
	daemon_clean(&d);
}

static void the_watchdog_is_fed_for_as_long_as_falcond_serves(void **state)
{
	(void)state;
	struct daemon d;
	char text[1024];
	daemon_prepare(&d);
	int fd = listen_as_systemd(&d);
	setenv("WATCHDOG_USEC", "1000000", 1);
	daemon_launch(&d, NULL);
	do
		hear(fd, text, sizeof text);
	while (strcmp(text, "READY=1") != 0);
	for (int fed = 0; fed < 5; fed += strcmp(text, "WATCHDOG=1") == 0)
		hear(fd, text, sizeof text);
	assert_int_equal(daemon_stop(&d), 0);
	hang_up(&d, fd);
	unsetenv("WATCHDOG_USEC");
	daemon_clean(&d);
}

int main(void)
{
#ifndef HAVE_SYSTEMD
	return 77; /* there is nothing that it says */
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(falcond_says_how_far_it_is_and_what_is_to_be_kept_before_it_is_ready),
		cmocka_unit_test(the_watchdog_is_fed_for_as_long_as_falcond_serves),
	};
	return cmocka_run_group_tests_name("daemon_notify", tests, NULL, NULL);
}
