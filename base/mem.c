/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"

void *xmalloc(size_t size)
{
	void *p = malloc(size ? size : 1);
	CHECK(p != NULL);
	return p;
}

void *xcalloc(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size ? size : 1);
	CHECK(p != NULL);
	return p;
}

void *xreallocarray(void *old, size_t count, size_t size)
{
	void *p = reallocarray(old, count ? count : 1, size ? size : 1);
	CHECK(p != NULL);
	return p;
}

/*
 * A large one is not written here: its pages are given back, which makes them zeros that appear at the first touch, and the
 * kernel may make them huge. An engine's hundred megabytes of activations cost 30 ms of its start otherwise.
 */
void *xaligned(size_t alignment, size_t size)
{
	void *p = NULL;
	bool large = size >= MEM_HUGE;
	alignment = large && alignment < MEM_HUGE ? MEM_HUGE : alignment;
	size_t rounded = (size + alignment - 1) / alignment * alignment;
	rounded = rounded ? rounded : alignment;
	CHECK(posix_memalign(&p, alignment, rounded) == 0);
	if (large && madvise(p, rounded, MADV_DONTNEED) == 0)
		madvise(p, rounded, MADV_HUGEPAGE); /* a wish */
	else
		memset(p, 0, rounded);
	return p;
}

char *xstrdup(const char *text)
{
	return xstrndup(text, strlen(text));
}

char *xstrndup(const char *text, size_t length)
{
	char *p = xmalloc(length + 1);
	memcpy(p, text, length);
	p[length] = '\0';
	return p;
}

char *buf_reserve(struct buf *b, size_t more)
{
	if (b->capacity - b->length < more + 1) {
		size_t capacity = b->capacity ? b->capacity : 64;
		while (capacity - b->length < more + 1)
			capacity *= 2;
		b->data = xreallocarray(b->data, capacity, 1);
		b->capacity = capacity;
	}
	return b->data + b->length;
}

void buf_add(struct buf *b, const void *bytes, size_t length)
{
	char *at = buf_reserve(b, length);
	if (length)
		memcpy(at, bytes, length);
	b->length += length;
	b->data[b->length] = '\0';
}

void buf_printf(struct buf *b, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int n = vsnprintf(NULL, 0, format, args);
	va_end(args);
	CHECK(n >= 0);
	char *at = buf_reserve(b, (size_t)n);
	va_start(args, format);
	vsnprintf(at, (size_t)n + 1, format, args);
	va_end(args);
	b->length += (size_t)n;
}

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

void ids_add(struct ids *list, int32_t id)
{
	if (list->length == list->capacity) {
		list->capacity = list->capacity ? list->capacity * 2 : 64;
		list->data = xreallocarray(list->data, list->capacity, sizeof *list->data);
	}
	list->data[list->length++] = id;
}

void ids_done(struct ids *list)
{
	free(list->data);
	*list = (struct ids){0};
}
