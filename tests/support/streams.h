/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several sessions that are read at once, so that what they say in two circumstances can be compared token by token. Number i
 * has the same prompt, seed and parameters whenever it is begun; some prompts are long.
 */
#ifndef FALCON_TESTS_SUPPORT_STREAMS_H
#define FALCON_TESTS_SUPPORT_STREAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

enum { STREAMS_MOST = 16 };

struct streams {
	int c; /* the connection */
	unsigned n;
	struct streams_one {
		char name[32];
		json_t *ids;       /* generated */
		long long given, cursor;
		bool over;
		char finish[16];   /* as `next` said, or "" */
		char code[24], message[256]; /* of the error that ended it, or "" */
	} of[STREAMS_MOST];
};

/* Begins n sessions PREFIX-0 ..., of `tokens` tokens each, over a connection that stays the caller's. */
void streams_begin(struct streams *s, int c, const char *prefix, unsigned n, unsigned tokens);

/* Asks each that is not over once, waiting at most wait_ms for each. False: all are over. */
bool streams_read(struct streams *s, int wait_ms);
static inline void streams_finish(struct streams *s)
{
	while (streams_read(s, 1000))
		;
}

/* Fails the test unless both said the same, but for number `except` (-1: none), of which `a` may have said the beginning alone. */
void streams_expect_equal(const struct streams *a, const struct streams *b, int except);

/* Drops the sessions and frees what was read. */
void streams_done(struct streams *s);

/* A number of `status`: of the object if it is not NULL. */
long long streams_status(int c, const char *object, const char *field);
/* The pid of the engine, once there is one. */
pid_t streams_engine(int c);

#endif
