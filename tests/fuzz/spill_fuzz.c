/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's file of arbitrary bytes, as they come and again under a good checksum, which a client can compute too. What is
 * accepted is a session that a board can take, and of its pages no more are read than there are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "daemon/spill_file.h"
#include "shm/probs.h"
#include "tests/fuzz/spill_shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_head(const struct spill_head *h)
{
	int32_t id;
	struct prob entry;
	CHECK(h->header.n_tokens <= CONTEXT && h->n_kv <= h->header.n_tokens && h->record.n_given <= h->header.n_tokens);
	CHECK(spill_name_valid(h->record.name, h->record.name_length) && h->record.request_length <= BOARD_REQUEST);
	CHECK(h->record.n_stops <= BOARD_STOPS && h->record.n_biases <= BOARD_BIASES && h->record.params.temp >= 0);
	for (uint32_t i = 0; i < h->header.n_tokens; i++) {
		memcpy(&id, h->log + i * sizeof id, sizeof id);
		CHECK(id >= 0 && id < VOCAB);
	}
	CHECK(h->header.probs_bytes == probs_bytes(h->record.flags, h->header.n_tokens - h->record.n_given));
	for (uint64_t at = 0; at < h->header.probs_bytes; at += sizeof entry)
		memcpy(&entry, h->probs + at, sizeof entry);
}

/* As it is read from a disk. */
static void read_file(const uint8_t *data, size_t size)
{
	static const uint32_t table[PAGES] = {7, 6, 5, 4, 3, 2, 1, 0};
	struct err e = {0};
	struct spill_head head;
	uint8_t *bytes = NULL;
	int fd = memfd_create("file", MFD_CLOEXEC), memory = memfd_create("pages", MFD_CLOEXEC);
	const struct spill_pages to = {.fd = memory, .stride = 4096, .table = table};
	CHECK(fd >= 0 && memory >= 0 && write(fd, data, size) == (ssize_t)size);
	int r = spill_read_head(fd, &model, &head, &bytes, &e);
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	if (r == 0) {
		check_head(&head);
		CHECK(spill_read_pages(fd, &head, &to, &e) <= head.n_kv);
	}
	free(bytes);
	close(fd);
	close(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = {0};
	struct spill_head head;
	uint64_t need;
	int r = spill_parse(data, size, &model, &head, &e);
	CHECK(r == 0 || ((r == -EINVAL || r == -EXDEV) && e.what[0] != '\0'));
	read_file(data, size);
	if (spill_head_length(data, size, &model, &need, &e) < 0 || size < need)
		return 0;
	uint8_t *sealed = xmalloc(size);
	struct spill_header h;
	memcpy(sealed, data, size);
	memcpy(&h, sealed, sizeof h);
	memcpy(sealed + offsetof(struct spill_header, source), model.source, sizeof model.source);
	spill_seal(sealed, (size_t)need, h.n_kv);
	if (spill_parse(sealed, size, &model, &head, &e) == 0)
		check_head(&head);
	read_file(sealed, size);
	free(sealed);
	return 0;
}
