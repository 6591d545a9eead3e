/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/owner.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/mem.h"

enum { BUCKETS = sizeof((struct owners *)0)->buckets / sizeof(struct owner *) };

struct owner *owner_get(struct owners *o, uint64_t id)
{
	struct owner **bucket = &o->buckets[hash64(&id, sizeof id) % BUCKETS];
	for (struct owner *at = *bucket; at != NULL; at = at->next)
		if (at->id == id)
			return at;
	struct owner *made = xcalloc(1, sizeof *made);
	made->id = id;
	made->next_number = 1;
	TAILQ_INIT(&made->arrived);
	TAILQ_INIT(&made->heavy);
	made->next = *bucket;
	*bucket = made;
	return made;
}

void owners_done(struct owners *o)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct owner *at = o->buckets[i], *next; at != NULL; at = next) {
			next = at->next;
			free(at);
		}
	*o = (struct owners){0};
}
