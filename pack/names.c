/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

/* The slot that holds text, or the free one where it belongs. The table is never full. */
static struct name *slot(const struct names *n, const char *text, size_t length)
{
	size_t mask = n->capacity - 1;
	for (size_t i = hash64(text, length) & mask;; i = (i + 1) & mask) {
		struct name *s = &n->slots[i];
		if (s->text == NULL || (s->length == length && memcmp(s->text, text, length) == 0))
			return s;
	}
}

static void grow(struct names *n)
{
	struct names bigger = {.capacity = n->capacity ? n->capacity * 2 : 64, .count = n->count};
	bigger.slots = xcalloc(bigger.capacity, sizeof *bigger.slots);
	for (size_t i = 0; i < n->capacity; i++)
		if (n->slots[i].text != NULL)
			*slot(&bigger, n->slots[i].text, n->slots[i].length) = n->slots[i];
	free(n->slots);
	*n = bigger;
}

int names_add(struct names *n, const char *text, size_t length, uint32_t value)
{
	if (n->count * 2 >= n->capacity)
		grow(n);
	struct name *s = slot(n, text, length);
	if (s->text != NULL)
		return -EEXIST;
	*s = (struct name){text, (uint32_t)length, value};
	n->count++;
	return 0;
}

uint32_t names_find(const struct names *n, const char *text, size_t length)
{
	if (n->capacity == 0)
		return NAMES_NONE;
	const struct name *s = slot(n, text, length);
	return s->text != NULL ? s->value : NAMES_NONE;
}

void names_done(struct names *n)
{
	free(n->slots);
	*n = (struct names){0};
}
