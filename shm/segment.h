/* SPDX-License-Identifier: Apache-2.0 */
/* Segments: memfds that are created, sealed, mapped and handed on by descriptor. All return 0 (or a descriptor) or -errno. */
#ifndef FALCON_SHM_SEGMENT_H
#define FALCON_SHM_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A new memfd named "falcon-NAME" (in /proc/PID/fd), of this size, sealable, close-on-exec. The descriptor or -errno. */
int segment_create(const char *name, uint64_t size, struct err *e);

/* Seals against shrinking, growing and further seals; with `write` against writing too (-EBUSY while mapped writable). */
int segment_seal(int fd, bool write, struct err *e);

/* 0 if the descriptor has every seal that segment_seal(fd, write) sets. */
int segment_check_seals(int fd, bool write, struct err *e);

/* The same memfd opened anew O_RDONLY through /proc/self/fd. The descriptor or -errno. */
int segment_reopen_readonly(int fd, struct err *e);

/* Maps the whole segment shared, on a multiple of 2 MiB (where huge pages can be mapped), MADV_DONTDUMP, and says its size. */
int segment_map(int fd, bool writable, void **ret_base, uint64_t *ret_size, struct err *e);

/* Bytes of a mapping of this process that stand in huge pages, from /proc/self/smaps; 0 if it cannot be read. */
uint64_t segment_huge_bytes(const void *base);

#endif
