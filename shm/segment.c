/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { PAGE = 4096 };

int segment_create(const char *name, uint64_t size, struct err *e)
{
	char full[64];
	snprintf(full, sizeof full, "falcon-%s", name);
	int fd = memfd_create(full, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return err_set(e, -errno, "cannot create the %s segment: %s", name, strerror(errno));
	if (ftruncate(fd, (off_t)size) < 0) {
		int code = -errno;
		close(fd);
		return err_set(e, code, "cannot give the %s segment %llu bytes: %s", name, (unsigned long long)size, strerror(-code));
	}
	return fd;
}

static int seals(bool write)
{
	return F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (write ? F_SEAL_WRITE : 0);
}

int segment_seal(int fd, bool write, struct err *e)
{
	if (fcntl(fd, F_ADD_SEALS, seals(write)) < 0)
		return err_set(e, -errno, "cannot seal a segment: %s", strerror(errno));
	return 0;
}

int segment_check_seals(int fd, bool write, struct err *e)
{
	int have = fcntl(fd, F_GET_SEALS);
	if (have < 0)
		return err_set(e, -errno, "cannot read a segment's seals: %s", strerror(errno));
	if ((have & seals(write)) != seals(write))
		return err_set(e, -EPERM, "a segment has seals %#x, expected %#x", (unsigned)have, (unsigned)seals(write));
	return 0;
}

int segment_reopen_readonly(int fd, struct err *e)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int again = open(path, O_RDONLY | O_CLOEXEC);
	return again >= 0 ? again : err_set(e, -errno, "cannot open a segment again for reading: %s", strerror(errno));
}

/*
 * The kernel maps a huge page of a memfd as one only where the address, too, is a multiple of its size, and chooses any
 * address: so reserve more than is needed and map over the middle of it.
 */
static void *map_aligned(int fd, size_t size, int protection)
{
	size_t whole = (size + PAGE - 1) / PAGE * PAGE;
	uint8_t *reserved = mmap(NULL, whole + MEM_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserved == MAP_FAILED)
		return MAP_FAILED;
	uint8_t *base = reserved + (MEM_HUGE - (uintptr_t)reserved % MEM_HUGE) % MEM_HUGE;
	if (base > reserved)
		munmap(reserved, (size_t)(base - reserved));
	if (base < reserved + MEM_HUGE)
		munmap(base + whole, (size_t)(reserved + MEM_HUGE - base));
	void *mapped = mmap(base, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
	if (mapped == MAP_FAILED)
		munmap(base, whole);
	return mapped;
}

int segment_map(int fd, bool writable, void **ret_base, uint64_t *ret_size, struct err *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set(e, -errno, "cannot look at a segment: %s", strerror(errno));
	if (st.st_size <= 0)
		return err_set(e, -EINVAL, "a segment is empty");
	void *base = map_aligned(fd, (size_t)st.st_size, PROT_READ | (writable ? PROT_WRITE : 0));
	if (base == MAP_FAILED)
		return err_set(e, -errno, "cannot map a segment of %lld bytes: %s", (long long)st.st_size, strerror(errno));
	madvise(base, (size_t)st.st_size, MADV_DONTDUMP);
	*ret_base = base;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

uint64_t segment_huge_bytes(const void *base)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	if (f == NULL)
		return 0;
	char line[256], start[32];
	snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)base);
	unsigned long long kib, bytes = 0;
	bool inside = false;
	while (fgets(line, sizeof line, f) != NULL) {
		if (strncmp(line, start, strlen(start)) == 0)
			inside = true;
		else if (inside && sscanf(line, "ShmemPmdMapped: %llu kB", &kib) == 1) {
			bytes = kib * 1024;
			break;
		}
	}
	fclose(f);
	return bytes;
}
