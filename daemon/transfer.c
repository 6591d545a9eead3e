/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/transfer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

enum { PER_OWNER = 4, EXPIRE_S = 60 };

struct transfer *transfer_find(struct transfers *list, const struct owner *o, bool import, const char *id, size_t id_length)
{
	struct transfer *t;
	TAILQ_FOREACH (t, list, link)
		if (t->owner == o && t->import == import && t->id_length == id_length && memcmp(t->id, id, id_length) == 0)
			break;
	if (t != NULL)
		t->touched = clock_ns();
	return t;
}

/* Whether the owner may have one more; one that was read to its end goes for it. */
static bool make_room(struct transfers *list, const struct owner *o)
{
	struct transfer *t, *over = NULL;
	unsigned n = 0;
	TAILQ_FOREACH (t, list, link) {
		n += t->owner == o;
		if (t->owner == o && t->over && t->users == 0)
			over = t;
	}
	if (n >= PER_OWNER && over != NULL) {
		transfer_free(list, over);
		n--;
	}
	return n < PER_OWNER;
}

struct transfer *transfer_new(struct transfers *list, const struct owner *o, bool import, const char *id, size_t id_length, int fd)
{
	CHECK(id_length <= BOARD_REQUEST);
	if (!make_room(list, o)) {
		close(fd);
		return NULL;
	}
	struct transfer *t = xcalloc(1, sizeof *t);
	t->owner = o;
	t->import = import;
	memcpy(t->id, id, id_length);
	t->id_length = id_length;
	t->fd = fd;
	t->touched = clock_ns();
	TAILQ_INSERT_TAIL(list, t, link);
	return t;
}

void transfer_free(struct transfers *list, struct transfer *t)
{
	CHECK(t->users == 0);
	TAILQ_REMOVE(list, t, link);
	if (t->copy.spill != NULL)
		spill_copy_done(&t->copy);
	if (t->fd >= 0)
		close(t->fd);
	free(t->head_bytes);
	free(t);
}

void transfers_expire(struct transfers *list)
{
	uint64_t now = clock_ns();
	for (struct transfer *t = TAILQ_FIRST(list), *next; t != NULL; t = next) {
		next = TAILQ_NEXT(t, link);
		if (t->users == 0 && now - t->touched >= EXPIRE_S * UINT64_C(1000000000))
			transfer_free(list, t);
	}
}

void transfers_done(struct transfers *list)
{
	while (!TAILQ_EMPTY(list))
		transfer_free(list, TAILQ_FIRST(list));
}
