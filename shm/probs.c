/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "shm/probs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

uint64_t probs_stride(uint32_t n_context)
{
	uint64_t bytes = (uint64_t)n_context * PROBS_MOST * sizeof(struct prob);
	return (bytes + 4095) / 4096 * 4096;
}

static int64_t place(const struct board *b, uint32_t slot, uint32_t flags, uint32_t first)
{
	return (int64_t)(probs_offset(b, slot) + probs_bytes(flags, first));
}

int probs_write(const struct board *b, uint32_t slot, uint32_t flags, uint32_t first, uint32_t n, const void *entries)
{
	size_t left = probs_bytes(flags, n);
	int64_t at = place(b, slot, flags, first);
	for (const uint8_t *from = entries; left > 0;) {
		ssize_t done = pwrite(b->fd, from, left, at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		from += done;
		at += done;
		left -= (size_t)done;
	}
	return 0;
}

int probs_read(const struct board *b, uint32_t slot, uint32_t flags, uint32_t first, uint32_t n, void *ret)
{
	size_t left = probs_bytes(flags, n);
	int64_t at = place(b, slot, flags, first);
	for (uint8_t *to = ret; left > 0;) {
		ssize_t done = pread(b->fd, to, left, at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -ENODATA;
		to += done;
		at += done;
		left -= (size_t)done;
	}
	return 0;
}

void probs_clear(const struct board *b, uint32_t slot)
{
	/* A hole that cannot be made keeps memory until the board goes, and nothing else. */
	if (b->fd >= 0)
		fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)probs_offset(b, slot), (off_t)b->probs_stride);
}
