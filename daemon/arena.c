/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

void arena_init(struct arena *a, int fd, const struct pages_header *h)
{
	*a = (struct arena){.fd = fd, .payload_offset = h->payload_offset, .stride = h->stride, .n_pages = h->n_pages,
			    .n_free = h->n_pages};
	a->free = xcalloc(h->n_pages, sizeof *a->free);
	a->refs = xcalloc(h->n_pages, sizeof *a->refs);
	a->pins = xcalloc(h->n_pages, sizeof *a->pins);
	for (uint32_t i = 0; i < h->n_pages; i++)
		a->free[i] = h->n_pages - 1 - i; /* low pages are taken first */
}

void arena_done(struct arena *a)
{
	free(a->free);
	free(a->refs);
	free(a->pins);
	*a = (struct arena){.fd = -1};
}

bool arena_take(struct arena *a, uint32_t *ret_page)
{
	if (a->n_free == 0)
		return false;
	uint32_t page = a->free[--a->n_free];
	CHECK(a->refs[page] == 0);
	a->refs[page] = 1;
	*ret_page = page;
	return true;
}

void arena_share(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->refs[page] > 0);
	a->refs[page]++;
}

static off_t offset_of(const struct arena *a, uint32_t page)
{
	return (off_t)(a->payload_offset + a->stride * page);
}

static void punch(const struct arena *a, uint32_t page, uint32_t n)
{
	if (fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(a, page), (off_t)(a->stride * n)) < 0)
		log_warning("cannot give back the memory of %u pages: %s", n, strerror(errno));
}

void arena_adopt(struct arena *a, const uint32_t *refs)
{
	a->n_free = 0;
	memcpy(a->refs, refs, a->n_pages * sizeof *refs);
	for (uint32_t page = a->n_pages; page > 0;) {
		uint32_t end = page;
		while (page > 0 && refs[page - 1] == 0)
			a->free[a->n_free++] = --page;
		if (end > page)
			punch(a, page, end - page);
		while (page > 0 && refs[page - 1] != 0)
			page--;
	}
}

/* Nobody holds the page and nobody pins it. */
static void give_back(struct arena *a, uint32_t page)
{
	a->free[a->n_free++] = page;
	punch(a, page, 1);
}

void arena_drop(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->refs[page] > 0);
	if (--a->refs[page] > 0)
		return;
	if (a->pins[page] > 0)
		a->n_held++;
	else
		give_back(a, page);
}

void arena_pin(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->refs[page] > 0);
	a->pins[page]++;
}

void arena_unpin(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->pins[page] > 0);
	if (--a->pins[page] > 0 || a->refs[page] > 0)
		return;
	a->n_held--;
	give_back(a, page);
}

int arena_copy(const struct arena *a, uint32_t from, uint32_t to, struct err *e)
{
	enum { PIECE = 1 << 18 };
	CHECK(a->refs[from] > 0 && a->refs[to] == 1);
	size_t piece = a->stride < PIECE ? a->stride : PIECE;
	char *buffer = xmalloc(piece);
	int code = 0;
	for (uint64_t at = 0; code == 0 && at < a->stride;) {
		size_t left = a->stride - at < piece ? a->stride - at : piece;
		ssize_t n = pread(a->fd, buffer, left, offset_of(a, from) + (off_t)at);
		if (n <= 0 || pwrite(a->fd, buffer, (size_t)n, offset_of(a, to) + (off_t)at) != n)
			code = err_set(e, n == 0 ? -EIO : -errno, "cannot copy page %u: %s", from, strerror(n == 0 ? EIO : errno));
		else
			at += (uint64_t)n;
	}
	free(buffer);
	return code;
}
