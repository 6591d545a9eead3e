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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "shm/heritage.h"
#include "shm/segment.h"

enum {
	SLOTS_PER_OWNER = 4,   /* slots are for as many users at their limit */
	PAGES_MOST = 1 << 22,
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

void store_init(struct store *s)
{
	*s = (struct store){.set = {.fds = {-1, -1, -1}}, .image = -1};
	s->available = memory_available();
}

int store_begin(struct store *s, struct keep *k, struct err *e)
{
	if (getrandom(s->set_id, sizeof s->set_id, 0) != sizeof s->set_id)
		return err_set(e, -errno, "cannot draw a random id: %s", strerror(errno));
	int r = keep_begin(k, &s->set, e);
	if (r < 0)
		return r;
	s->image = keep_create(k, &s->set, KEEP_WEIGHTS, 0, e);
	return s->image < 0 ? s->image : 0;
}

/* Bytes of the mapping in huge pages, once each of its huge pages has been touched. */
static double huge_share(const uint8_t *base, uint64_t size)
{
	volatile uint8_t sum = 0;
	for (uint64_t at = 0; at < size; at += MEM_HUGE)
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
	const struct weights_tokenizer *t = (const void *)(base + h->tokenizer_offset);
	if (t->pre != WEIGHTS_PRE_NONE && (r = tokenizer_new(t, h->tokenizer_size, &s->tokenizer, e)) < 0)
		return r;
	s->template = template_recognise((const char *)base + h->template_offset, h->template_size, s->tokenizer);
	s->hp = h->hparams;
	s->weights_size = size;
	memcpy(s->set_id, h->set_id, sizeof s->set_id);
	memcpy(s->source_hash, h->source_hash, sizeof s->source_hash);
	memcpy(s->model, h->name, sizeof s->model);
	s->model[sizeof s->model - 1] = '\0';
	memcpy(s->arena.fingerprint, h->fingerprint, sizeof s->arena.fingerprint);
	return 0;
}

/* Checks the weights of the set and takes out what falcond needs. measure: says how much of them is in huge pages. */
static int read_weights(struct store *s, bool measure, struct err *e)
{
	void *base;
	uint64_t size;
	int r = segment_map(s->set.fds[KEEP_WEIGHTS], false, &base, &size, e);
	if (r < 0)
		return r;
	r = read_image(s, base, size, e);
	if (r == 0 && measure)
		s->huge_share = huge_share(base, size);
	munmap(base, size);
	return r;
}

int store_finish_weights(struct store *s, struct keep *k, struct err *e)
{
	uint8_t set_id[sizeof s->set_id];
	memcpy(set_id, s->set_id, sizeof set_id);
	int image = s->image;
	s->image = -1;
	int r = keep_finish(k, &s->set, KEEP_WEIGHTS, image, e);
	if (r == 0)
		r = read_weights(s, true, e);
	if (r == 0 && memcmp(set_id, s->set_id, sizeof set_id) != 0)
		return err_set(e, -EINVAL, "the weights image is not of the set that was asked for");
	return r;
}

void store_forget(struct store *s)
{
	uint64_t available = s->available;
	if (s->board.header != NULL)
		munmap(s->board.header, s->board_size);
	tokenizer_free(s->tokenizer);
	*s = (struct store){.set = {.fds = {-1, -1, -1}}, .image = -1, .available = available};
}

int store_share_weights(struct store *s, struct keep *k, const struct keep_set *from, struct err *e)
{
	int r = keep_check(from, KEEP_WEIGHTS, e);
	if (r < 0 || (r = keep_begin(k, &s->set, e)) < 0)
		return r;
	r = keep_share_weights(k, &s->set, from, e);
	if (r == 0)
		r = read_weights(s, true, e);
	if (r == 0) {
		s->available += s->weights_size; /* they are in memory already */
		return 0;
	}
	struct keep_set begun = s->set;
	store_forget(s);
	keep_forget(k, &begun);
	keep_close_set(&begun);
	return r;
}

/* Pages that fit the memory that sessions may use. */
static int count_pages(const struct store *s, const struct keep *k, const struct config *c, uint32_t *ret, struct err *e)
{
	struct pages_header one;
	pages_plan(&s->hp, (uint32_t)c->kv, 1, &one);
	uint64_t left = s->available > s->weights_size ? s->available - s->weights_size : 0, budget = left / 2;
	if (c->memory != 0)
		budget = c->memory > s->weights_size ? c->memory - s->weights_size : 0;
	uint64_t room = keep_room(k) / 8 * 7; /* an eighth for the board */
	if (budget > room)
		budget = room;
	uint64_t n = budget / (one.stride + sizeof(struct pages_head));
	if (n == 0) {
		err_set(e, -ENOMEM, "%llu MiB of memory hold the weights (%llu MiB) and no page of keys and values",
			(unsigned long long)((c->memory ? c->memory : s->available) >> 20), (unsigned long long)(s->weights_size >> 20));
		return err_hint(e, "raise `memory`, or take a smaller model");
	}
	*ret = (uint32_t)(n < PAGES_MOST ? n : PAGES_MOST);
	return 0;
}

/* A segment that begins with this header. */
static int make_segment(struct store *s, struct keep *k, enum keep_kind kind, const void *header, size_t header_size, uint64_t size,
			struct err *e)
{
	int fd = keep_create(k, &s->set, kind, size, e);
	if (fd < 0)
		return fd;
	if (pwrite(fd, header, header_size, 0) == (ssize_t)header_size)
		return keep_finish(k, &s->set, kind, fd, e);
	err_set(e, -errno, "cannot write a segment's header: %s", strerror(errno));
	close(fd);
	return e->code;
}

int store_lock(int fd, struct err *e)
{
	enum { WAIT_MS = 10000 };
	struct flock engine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HERITAGE_LOCK_ENGINE, .l_len = 1};
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HERITAGE_LOCK_FALCOND, .l_len = 1};
	if (fcntl(fd, F_SETLK, &lock) < 0)
		return err_set(e, -errno, "cannot lock the board: %s", strerror(errno));
	for (int i = 0; i < WAIT_MS; i++) {
		struct flock held = engine;
		if (fcntl(fd, F_GETLK, &held) < 0)
			return err_set(e, -errno, "cannot look at the board's locks: %s", strerror(errno));
		if (held.l_type == F_UNLCK)
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return err_set(e, -EBUSY, "the engine of an earlier falcond still holds the board");
}

