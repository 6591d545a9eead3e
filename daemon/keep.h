/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who keeps the segments while there is no falcond. Either systemd, which is handed the three memfds under one name and gives them
 * back at the next start; or, where the configuration says so (`segments`), a folder of a tmpfs:
 *
 *	FOLDER/lock                          locked by the falcond that uses the folder
 *	FOLDER/set-NUMBER/{weights,pages,board}
 *
 * A set is made under a name of its own (set-NUMBER.new, or before it is stored) and is there as a whole or not at all; an
 * older one goes when the next stands. Files of a tmpfs cannot be sealed: they are falcond's own (0600, the weights 0400), and
 * the lock says that nobody else uses them.
 */
#ifndef FALCON_DAEMON_KEEP_H
#define FALCON_DAEMON_KEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "daemon/inherit.h"

enum keep_kind { KEEP_WEIGHTS, KEEP_PAGES, KEEP_BOARD, KEEP_KINDS };
enum { KEEP_NAME = 40, KEEP_MOST = 8 };

struct keep_set {
	char name[KEEP_NAME];   /* also the FDNAME of its descriptors; "": none */
	int fds[KEEP_KINDS];    /* -1: not there; the weights read-only */
	bool in_folder;         /* files; else memfds */
};

struct keep {
	int folder, lock;       /* -1: none */
	struct keep_set found[KEEP_MOST]; /* [n_found] whole sets of earlier falconds */
	unsigned n_found;
};

/* Whether an inherited descriptor of this name is one of the segments, or the folder's lock. */
bool keep_owns(const char *name);

/*
 * Takes what systemd or the falcond before this one hands over, and what stands in `folder` (NULL: none), which is made if it is
 * missing and locked. 0, or -errno: the folder is no such folder, or another falcond uses it.
 */
int keep_open(struct keep *k, const struct inherited *in, const char *folder, struct err *e);

/* Closes what is left of the sets found, and the folder. */
void keep_close(struct keep *k);

/* Bytes that the folder has room for; UINT64_MAX: there is no folder, or no limit. */
uint64_t keep_room(const struct keep *k);

/* A new set, which nobody keeps yet. 0 or -errno. */
int keep_begin(struct keep *k, struct keep_set *ret, struct err *e);

/* A new segment of the set, of this size, open for writing; keep_finish() is to follow. The descriptor or -errno. */
int keep_create(struct keep *k, const struct keep_set *set, enum keep_kind kind, uint64_t size, struct err *e);

/*
 * Nobody changes the segment's size any more, nor writes to weights. fd becomes set->fds[kind]; that of weights is opened anew
 * for reading first. 0 or -errno; fd is closed then.
 */
int keep_finish(struct keep *k, struct keep_set *set, enum keep_kind kind, int fd, struct err *e);

/* The weights of another set in this one too. 0 or -errno. */
int keep_share_weights(struct keep *k, struct keep_set *set, const struct keep_set *from, struct err *e);

/* The set is whole: from here on it outlives falcond, where somebody keeps it. 0 or -errno. */
int keep_commit(struct keep *k, const struct keep_set *set, struct err *e);

/* Nobody keeps the set any longer. Its descriptors stay open. */
void keep_forget(struct keep *k, const struct keep_set *set);

/* Whether the segment cannot be changed behind falcond's back (see above). 0 or -EPERM. */
int keep_check(const struct keep_set *set, enum keep_kind kind, struct err *e);

/* Adds what the next falcond of this process needs of the set, for keep_open() to find as if systemd handed it over. */
void keep_hand_over(const struct keep *k, const struct keep_set *set, struct inherited *out);

/* Closes the set's descriptors. */
void keep_close_set(struct keep_set *set);

#endif
