/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/turns.h"

#include <stddef.h>

#include "base/check.h"
#include "daemon/owner.h"
#include "daemon/request.h"

enum { THREADS_PER_OWNER = 2 }; /* of libuv's four */

static void put(struct turns_queue *queue, struct request *q)
{
	CHECK(q->queue == NULL);
	TAILQ_INSERT_TAIL(queue, q, queued);
	q->queue = queue;
}

/* The first of a queue, out of it; NULL: it is empty. */
static struct request *take(struct turns_queue *queue)
{
	struct request *q = TAILQ_FIRST(queue);
	if (q != NULL)
		turns_leave(q);
	return q;
}

void turns_leave(struct request *q)
{
	if (q->queue != NULL)
		TAILQ_REMOVE(q->queue, q, queued);
	q->queue = NULL;
}

void turns_add(struct turns *t, struct request *q)
{
	struct owner *o = q->owner;
	put(&o->arrived, q);
	if (!o->has_turn)
		TAILQ_INSERT_TAIL(t, o, turn);
	o->has_turn = true;
}

struct request *turns_next(struct turns *t)
{
	struct owner *o;
	while ((o = TAILQ_FIRST(t)) != NULL) {
		struct request *q = take(&o->arrived);
		TAILQ_REMOVE(t, o, turn);
		o->has_turn = !TAILQ_EMPTY(&o->arrived);
		if (o->has_turn)
			TAILQ_INSERT_TAIL(t, o, turn);
		if (q != NULL)
			return q;
	}
	return NULL;
}

bool turns_begin_thread(struct request *q)
{
	if (q->owner->threads == THREADS_PER_OWNER) {
		put(&q->owner->heavy, q);
		return false;
	}
	q->owner->threads++;
	return true;
}

struct request *turns_end_thread(struct owner *o)
{
	o->threads--;
	struct request *q = take(&o->heavy);
	if (q != NULL)
		o->threads++;
	return q;
}
