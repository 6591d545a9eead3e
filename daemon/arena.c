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
	*a = (struct arena){.fd = fd, .heads_offset = h->heads_offset, .payload_offset = h->payload_offset, .stride = h->stride,
			    .n_pages = h->n_pages, .n_free = h->n_pages};
	a->free = xcalloc(h->n_pages, sizeof *a->free);
	a->refs = xcalloc(h->n_pages, sizeof *a->refs);
	a->pins = xcalloc(h->n_pages, sizeof *a->pins);
	a->keep = xcalloc(h->n_pages, sizeof *a->keep);
	a->links = xcalloc(h->n_pages + 1, sizeof *a->links);
	a->links[h->n_pages] = (struct arena_link){.before = h->n_pages, .after = h->n_pages};
	for (uint32_t i = 0; i < h->n_pages; i++)
		a->free[i] = h->n_pages - 1 - i; /* low pages are taken first */
}

void arena_done(struct arena *a)
{
	free(a->free);
	free(a->refs);
	free(a->pins);
	free(a->keep);
	free(a->links);
	*a = (struct arena){.fd = -1};
}

static off_t offset_of(const struct arena *a, uint32_t page)
{
	return (off_t)(a->payload_offset + a->stride * page);
}

static off_t head_of(const struct arena *a, uint32_t page)
{
	return (off_t)(a->heads_offset + sizeof(struct pages_head) * page);
}

static void punch(const struct arena *a, uint32_t page, uint32_t n)
{
	if (fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(a, page), (off_t)(a->stride * n)) < 0)
		log_warning("cannot give back the memory of %u pages: %s", n, strerror(errno));
}

void arena_adopt(struct arena *a, const uint32_t *refs)
{
	a->n_free = a->n_shared = 0;
	memcpy(a->refs, refs, a->n_pages * sizeof *refs);
	for (uint32_t i = 0; i < a->n_pages; i++)
		a->n_shared += refs[i] > 1;
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

/* Puts a page at the end of the ring of kept ones, and takes it out. */
static void link_kept(struct arena *a, uint32_t page)
{
	struct arena_link *head = &a->links[a->n_pages];
	a->links[page] = (struct arena_link){.before = head->before, .after = a->n_pages};
	a->links[head->before].after = page;
	head->before = page;
	a->n_kept++;
	a->n_free++;
}

static void unlink_kept(struct arena *a, uint32_t page)
{
	struct arena_link *at = &a->links[page];
	a->links[at->before].after = at->after;
	a->links[at->after].before = at->before;
	a->n_kept--;
	a->n_free--;
}

/* Takes the memory of a page and of its head. False: there is none. */
static bool reserve(const struct arena *a, uint32_t page)
{
	return !a->reserves || (fallocate(a->fd, FALLOC_FL_KEEP_SIZE, offset_of(a, page), (off_t)a->stride) == 0 &&
				fallocate(a->fd, FALLOC_FL_KEEP_SIZE, head_of(a, page), sizeof(struct pages_head)) == 0);
}

/* The page that is on top of the stack. If there is no memory for it, there is none for those below. */
static bool take_bare(struct arena *a, uint32_t *ret_page)
{
	uint32_t height = a->n_short + a->n_free - a->n_kept;
	if (height == 0)
		return false;
	if (!reserve(a, a->free[height - 1])) {
		a->n_short = height;
		a->n_free = a->n_kept;
		return false;
	}
	*ret_page = a->free[height - 1];
	if (a->n_free > a->n_kept)
		a->n_free--;
	else
		a->n_short--;
	return true;
}

static bool take_kept(struct arena *a, uint32_t *ret_page)
{
	if (a->n_kept == 0)
		return false;
	uint32_t page = a->links[a->n_pages].after;
	unlink_kept(a, page);
	a->keep[page] = false;
	a->lose(a->arg, page);
	punch(a, page, 1);
	*ret_page = page;
	if (reserve(a, page))
		return true;
	a->free[a->n_short++] = page; /* somebody else was quicker; there is no bare one, or it would have been taken */
	return false;
}

bool arena_take(struct arena *a, uint32_t *ret_page)
{
	uint32_t page;
	if (!take_bare(a, &page) && !take_kept(a, &page))
		return false;
	CHECK(a->refs[page] == 0);
	a->refs[page] = 1;
	*ret_page = page;
	return true;
}

void arena_keep(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->refs[page] > 0);
	a->keep[page] = true;
}

void arena_share(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && (a->refs[page] > 0 || a->keep[page]));
	if (a->refs[page]++ > 0) {
		a->n_shared += a->refs[page] == 2;
		return;
	}
	if (a->pins[page] > 0)
		a->n_held--;
	else
		unlink_kept(a, page);
}

/* Nobody holds the page and nobody pins it. */
static void give_back(struct arena *a, uint32_t page)
{
	if (a->keep[page]) {
		link_kept(a, page);
		return;
	}
	a->free[a->n_short + a->n_free++ - a->n_kept] = page;
	punch(a, page, 1);
}

void arena_drop(struct arena *a, uint32_t page)
{
	CHECK(page < a->n_pages && a->refs[page] > 0);
	if (--a->refs[page] > 0) {
		a->n_shared -= a->refs[page] == 1;
		return;
	}
	if (a->pins[page] > 0)
		a->n_held++;
	else
		give_back(a, page);
}

bool arena_read_head(const struct arena *a, uint32_t page, struct pages_head *ret_head)
{
	return pread(a->fd, ret_head, sizeof *ret_head, head_of(a, page)) == sizeof *ret_head;
}

void arena_write_head(const struct arena *a, uint32_t page, const struct pages_head *head)
{
	if (pwrite(a->fd, head, sizeof *head, head_of(a, page)) != sizeof *head)
		log_warning("cannot write what page %u holds: %s", page, strerror(errno));
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
