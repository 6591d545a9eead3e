/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Session files on disk, for libuv's threads: everything here blocks, and nothing here knows sessions. A file is written under
 * another name, synced, and renamed, so that it is whole or not there whenever the machine stops.
 *
 *	FOLDER/<source hash, 32 hex digits>/<owner>/<name>.session
 *
 * Sessions of another model stand beside, untouched.
 */
#ifndef FALCON_DAEMON_SPILL_FILE_H
#define FALCON_DAEMON_SPILL_FILE_H

#include "daemon/spill_format.h"

/* Where a page of keys and values lies in the pages segment. */
struct spill_pages {
	int fd;
	uint64_t offset, stride; /* of payload 0; from one to the next */
	const uint32_t *table;   /* page numbers of positions 0, 32, 64 ... */
};

/* FOLDER of one model, made if it is missing, and locked: one falcond at a time. The descriptor or -errno. */
int spill_folder_open(const char *path, const uint8_t source[16], struct err *e);

/*
 * Writes head (its n_kv positions' pages from `pages`; with `pages` NULL from `older`, another file of the same session, or -1)
 * to an empty file and syncs it. *ret_kv: positions that were written, fewer if the disk has no room for pages, or the older
 * file's are damaged: the head then says so. 0 or -errno: nothing of use was written.
 */
int spill_write(int fd, uint8_t *head, size_t bytes, const struct spill_pages *pages, int older, const struct spill_model *m,
		uint32_t *ret_kv, struct err *e);

/* The same as FOLDER/owner/name.session, which is replaced once it stands; without `pages` those of the one before are taken. */
int spill_store(int folder, uint64_t owner, const char *name, uint8_t *head, size_t bytes, const struct spill_pages *pages,
		const struct spill_model *m, uint32_t *ret_kv, struct err *e);

/* Opens it for reading. The descriptor or -errno. */
int spill_open_file(int folder, uint64_t owner, const char *name, struct err *e);

/* Reads and checks a file's head. *ret_bytes, which the caller frees, holds what ret points to. 0 or -errno. */
int spill_read_head(int fd, const struct spill_model *m, struct spill_head *ret, uint8_t **ret_bytes, struct err *e);

/* Reads its pages into the segment. Returns the positions that are good; fewer than the head says with e filled. */
uint32_t spill_read_pages(int fd, const struct spill_head *head, const struct spill_pages *to, struct err *e);

/* Removes the file; none is fine. 0 or -errno. */
int spill_remove(int folder, uint64_t owner, const char *name);

/* Puts a file that is no good session out of the way, as NAME.session.refused. */
void spill_put_aside(int folder, uint64_t owner, const char *name);

struct spill_entry {
	uint64_t owner;
	int64_t saved_ns;          /* its file's time of change, since 1970 */
	char name[BOARD_NAME + 1];
};

/* Sessions in the folder, longest untouched first; what a killed falcond left half written is removed. The caller frees. */
int spill_list(int folder, struct spill_entry **ret, size_t *ret_n, struct err *e);

#endif
