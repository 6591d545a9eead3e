/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of the protocol that needs nothing but a socket: it speaks what nng's REQ says over ipc:// (SP over a stream: a
 * greeting, then frames of a type byte, a length and a request id). It has no threads, so a test may fork around it. What
 * cannot go wrong fails the cmocka test at hand.
 */
#ifndef FALCON_TESTS_WIRE_H
#define FALCON_TESTS_WIRE_H

#include <jansson.h>
#include <stddef.h>

enum { WIRE_WAIT_MS = 60000 };

/* Connects to the socket at this path: a descriptor, or -1 if nobody listens or it is not allowed. */
int wire_open(const char *path);

/* Sends one request of any bytes. False: the connection is gone. */
int wire_send(int fd, const void *bytes, size_t length);

/* The reply, or NULL if the connection is closed or nothing came within WIRE_WAIT_MS. */
json_t *wire_receive(int fd);

/*
 * What wire_ask() does when the connection is lost: again(arg, fd) puts a new one into its place (dup2) and the request is sent
 * again, as any client does. NULL, as at first: it fails the test.
 */
void wire_on_lost(void (*again)(void *arg, int fd), void *arg);

/* Sends the formatted JSON and returns the reply; fails the test if there is none. */
json_t *wire_ask(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The code of the error that a reply tells, or "none". */
const char *wire_code(const json_t *reply);

/* The reply itself; fails the test if it tells an error. */
json_t *wire_good(json_t *reply);

/* Both: asks, and fails the test unless the reply tells no error. */
#define wire_get(fd, ...) wire_good(wire_ask(fd, __VA_ARGS__))

#endif
