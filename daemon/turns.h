/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose turn it is. Requests that have arrived are taken up owner by owner, one each, and an owner's requests have few of the threads
 * at a time: so a thousand requests of one user, however large, hold up another's by one or two of them.
 */
#ifndef FALCON_DAEMON_TURNS_H
#define FALCON_DAEMON_TURNS_H

#include <stdbool.h>
#include <sys/queue.h>

struct owner;
struct request;

/* The owners with requests that nobody has looked at yet, next one first. */
TAILQ_HEAD(turns, owner);
TAILQ_HEAD(turns_queue, request);

/* Puts a request behind those of its owner that have arrived. */
void turns_add(struct turns *t, struct request *q);

/* Takes out the request whose turn it is; NULL: there is none. */
struct request *turns_next(struct turns *t);

/* A thread for a request: true, or it waits until turns_end_thread() returns it. */
bool turns_begin_thread(struct request *q);

/* A request is done with its thread. Returns one of the owner's that may have it now, or NULL. */
struct request *turns_end_thread(struct owner *o);

/* The request waits no more, in whichever queue it did. */
void turns_leave(struct request *q);

#endif
