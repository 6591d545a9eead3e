/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "shm/heritage.h"
#include "shm/segment.h"

enum {
	SLOTS_PER_OWNER = 4,   /* slots are for as many users at their limit */
	PAGES_MOST = 1 << 22,
	HUGE = 2 << 20,
};

/* MemAvailable, or what sysconf knows of free memory where there is no /proc. */
static uint64_t memory_available(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned long long kib = 0;
	while (f != NULL && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f != NULL)
		fclose(f);
	return kib ? kib * 1024 : (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

int store_init(struct store *s, struct err *e)
{
	*s = (struct store){.image = -1, .weights = -1, .pages = -1, .board_fd = -1};
	s->available = memory_available();
	if (getrandom(s->set_id, sizeof s->set_id, 0) != sizeof s->set_id)
		return err_set(e, -errno, "cannot draw a random id: %s", strerror(errno));
	s->image = segment_create("weights", 0, e);
	return s->image < 0 ? s->image : 0;
}

/* Bytes of the mapping in huge pages, once each of its huge pages has been touched. */
static double huge_share(const uint8_t *base, uint64_t size)
{
	volatile uint8_t sum = 0;
	for (uint64_t at = 0; at < size; at += HUGE)
		sum = (uint8_t)(sum + base[at]);
	double share = (double)segment_huge_bytes(base) / (double)size;
	return share > 1 ? 1 : share;
}

static int read_image(struct store *s, const uint8_t *base, uint64_t size, struct err *e)
{
	int r = weights_check(base, size, e);
	if (r < 0)
		return r;
	const struct weights_header *h = (const void *)base;
	if (memcmp(h->set_id, s->set_id, sizeof s->set_id) != 0)
		return err_set(e, -EINVAL, "the weights image is not of the set that was asked for");
	s->hp = h->hparams;
	s->weights_size = size;
	memcpy(s->model, h->name, sizeof s->model);
	s->model[sizeof s->model - 1] = '\0';
	memcpy(s->arena.fingerprint, h->fingerprint, sizeof s->arena.fingerprint);
	memcpy(s->source_hash, h->source_hash, sizeof s->source_hash);
	s->huge_share = huge_share(base, size);
	const struct weights_tokenizer *t = (const void *)(base + h->tokenizer_offset);
	r = t->pre == WEIGHTS_PRE_NONE ? 0 : tokenizer_new(t, h->tokenizer_size, &s->tokenizer, e);
	if (r == 0)
		s->template = template_recognise((const char *)base + h->template_offset, h->template_size, s->tokenizer);
	return r;
}

int store_adopt_weights(struct store *s, struct err *e)
{
	void *base;
	uint64_t size;
	int r = segment_seal(s->image, true, e);
	if (r < 0 || (r = segment_check_seals(s->image, true, e)) < 0)
		return r;
	if ((r = s->weights = segment_reopen_readonly(s->image, e)) < 0)
		return r;
	close(s->image);
	s->image = -1;
	if ((r = segment_map(s->weights, false, &base, &size, e)) < 0)
		return r;
	r = read_image(s, base, size, e);
	munmap(base, size);
	return r;
}

/* Pages that fit the memory that sessions may use. */
static int count_pages(const struct store *s, const struct config *c, uint32_t *ret, struct err *e)
{
	struct pages_header one;
	pages_plan(&s->hp, (uint32_t)c->kv, 1, &one);
	uint64_t left = s->available > s->weights_size ? s->available - s->weights_size : 0, budget = left / 2;
	if (c->memory != 0)
		budget = c->memory > s->weights_size ? c->memory - s->weights_size : 0;
	uint64_t n = budget / (one.stride + sizeof(struct pages_head));
	if (n == 0) {
		err_set(e, -ENOMEM, "%llu MiB of memory hold the weights (%llu MiB) and no page of keys and values",
			(unsigned long long)((c->memory ? c->memory : s->available) >> 20), (unsigned long long)(s->weights_size >> 20));
		return err_hint(e, "raise `memory`, or take a smaller model");
	}
	*ret = (uint32_t)(n < PAGES_MOST ? n : PAGES_MOST);
	return 0;
}

static int make_segment(const char *name, const void *header, size_t header_size, uint64_t size, int *ret_fd, struct err *e)
{
	int fd = segment_create(name, size, e);
	if (fd < 0)
		return fd;
	int r = pwrite(fd, header, header_size, 0) == (ssize_t)header_size ? segment_seal(fd, false, e)
									    : err_set(e, -errno, "cannot write the %s segment", name);
	if (r < 0)
		close(fd);
	else
		*ret_fd = fd;
	return r;
}

static int lock_board(int fd, struct err *e)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HERITAGE_LOCK_FALCOND, .l_len = 1};
	return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : err_set(e, -errno, "cannot lock the board: %s", strerror(errno));
}

static int make_board(struct store *s, const struct config *c, uint32_t n_context, struct err *e)
{
	struct board_header h;
	uint64_t n_slots = c->limits.sessions * SLOTS_PER_OWNER;
	board_plan((uint32_t)n_slots, n_context, s->hp.n_vocab, &h);
	memcpy(h.set_id, s->set_id, sizeof h.set_id);
	board_fingerprint(s->arena.fingerprint, s->arena.kv, (uint32_t)c->dense, h.fingerprint);
	h.chunk_ms = (uint32_t)c->chunk_ms;
	h.speculate = c->speculate == 0 ? BOARD_SPECULATE : BOARD_PLAIN;
	int r = make_segment("board", &h, sizeof h, h.size, &s->board_fd, e);
	if (r < 0 || (r = lock_board(s->board_fd, e)) < 0)
		return r;
	void *base;
	if ((r = segment_map(s->board_fd, true, &base, &s->board_size, e)) < 0)
		return r;
	if ((r = board_open(base, s->board_size, &s->board, e)) < 0)
		munmap(base, s->board_size);
	return r;
}

int store_make_arena(struct store *s, const struct config *c, struct err *e)
{
	uint32_t n_pages = 0;
	int r = count_pages(s, c, &n_pages, e);
	if (r < 0)
		return r;
	struct pages_header h;
	pages_plan(&s->hp, (uint32_t)c->kv, n_pages, &h);
	memcpy(h.set_id, s->set_id, sizeof h.set_id);
	memcpy(h.fingerprint, s->arena.fingerprint, sizeof h.fingerprint);
	s->arena = h;
	if ((r = make_segment("pages", &h, sizeof h, h.size, &s->pages, e)) < 0)
		return r;
	/* A session that has the arena for itself always fits: nothing waits for pages for ever. */
	uint64_t most = (uint64_t)n_pages * PAGE_TOKENS;
	return make_board(s, c, most < s->hp.n_context ? (uint32_t)most : s->hp.n_context, e);
}

void store_done(struct store *s)
{
	const int fds[] = {s->image, s->weights, s->pages, s->board_fd};
	if (s->board.header != NULL)
		munmap(s->board.header, s->board_size);
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	tokenizer_free(s->tokenizer);
	*s = (struct store){.image = -1, .weights = -1, .pages = -1, .board_fd = -1};
}
