/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/support/wire.h"

#include <endian.h>
#include <poll.h>
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

enum { FRAME_BYTES = 9, ID_BYTES = 4 }; /* type 1 and a 64-bit length; the request id in front of the message */

/* Exactly n bytes, or -1. */
static int take(int fd, void *bytes, size_t n)
{
	for (char *at = bytes; n > 0;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got = poll(&p, 1, WIRE_WAIT_MS) == 1 ? recv(fd, at, n, 0) : -1;
		if (got <= 0)
			return -1;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

static int give(int fd, const void *bytes, size_t n)
{
	for (const char *at = bytes; n > 0;) {
		ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
		if (sent < 0)
			return -1;
		at += sent;
		n -= (size_t)sent;
	}
	return 0;
}

int wire_open(const char *path)
{
	static const unsigned char request[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0}, reply[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	unsigned char greeting[8];
	snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && give(fd, request, 8) == 0 && take(fd, greeting, 8) == 0 &&
	    memcmp(greeting, reply, 8) == 0)
		return fd;
	close(fd);
	return -1;
}

int wire_send(int fd, const void *bytes, size_t length)
{
	unsigned char head[FRAME_BYTES + ID_BYTES] = {1};
	uint64_t size = htobe64(length + ID_BYTES);
	static uint32_t number;
	uint32_t id = htobe32(0x80000000u | ++number);
	memcpy(head + 1, &size, 8);
	memcpy(head + FRAME_BYTES, &id, 4);
	return give(fd, head, sizeof head) == 0 && give(fd, bytes, length) == 0;
}

json_t *wire_receive(int fd)
{
	unsigned char head[FRAME_BYTES + ID_BYTES];
	uint64_t size;
	if (take(fd, head, sizeof head) < 0)
		return NULL;
	memcpy(&size, head + 1, 8);
	size = be64toh(size) - ID_BYTES;
	assert_true(head[0] == 1 && size < 1u << 28);
	char *text = malloc(size + 1);
	json_error_t e;
	json_t *reply = take(fd, text, size) == 0 ? json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e) : NULL;
	free(text);
	return reply;
}

static struct {
	void (*again)(void *arg, int fd);
	void *arg;
} lost;

void wire_on_lost(void (*again)(void *arg, int fd), void *arg)
{
	lost.again = again;
	lost.arg = arg;
}

json_t *wire_ask(int fd, const char *format, ...)
{
	char *text;
	va_list args;
	va_start(args, format);
	int n = vasprintf(&text, format, args);
	va_end(args);
	assert_true(n > 0);
	json_t *reply = wire_send(fd, text, (size_t)n) ? wire_receive(fd) : NULL;
	for (int tries = 0; reply == NULL && lost.again != NULL && tries < 3; tries++) {
		lost.again(lost.arg, fd);
		reply = wire_send(fd, text, (size_t)n) ? wire_receive(fd) : NULL;
	}
	if (reply == NULL)
		fail_msg("no reply to %s", text);
	free(text);
	return reply;
}

const char *wire_code(const json_t *reply)
{
	const char *code = json_string_value(json_object_get(json_object_get(reply, "error"), "code"));
	return code ? code : "none";
}

json_t *wire_good(json_t *reply)
{
	if (json_object_get(reply, "error") != NULL)
		fail_msg("%s", json_dumps(reply, 0));
	return reply;
}
