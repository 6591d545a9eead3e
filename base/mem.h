/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation that aborts when the machine has no memory left. Sizes that come from input are bounded by their parser
 * before they get here. Buffers of bytes that grow are struct buf.
 */
#ifndef FALCON_BASE_MEM_H
#define FALCON_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

enum { MEM_HUGE = 2 << 20 }; /* bytes of a huge page */

void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull)); /* aborts on overflow */
void *xreallocarray(void *old, size_t count, size_t size) __attribute__((returns_nonnull));
void *xaligned(size_t alignment, size_t size) __attribute__((malloc, returns_nonnull)); /* zeroed; free() frees it */
char *xstrdup(const char *text) __attribute__((malloc, returns_nonnull));
char *xstrndup(const char *text, size_t length) __attribute__((malloc, returns_nonnull));

struct buf {
	char *data; /* NUL after the last byte once anything was added; NULL before */
	size_t length, capacity;
};

void buf_add(struct buf *b, const void *bytes, size_t length);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for `more` bytes after the current end and returns where they go; the caller raises length. */
char *buf_reserve(struct buf *b, size_t more);
void buf_done(struct buf *b);

/* A growing list of token ids. */
struct ids {
	int32_t *data;
	size_t length, capacity;
};

void ids_add(struct ids *list, int32_t id);
void ids_done(struct ids *list);

#endif
