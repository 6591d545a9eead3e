/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shm/weights.h"

uint64_t source_row_bytes(uint32_t type, uint64_t cols)
{
	/* Bytes of a block of 32: an f16 scale, an f16 minimum in the _1 types, high bits in Q5, then the codes. */
	static const uint32_t block[WEIGHTS_TYPES] = {[WEIGHTS_Q8_0] = 2 + 32, [WEIGHTS_Q4_0] = 2 + 16,
		[WEIGHTS_Q4_1] = 4 + 16, [WEIGHTS_Q5_0] = 2 + 4 + 16, [WEIGHTS_Q5_1] = 4 + 4 + 16};
	if (cols > UINT32_MAX)
		return 0;
	switch (type) {
	case WEIGHTS_F32:
		return cols * 4;
	case WEIGHTS_F16:
	case WEIGHTS_BF16:
		return cols * 2;
	default:
		return cols % WEIGHTS_BLOCK ? 0 : cols / WEIGHTS_BLOCK * block[type];
	}
}

int source_size(uint32_t type, uint32_t n_dims, const uint64_t dims[], uint64_t *ret_size, struct err *e)
{
	if (n_dims == 0 || n_dims > SOURCE_DIMS)
		return err_set(e, -EINVAL, "%u dimensions, expected 1 to %d", n_dims, SOURCE_DIMS);
	uint64_t size = source_row_bytes(type, dims[n_dims - 1]);
	if (size == 0)
		return err_set(e, -EINVAL, "rows of %llu elements do not fit type %s", (unsigned long long)dims[n_dims - 1],
			       weights_type_name(type));
	for (uint32_t i = 0; i + 1 < n_dims; i++)
		if (dims[i] == 0 || __builtin_mul_overflow(size, dims[i], &size))
			return err_set(e, -EINVAL, "its dimensions are zero or overflow");
	*ret_size = size;
	return 0;
}

int source_add(struct source *s, struct source_tensor t, struct err *e)
{
	if (names_add(&s->index, t.name, strlen(t.name), (uint32_t)s->length) < 0) {
		err_set(e, -EEXIST, "%s: tensor %s is there twice", t.file, t.name);
		free(t.name);
		return -EEXIST;
	}
	if (s->length == s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 64;
		s->list = xreallocarray(s->list, s->capacity, sizeof *s->list);
	}
	s->list[s->length++] = t;
	return 0;
}

struct source_tensor *source_find(struct source *s, const char *name)
{
	uint32_t i = names_find(&s->index, name, strlen(name));
	return i == NAMES_NONE ? NULL : &s->list[i];
}

const char *source_shape(const struct source_tensor *t, char text[64])
{
	size_t at = 0;
	text[0] = '\0';
	for (uint32_t i = 0; i < t->n_dims && at < 64; i++)
		at += (size_t)snprintf(text + at, 64 - at, "%s%llu", i ? " x " : "", (unsigned long long)t->dims[i]);
	return text;
}

void source_done(struct source *s)
{
	for (size_t i = 0; i < s->length; i++)
		free(s->list[i].name);
	free(s->list);
	names_done(&s->index);
	*s = (struct source){0};
}
