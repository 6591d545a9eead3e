/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/tokenlog.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "shm/probs.h"
#include "shm/survey.h"

enum { ALIGN = 4096, CONTEXT_MOST = 1 << 24 }; /* as board_open() has it */

/* Whether a record stands at this offset of a segment of `size` bytes, as one that can be read safely. */
static bool is_record(const struct board_record *r, uint64_t at, uint64_t size)
{
	return r->magic == BOARD_RECORD_MAGIC && r->version == BOARD_RECORD_VERSION && r->ready != 0 && r->offset == at &&
	       r->capacity <= CONTEXT_MOST && r->capacity <= (size - at - BOARD_RECORD_SIZE) / sizeof(int32_t);
}

/* Where the record says that they stand; entries that are not this session's name other tokens and are told as null. */
static void *read_probs(int fd, const struct board_record *r)
{
	size_t bytes = r->n_tokens > r->n_given ? probs_bytes(r->flags, r->n_tokens - r->n_given) : 0;
	if (bytes == 0 || board_top(r->flags) > BOARD_TOP)
		return NULL;
	void *probs = xmalloc(bytes);
	if (pread(fd, probs, bytes, (off_t)r->probs_offset) == (ssize_t)bytes)
		return probs;
	free(probs);
	return NULL;
}

static void read_log(int fd, uint64_t at, uint64_t size, struct tokenlogs *l)
{
	struct tokenlog log = {0};
	struct board_record *r = &log.record;
	if (pread(fd, r, sizeof *r, (off_t)at) != sizeof *r || !is_record(r, at, size))
		return;
	if (r->run != r->ready)
		board_record_undo(r);
	if (r->n_tokens < r->n_from)
		r->n_tokens = r->n_from;
	if (r->n_tokens > r->capacity)
		return;
	size_t bytes = r->n_tokens * sizeof *log.ids;
	log.ids = xmalloc(bytes + 1);
	if (pread(fd, log.ids, bytes, (off_t)(at + BOARD_RECORD_SIZE)) != (ssize_t)bytes) {
		free(log.ids);
		return;
	}
	log.probs = read_probs(fd, r);
	if (l->n == l->capacity) {
		l->capacity = l->capacity ? l->capacity * 2 : 64;
		l->list = xreallocarray(l->list, l->capacity, sizeof *l->list);
	}
	l->list[l->n++] = log;
}

void tokenlog_read(int fd, struct tokenlogs *ret)
{
	struct stat st;
	*ret = (struct tokenlogs){0};
	if (fstat(fd, &st) < 0 || st.st_size < BOARD_RECORD_SIZE)
		return;
	uint64_t size = (uint64_t)st.st_size;
	for (off_t at = 0, data; (data = lseek(fd, at, SEEK_DATA)) >= 0; at = data + ALIGN) {
		data = data / ALIGN * ALIGN;
		if ((uint64_t)data + BOARD_RECORD_SIZE > size)
			return;
		read_log(fd, (uint64_t)data, size, ret);
	}
}

void tokenlog_done(struct tokenlogs *l)
{
	for (uint32_t i = 0; i < l->n; i++) {
		free(l->list[i].ids);
		free(l->list[i].probs);
	}
	free(l->list);
	*l = (struct tokenlogs){0};
}

int tokenlog_check(const struct tokenlog *l, const struct board *b, uint32_t n_vocab, struct err *e)
{
	const struct board_record *r = &l->record;
	int code = board_record_check(b, r, n_vocab, e);
	if (code < 0)
		return code;
	if (!survey_name_good(r->name, r->name_length))
		return err_set(e, -EINVAL, "session record: a name that nobody can write");
	if (r->n_tokens > b->n_context)
		return err_set(e, -EINVAL, "%u tokens, the context has %u", r->n_tokens, b->n_context);
	for (uint32_t i = 0; i < r->n_tokens; i++)
		if ((uint32_t)l->ids[i] >= n_vocab)
			return err_set(e, -EINVAL, "token %d at position %u, the vocabulary has %u", l->ids[i], i, n_vocab);
	return 0;
}
