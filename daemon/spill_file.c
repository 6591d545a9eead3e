/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/spill_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { PATH_BYTES = 128, FIRST_READ = 16384 };

static const char suffix[] = ".session";

/* OWNER/NAME.session and what follows. Names were checked: no slash, nothing that is longer. */
static void path_of(char out[PATH_BYTES], uint64_t owner, const char *name, const char *more)
{
	snprintf(out, PATH_BYTES, "%llu/%.64s%s%s", (unsigned long long)owner, name, suffix, more);
}

static int write_at(int fd, const void *data, size_t n, uint64_t at)
{
	for (const uint8_t *from = data; n > 0;) {
		ssize_t done = pwrite(fd, from, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		from += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return 0;
}

/* The bytes that there are, up to n, or -errno. */
static ssize_t read_some(int fd, void *data, size_t n, uint64_t at)
{
	size_t have = 0;
	while (have < n) {
		ssize_t got = pread(fd, (uint8_t *)data + have, n - have, (off_t)(at + have));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		have += (size_t)got;
	}
	return (ssize_t)have;
}

static int read_at(int fd, void *data, size_t n, uint64_t at)
{
	ssize_t got = read_some(fd, data, n, at);
	return got < 0 ? (int)got : got == (ssize_t)n ? 0 : -ENODATA;
}

/* Makes the folder if it is missing, so that it outlives a power cut, and opens it. */
static int open_folder(int at, const char *path)
{
	if (mkdirat(at, path, 0700) == 0)
		fsync(at);
	else if (errno != EEXIST)
		return -errno;
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int spill_folder_open(const char *path, const uint8_t source[16], struct err *e)
{
	char name[33];
	for (int i = 0; i < 16; i++)
		snprintf(name + 2 * i, 3, "%02x", source[i]);
	int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = root < 0 ? -errno : open_folder(root, name);
	if (root >= 0)
		close(root);
	if (fd < 0)
		return err_set(e, fd, "state: cannot open %s/%s: %s", path, name, strerror(-fd));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	int code = -errno;
	close(fd);
	err_set(e, code, "state: another falcond uses %s for this model", path);
	return err_hint(e, "stop it, or give each falcond a state folder of its own");
}

/* The payload of page i, checked, from an older file. */
static int read_page(int fd, const struct spill_header *h, uint32_t i, uint8_t *payload)
{
	uint8_t stored[SPILL_CHECKSUM], sum[SPILL_CHECKSUM];
	uint64_t at = spill_head_bytes(h) + i * spill_page_stride(h->page_bytes);
	int r = read_at(fd, stored, sizeof stored, at);
	if (r == 0)
		r = read_at(fd, payload, h->page_bytes, at + sizeof stored);
	if (r < 0)
		return r;
	spill_page_checksum(h->salt, i, payload, h->page_bytes, sum);
	return memcmp(stored, sum, sizeof sum) == 0 ? 0 : -EILSEQ;
}

static bool disk_is_full(int code)
{
	return code == -ENOSPC || code == -EDQUOT || code == -EFBIG;
}

/* Writes pages until one cannot be read, or the disk is full. Returns the positions written, or -errno. */
static int64_t write_pages(int fd, const struct spill_header *h, const struct spill_pages *pages, int older, const struct spill_header *of)
{
	uint8_t *payload = xmalloc(h->page_bytes), sum[SPILL_CHECKSUM];
	uint32_t i = 0, n = (h->n_kv + PAGE_TOKENS - 1) / PAGE_TOKENS;
	int r = 0;
	for (; r == 0 && i < n; i++) {
		uint64_t at = spill_head_bytes(h) + i * spill_page_stride(h->page_bytes);
		if (pages != NULL)
			r = read_at(pages->fd, payload, h->page_bytes, pages->offset + pages->stride * pages->table[i]);
		else if (read_page(older, of, i, payload) < 0)
			break;
		spill_page_checksum(h->salt, i, payload, h->page_bytes, sum);
		if (r == 0)
			r = write_at(fd, sum, sizeof sum, at);
		if (r == 0)
			r = write_at(fd, payload, h->page_bytes, at + sizeof sum);
	}
	free(payload);
	if (r < 0 && !disk_is_full(r))
		return r;
	if (r < 0) {
		/* No room for the pages: what there is belongs to the tokens. */
		return ftruncate(fd, 0) < 0 ? -errno : 0;
	}
	return i == n ? h->n_kv : (int64_t)i * PAGE_TOKENS;
}

int spill_write(int fd, uint8_t *head, size_t bytes, const struct spill_pages *pages, int older, const struct spill_model *m,
		uint32_t *ret_kv, struct err *e)
{
	struct spill_header h;
	struct spill_head of;
	uint8_t *kept = NULL;
	memcpy(&h, head, sizeof h);
	if (pages == NULL && h.n_kv > 0) {
		bool good = older >= 0 && spill_read_head(older, m, &of, &kept, NULL) == 0;
		h.n_kv = !good ? 0 : of.n_kv < h.n_kv ? of.n_kv : h.n_kv;
	}
	int64_t kv = h.n_kv > 0 ? write_pages(fd, &h, pages, older, &of.header) : 0;
	free(kept);
	int r = kv < 0 ? (int)kv : 0;
	if (r == 0) {
		spill_seal(head, bytes, (uint32_t)kv);
		r = write_at(fd, head, bytes, 0);
	}
	if (r == 0 && ftruncate(fd, (off_t)(bytes + spill_pages_bytes((uint32_t)kv, h.page_bytes))) < 0)
		r = -errno;
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		return err_set(e, r, "cannot write %zu bytes of tokens: %s", bytes, strerror(-r));
	*ret_kv = (uint32_t)kv;
	return 0;
}

int spill_store(int folder, uint64_t owner, const char *name, uint8_t *head, size_t bytes, const struct spill_pages *pages,
		const struct spill_model *m, uint32_t *ret_kv, struct err *e)
{
	char user[24], path[PATH_BYTES], partial[PATH_BYTES];
	snprintf(user, sizeof user, "%llu", (unsigned long long)owner);
	path_of(path, owner, name, "");
	path_of(partial, owner, name, ".tmp");
	int of = open_folder(folder, user);
	int fd = of < 0 ? of : openat(folder, partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		int code = of < 0 ? of : -errno;
		if (of >= 0)
			close(of);
		return err_set(e, code, "%s: cannot make the file: %s", path, strerror(-code));
	}
	int older = pages == NULL ? openat(folder, path, O_RDONLY | O_CLOEXEC) : -1;
	int r = spill_write(fd, head, bytes, pages, older, m, ret_kv, e);
	if (r < 0)
		err_prefix(e, "%s", path);
	if (older >= 0)
		close(older);
	close(fd);
	if (r == 0 && (renameat(folder, partial, folder, path) < 0 || fsync(of) < 0))
		r = err_set(e, -errno, "%s: cannot put the file in its place: %s", path, strerror(errno));
	if (r < 0)
		unlinkat(folder, partial, 0);
	close(of);
	return r;
}

int spill_open_file(int folder, uint64_t owner, const char *name, struct err *e)
{
	char path[PATH_BYTES];
	path_of(path, owner, name, "");
	int fd = openat(folder, path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : err_set(e, -errno, "%s: cannot open the file: %s", path, strerror(errno));
}

int spill_read_head(int fd, const struct spill_model *m, struct spill_head *ret, uint8_t **ret_bytes, struct err *e)
{
	uint64_t need = 0;
	uint8_t *bytes = xmalloc(FIRST_READ);
	ssize_t have = read_some(fd, bytes, FIRST_READ, 0);
	int r = have < 0 ? err_set(e, (int)have, "cannot read the file: %s", strerror((int)-have))
			 : spill_head_length(bytes, (size_t)have, m, &need, e);
	if (r == 0 && need > FIRST_READ && have == FIRST_READ) {
		bytes = xreallocarray(bytes, need, 1);
		ssize_t more = read_some(fd, bytes + have, need - FIRST_READ, FIRST_READ);
		if (more < 0)
			r = err_set(e, (int)more, "cannot read the file: %s", strerror((int)-more));
		have += more;
	}
	if (r == 0)
		r = spill_parse(bytes, (size_t)have, m, ret, e);
	if (r < 0)
		free(bytes);
	else
		*ret_bytes = bytes;
	return r;
}

uint32_t spill_read_pages(int fd, const struct spill_head *head, const struct spill_pages *to, struct err *e)
{
	const struct spill_header *h = &head->header;
	uint32_t i = 0, n = (head->n_kv + PAGE_TOKENS - 1) / PAGE_TOKENS;
	if (n == 0)
		return 0; /* page_bytes is the model's only where there are pages that can be used */
	uint8_t *payload = xmalloc(h->page_bytes);
	for (; i < n; i++) {
		int r = read_page(fd, h, i, payload);
		if (r < 0)
			err_set(e, r, "page %u of %u is %s", i, n, r == -EILSEQ ? "damaged" : r == -ENODATA ? "cut off" : strerror(-r));
		else if ((r = write_at(to->fd, payload, h->page_bytes, to->offset + to->stride * to->table[i])) < 0)
			err_set(e, r, "page %u of %u cannot be put into memory: %s", i, n, strerror(-r));
		if (r < 0)
			break;
	}
	free(payload);
	return i == n ? head->n_kv : i * PAGE_TOKENS;
}

int spill_remove(int folder, uint64_t owner, const char *name)
{
	char path[PATH_BYTES], user[24];
	path_of(path, owner, name, "");
	if (unlinkat(folder, path, 0) < 0)
		return errno == ENOENT ? 0 : -errno;
	snprintf(user, sizeof user, "%llu", (unsigned long long)owner);
	int of = openat(folder, user, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (of >= 0) {
		fsync(of);
		close(of);
	}
	return 0;
}

void spill_put_aside(int folder, uint64_t owner, const char *name)
{
	char path[PATH_BYTES], aside[PATH_BYTES];
	path_of(path, owner, name, "");
	path_of(aside, owner, name, ".refused");
	renameat(folder, path, folder, aside);
}

struct listing {
	struct spill_entry *entries;
	size_t n, capacity;
};

/* Files of one owner. */
static void list_owner(int folder, const char *user, struct listing *l)
{
	char *end;
	uint64_t owner = strtoull(user, &end, 10);
	int fd = *end == '\0' && end != user ? openat(folder, user, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (d == NULL)
		return;
	for (struct dirent *at; (at = readdir(d)) != NULL;) {
		size_t length = strlen(at->d_name), tail = sizeof suffix - 1;
		struct stat st;
		if (length > 4 && strcmp(at->d_name + length - 4, ".tmp") == 0)
			unlinkat(fd, at->d_name, 0);
		if (length <= tail || strcmp(at->d_name + length - tail, suffix) != 0 || !spill_name_valid(at->d_name, length - tail) ||
		    fstatat(fd, at->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (l->n == l->capacity) {
			l->capacity = l->capacity ? l->capacity * 2 : 64;
			l->entries = xreallocarray(l->entries, l->capacity, sizeof *l->entries);
		}
		struct spill_entry *entry = &l->entries[l->n++];
		*entry = (struct spill_entry){.owner = owner, .saved_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec};
		memcpy(entry->name, at->d_name, length - tail);
	}
	closedir(d);
}

static int by_time(const void *a, const void *b)
{
	const struct spill_entry *x = a, *y = b;
	return x->saved_ns < y->saved_ns ? -1 : x->saved_ns > y->saved_ns;
}

int spill_list(int folder, struct spill_entry **ret, size_t *ret_n, struct err *e)
{
	struct listing l = {0};
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (d == NULL)
		return err_set(e, -errno, "state: cannot list the sessions: %s", strerror(errno));
	for (struct dirent *at; (at = readdir(d)) != NULL;)
		if (at->d_name[0] != '.')
			list_owner(fd, at->d_name, &l);
	closedir(d);
	if (l.n > 0)
		qsort(l.entries, l.n, sizeof *l.entries, by_time);
	*ret = l.entries;
	*ret_n = l.n;
	return 0;
}