static int open_board(struct store *s, struct err *e)
{
	void *base;
	int fd = s->set.fds[KEEP_BOARD], r = store_lock(fd, e);
	if (r < 0 || (r = segment_map(fd, true, &base, &s->board_size, e)) < 0)
		return r;
	if ((r = board_open(base, s->board_size, &s->board, e)) < 0)
		munmap(base, s->board_size);
	s->board.fd = fd;
	s->board.reserves = s->set.in_folder;
	return r;
}

/* The header of the board that this configuration asks for, over an arena that is there. */
static void plan_board(const struct store *s, const struct config *c, struct board_header *ret)
{
	/* A session that has the arena for itself always fits: nothing waits for pages for ever. */
	uint64_t n_slots = c->limits.sessions * SLOTS_PER_OWNER, most = (uint64_t)s->arena.n_pages * PAGE_TOKENS;
	board_plan((uint32_t)n_slots, most < s->hp.n_context ? (uint32_t)most : s->hp.n_context, s->hp.n_vocab, ret);
	memcpy(ret->set_id, s->set_id, sizeof ret->set_id);
	board_fingerprint(s->arena.fingerprint, s->arena.kv, (uint32_t)c->dense, ret->fingerprint);
	ret->chunk_ms = (uint32_t)c->chunk_ms;
	ret->speculate = c->speculate == 0 ? BOARD_SPECULATE : BOARD_PLAIN;
	ret->memory = c->memory;
	ret->huge_share = s->huge_share;
}

