/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/segments.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "shm/segment.h"

static int open_weights(int fd, struct segments *s, struct err *e)
{
	int r = segment_map(fd, false, &s->weights_base, &s->weights_size, e);
	return r < 0 ? r : model_open(s->weights_base, s->weights_size, &s->model, e);
}

static int open_pages(int fd, struct segments *s, struct err *e)
{
	int r = segment_map(fd, true, &s->pages_base, &s->pages_size, e);
	if (r < 0)
		return r;
	if (s->pages_size < sizeof s->arena)
		return err_set(e, -EINVAL, "pages segment: %llu bytes hold no header", (unsigned long long)s->pages_size);
	memcpy(&s->arena, s->pages_base, sizeof s->arena);
	return pages_check(&s->arena, s->pages_size, &s->model.hp, e);
}

static int open_board(int fd, struct segments *s, struct err *e)
{
	int r = segment_map(fd, true, &s->board_base, &s->board_size, e);
	if (r < 0 || (r = board_open(s->board_base, s->board_size, &s->board, e)) < 0)
		return r;
	const struct board_header *h = s->board.header;
	const struct weights_hparams *hp = &s->model.hp;
	if (h->n_context > hp->n_context)
		return err_set(e, -EINVAL, "board segment: sessions of %u tokens, the model is made for %u", h->n_context,
			       hp->n_context);
	uint64_t row = sizeof(struct board_row) + ((uint64_t)hp->n_vocab + 1) * sizeof(float);
	if (h->ring_stride < row)
		return err_set(e, -EINVAL, "board segment: a ring entry of %u bytes holds no row of %u logits", h->ring_stride,
			       hp->n_vocab);
	return 0;
}

static int belong_together(const struct segments *s, uint32_t dense, struct err *e)
{
	const struct weights_header *w = s->model.image;
	if (memcmp(w->set_id, s->arena.set_id, sizeof w->set_id) != 0 ||
	    memcmp(w->set_id, s->board.header->set_id, sizeof w->set_id) != 0)
		return err_set(e, -EINVAL, "weights, pages and board are not of one set");
	if (memcmp(w->fingerprint, s->arena.fingerprint, sizeof w->fingerprint) != 0)
		return err_set(e, -EINVAL, "the pages hold keys and values of other weights");
	uint8_t state[16];
	board_fingerprint(w->fingerprint, s->arena.kv, dense, state);
	if (memcmp(state, s->board.header->fingerprint, sizeof state) != 0)
		return err_set(e, -EINVAL, "the board's sessions were computed by another arithmetic or dense product");
	return 0;
}

int segments_open(int weights, int pages, int board, uint32_t dense, struct segments *ret, struct err *e)
{
	struct segments s = {0};
	int r = open_weights(weights, &s, e);
	if (r == 0)
		r = open_pages(pages, &s, e);
	if (r == 0)
		r = open_board(board, &s, e);
	if (r == 0)
		r = belong_together(&s, dense, e);
	if (r < 0) {
		segments_close(&s);
		return r;
	}
	*ret = s;
	return 0;
}

static void unmap(void *base, uint64_t size)
{
	if (base != NULL)
		munmap(base, size);
}

void segments_close(struct segments *s)
{
	model_close(&s->model);
	unmap(s->board_base, s->board_size);
	unmap(s->pages_base, s->pages_size);
	unmap(s->weights_base, s->weights_size);
	*s = (struct segments){0};
}

static uint8_t *arena_at(const struct segments *s, uint64_t offset)
{
	return (uint8_t *)s->pages_base + offset;
}

void *segments_page(const struct segments *s, uint32_t number)
{
	return arena_at(s, s->arena.payload_offset + s->arena.stride * number);
}

struct pages_head *segments_head(const struct segments *s, const void *page)
{
	uint64_t number = (uint64_t)((const uint8_t *)page - arena_at(s, s->arena.payload_offset)) / s->arena.stride;
	return (void *)arena_at(s, s->arena.heads_offset + number * sizeof(struct pages_head));
}