int store_make_arena(struct store *s, struct keep *k, const struct config *c, struct err *e)
{
	uint32_t n_pages = 0;
	struct timespec now;
	int r = count_pages(s, k, c, &n_pages, e);
	if (r < 0)
		return r;
	struct pages_header h;
	pages_plan(&s->hp, (uint32_t)c->kv, n_pages, &h);
	memcpy(h.set_id, s->set_id, sizeof h.set_id);
	memcpy(h.fingerprint, s->arena.fingerprint, sizeof h.fingerprint);
	s->arena = h;
	if ((r = make_segment(s, k, KEEP_PAGES, &h, sizeof h, h.size, e)) < 0)
		return r;
	struct board_header board;
	plan_board(s, c, &board);
	clock_gettime(CLOCK_REALTIME, &now);
	board.created = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	r = make_segment(s, k, KEEP_BOARD, &board, sizeof board, board.size, e);
	return r < 0 ? r : open_board(s, e);
}

static int read_arena(struct store *s, const struct config *c, struct err *e)
{
	struct stat st;
	struct pages_header h;
	int fd = s->set.fds[KEEP_PAGES];
	if (fstat(fd, &st) < 0 || pread(fd, &h, sizeof h, 0) != sizeof h)
		return err_set(e, -EIO, "cannot read the pages segment");
	int r = pages_check(&h, (uint64_t)st.st_size, &s->hp, e);
	if (r < 0)
		return r;
	if (memcmp(h.set_id, s->set_id, sizeof h.set_id) != 0)
		return err_set(e, -EINVAL, "weights and pages are not of one set");
	if (memcmp(h.fingerprint, s->arena.fingerprint, sizeof h.fingerprint) != 0)
		return err_set(e, -EINVAL, "the pages hold keys and values of other weights");
	if (h.kv != c->kv)
		return err_set(e, -EINVAL, "keys and values are %s, the configuration says %s", pages_kv_name(h.kv),
			       pages_kv_name((uint32_t)c->kv));
	s->arena = h;
	return 0;
}

/* The board against what would be made of this configuration. */
static int check_board(const struct store *s, const struct config *c, struct err *e)
{
	struct board_header plan;
	const struct board_header *h = s->board.header;
	plan_board(s, c, &plan);
	if (memcmp(h->set_id, plan.set_id, sizeof plan.set_id) != 0)
		return err_set(e, -EINVAL, "weights and board are not of one set");
	if (memcmp(h->fingerprint, plan.fingerprint, sizeof plan.fingerprint) != 0)
		return err_set(e, -EINVAL, "the sessions were computed by another arithmetic or dense product");
	if (h->n_slots != plan.n_slots || h->memory != plan.memory)
		return err_set(e, -EINVAL, "`memory` or `limits.sessions` was changed");
	if (h->n_context != plan.n_context || h->size != plan.size)
		return err_set(e, -EINVAL, "the board is of another geometry than pages and weights");
	return 0;
}

int store_adopt(struct store *s, const struct keep_set *from, const struct config *c, struct err *e)
{
	int r = 0;
	for (int i = 0; r == 0 && i < KEEP_KINDS; i++)
		r = keep_check(from, (enum keep_kind)i, e);
	if (r < 0)
		return r;
	s->set = *from;
	r = read_weights(s, false, e);
	if (r == 0)
		r = read_arena(s, c, e);
	if (r == 0)
		r = open_board(s, e);
	if (r == 0)
		r = check_board(s, c, e);
	if (r < 0) {
		store_forget(s);
		return r;
	}
	double share = s->board.header->huge_share;
	s->huge_share = share >= 0 && share <= 1 ? share : 0;
	s->board.header->chunk_ms = (uint32_t)c->chunk_ms;
	s->board.header->speculate = c->speculate == 0 ? BOARD_SPECULATE : BOARD_PLAIN;
	return 0;
}

void store_done(struct store *s)
{
	if (s->image >= 0)
		close(s->image);
	struct keep_set set = s->set;
	store_forget(s);
	keep_close_set(&set);
}
