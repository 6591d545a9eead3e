/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/keep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "daemon/notify.h"
#include "shm/board.h"
#include "shm/segment.h"

enum { LOCK_TRIES = 100, LOCK_WAIT_MS = 10 };

static const char *const kinds[KEEP_KINDS] = {[KEEP_WEIGHTS] = "weights", [KEEP_PAGES] = "pages", [KEEP_BOARD] = "board"};
static const uint64_t magics[KEEP_KINDS] = {[KEEP_WEIGHTS] = WEIGHTS_MAGIC, [KEEP_PAGES] = PAGES_MAGIC, [KEEP_BOARD] = BOARD_MAGIC};
static const char lock_name[] = "lock"; /* also an FDNAME, over an upgrade */
static const char set_prefix[] = "set-";

static const struct keep_set no_set = {.fds = {-1, -1, -1}};

void keep_close_set(struct keep_set *set)
{
	for (int i = 0; i < KEEP_KINDS; i++)
		if (set->fds[i] >= 0)
			close(set->fds[i]);
	*set = no_set;
}

static bool is_whole(const struct keep_set *set)
{
	return set->fds[KEEP_WEIGHTS] >= 0 && set->fds[KEEP_PAGES] >= 0 && set->fds[KEEP_BOARD] >= 0;
}

static struct keep_set *find_set(struct keep *k, const char *name)
{
	for (unsigned i = 0; i < k->n_found; i++)
		if (strcmp(k->found[i].name, name) == 0)
			return &k->found[i];
	if (k->n_found == KEEP_MOST)
		return NULL;
	struct keep_set *set = &k->found[k->n_found++];
	*set = no_set;
	snprintf(set->name, sizeof set->name, "%s", name);
	return set;
}

/* Which segment it is, by the word that it begins with; a board that was damaged there is what the other two are not. */
static enum keep_kind kind_of(int fd)
{
	uint64_t magic = 0;
	if (pread(fd, &magic, sizeof magic, 0) == sizeof magic)
		for (int i = 0; i < KEEP_BOARD; i++)
			if (magic == magics[i])
				return (enum keep_kind)i;
	return KEEP_BOARD;
}

bool keep_owns(const char *name)
{
	return strcmp(name, lock_name) == 0 || strncmp(name, set_prefix, strlen(set_prefix)) == 0;
}

static void take_inherited(struct keep *k, const char *name, int fd)
{
	if (strcmp(name, lock_name) == 0) {
		k->lock = fd;
		return;
	}
	struct keep_set *set = find_set(k, name);
	int *at = set ? &set->fds[kind_of(fd)] : NULL;
	if (at != NULL && *at < 0)
		*at = fd;
	else
		close(fd);
}

static int lock_folder(struct keep *k, const char *path, struct err *e)
{
	/* Of the open file, not of the process: an upgrade hands it on. */
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char pid[16] = "";
	if (k->lock < 0)
		k->lock = openat(k->folder, lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (k->lock < 0)
		return err_set(e, -errno, "segments: cannot make %s/%s: %s", path, lock_name, strerror(errno));
	for (int i = 0; i < LOCK_TRIES; i++) { /* one that was killed a moment ago is given time to be gone */
		if (fcntl(k->lock, F_OFD_SETLK, &lock) == 0) {
			if (ftruncate(k->lock, 0) < 0 || dprintf(k->lock, "%d\n", (int)getpid()) < 0)
				log_warning("segments: cannot write %s/%s: %s", path, lock_name, strerror(errno));
			return 0;
		}
		if (errno != EAGAIN && errno != EACCES)
			return err_set(e, -errno, "segments: cannot lock %s/%s: %s", path, lock_name, strerror(errno));
		nanosleep(&(struct timespec){.tv_nsec = LOCK_WAIT_MS * 1000000L}, NULL);
	}
	ssize_t n = pread(k->lock, pid, sizeof pid - 1, 0);
	err_set(e, -EBUSY, "segments: another falcond, process %d, uses the folder %s", n > 0 ? atoi(pid) : 0, path);
	return err_hint(e, "stop it, or give this one a folder of its own");
}

static int open_folder(struct keep *k, const char *path, struct err *e)
{
	struct stat st;
	struct statfs fs;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(e, -errno, "segments: cannot make the folder %s: %s", path, strerror(errno));
	k->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (k->folder < 0 || fstat(k->folder, &st) < 0 || fstatfs(k->folder, &fs) < 0)
		return err_set(e, -errno, "segments: cannot open the folder %s: %s", path, strerror(errno));
	if (st.st_uid != geteuid() || (st.st_mode & 0077) != 0) {
		err_set(e, -EPERM, "segments: the folder %s has the owner %d and the mode %04o", path, (int)st.st_uid, st.st_mode & 07777);
		return err_hint(e, "it must belong to uid %d alone: `chown %d` and `chmod 0700`, or name one that is not there", (int)geteuid(),
				(int)geteuid());
	}
	if (fs.f_type != TMPFS_MAGIC) {
		err_set(e, -EINVAL, "segments: the folder %s is not in memory", path);
		return err_hint(e, "name a folder of a tmpfs, such as /dev/shm/falcond or one in /run");
	}
	return lock_folder(k, path, e);
}

/* Removes the files of a set's folder and the folder. */
static void remove_files(const struct keep *k, const char *name)
{
	char path[KEEP_NAME + 16];
	for (int i = 0; i < KEEP_KINDS; i++) {
		snprintf(path, sizeof path, "%s/%s", name, kinds[i]);
		unlinkat(k->folder, path, 0);
	}
	if (unlinkat(k->folder, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		log_warning("segments: cannot remove %s: %s", name, strerror(errno));
}

static void open_files(const struct keep *k, struct keep_set *set)
{
	char path[KEEP_NAME + 16];
	set->in_folder = true;
	for (int i = 0; i < KEEP_KINDS; i++) {
		snprintf(path, sizeof path, "%s/%s", set->name, kinds[i]);
		set->fds[i] = openat(k->folder, path, (i == KEEP_WEIGHTS ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW);
	}
}

/* The sets of the folder; what a falcond that was killed had only begun is removed. */
static void find_files(struct keep *k)
{
	int fd = openat(k->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	if (d == NULL)
		return;
	for (struct dirent *f; (f = readdir(d)) != NULL;) {
		if (strncmp(f->d_name, set_prefix, strlen(set_prefix)) != 0 || strlen(f->d_name) >= KEEP_NAME)
			continue;
		struct keep_set *set = strchr(f->d_name, '.') == NULL ? find_set(k, f->d_name) : NULL;
		if (set == NULL)
			remove_files(k, f->d_name);
		else
			open_files(k, set);
	}
	closedir(d);
}

int keep_open(struct keep *k, const struct inherited *in, const char *folder, struct err *e)
{
	*k = (struct keep){.folder = -1, .lock = -1};
	for (size_t i = 0; i < in->n; i++)
		if (keep_owns(in->list[i].name))
			take_inherited(k, in->list[i].name, in->list[i].fd);
	int r = folder == NULL ? 0 : open_folder(k, folder, e);
	if (r == 0 && folder != NULL)
		find_files(k);
	for (unsigned i = 0; r == 0 && i < k->n_found; i++)
		if (!is_whole(&k->found[i])) {
			log_warning("segments: of the set %s one is missing; it is given up", k->found[i].name);
			keep_forget(k, &k->found[i]);
			keep_close_set(&k->found[i]);
			k->found[i--] = k->found[--k->n_found];
		}
	return r;
}

void keep_close(struct keep *k)
{
	for (unsigned i = 0; i < k->n_found; i++)
		keep_close_set(&k->found[i]);
	if (k->folder >= 0)
		close(k->folder);
	if (k->lock >= 0)
		close(k->lock);
	*k = (struct keep){.folder = -1, .lock = -1};
}

uint64_t keep_room(const struct keep *k)
{
	struct statfs fs;
	if (k->folder < 0 || fstatfs(k->folder, &fs) < 0 || fs.f_blocks == 0)
		return UINT64_MAX;
	return (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
}

int keep_begin(struct keep *k, struct keep_set *ret, struct err *e)
{
	uint64_t number;
	char path[KEEP_NAME + 16];
	struct keep_set set = no_set;
	if (getrandom(&number, sizeof number, 0) != sizeof number)
		return err_set(e, -errno, "cannot draw a random number: %s", strerror(errno));
	snprintf(set.name, sizeof set.name, "%s%016llx", set_prefix, (unsigned long long)number);
	set.in_folder = k->folder >= 0;
	snprintf(path, sizeof path, "%s.new", set.name);
	if (set.in_folder && mkdirat(k->folder, path, 0700) < 0)
		return err_set(e, -errno, "segments: cannot make the folder %s: %s", path, strerror(errno));
	*ret = set;
	return 0;
}

int keep_create(struct keep *k, const struct keep_set *set, enum keep_kind kind, uint64_t size, struct err *e)
{
	char path[KEEP_NAME + 16];
	if (!set->in_folder)
		return segment_create(kinds[kind], size, e);
	snprintf(path, sizeof path, "%s.new/%s", set->name, kinds[kind]);
	int fd = openat(k->folder, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(e, -errno, "segments: cannot make %s: %s", path, strerror(errno));
	if (ftruncate(fd, (off_t)size) < 0) {
		err_set(e, -errno, "segments: cannot give %s %llu bytes: %s", path, (unsigned long long)size, strerror(errno));
		close(fd);
		return e->code;
	}
	return fd;
}

int keep_finish(struct keep *k, struct keep_set *set, enum keep_kind kind, int fd, struct err *e)
{
	bool weights = kind == KEEP_WEIGHTS;
	(void)k;
	int r = 0;
	if (!set->in_folder)
		r = segment_seal(fd, weights, e);
	else if (weights && fchmod(fd, 0400) < 0)
		r = err_set(e, -errno, "segments: cannot make the weights read-only: %s", strerror(errno));
	if (r == 0 && weights && (r = segment_reopen_readonly(fd, e)) >= 0) {
		close(fd);
		fd = r;
		r = 0;
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	set->fds[kind] = fd;
	return keep_check(set, kind, e);
}

int keep_share_weights(struct keep *k, struct keep_set *set, const struct keep_set *from, struct err *e)
{
	if (set->in_folder != from->in_folder)
		return err_set(e, -EXDEV, "weights in memory do not move into a folder");
	if (set->in_folder) {
		char old[KEEP_NAME + 16], new[KEEP_NAME + 16];
		snprintf(old, sizeof old, "%s/%s", from->name, kinds[KEEP_WEIGHTS]);
		snprintf(new, sizeof new, "%s.new/%s", set->name, kinds[KEEP_WEIGHTS]);
		if (linkat(k->folder, old, k->folder, new, 0) < 0)
			return err_set(e, -errno, "segments: cannot link %s: %s", old, strerror(errno));
	}
	/* A descriptor of its own: systemd stores none twice. */
	int fd = segment_reopen_readonly(from->fds[KEEP_WEIGHTS], e);
	if (fd < 0)
		return fd;
	set->fds[KEEP_WEIGHTS] = fd;
	return 0;
}

int keep_commit(struct keep *k, const struct keep_set *set, struct err *e)
{
	char path[KEEP_NAME + 16];
	if (set->in_folder) {
		snprintf(path, sizeof path, "%s.new", set->name);
		if (renameat(k->folder, path, k->folder, set->name) < 0)
			return err_set(e, -errno, "segments: cannot rename %s: %s", path, strerror(errno));
		return 0;
	}
	int r = notify_keeps() ? notify_store(set->name, set->fds, KEEP_KINDS) : 0;
	return r < 0 ? err_set(e, r, "cannot hand the segments to systemd: %s", strerror(-r)) : 0;
}

void keep_forget(struct keep *k, const struct keep_set *set)
{
	char path[KEEP_NAME + 16];
	if (set->name[0] == '\0')
		return;
	if (!set->in_folder) {
		notify_forget(set->name);
		return;
	}
	snprintf(path, sizeof path, "%s.new", set->name);
	remove_files(k, path);
	remove_files(k, set->name);
}

void keep_hand_over(const struct keep *k, const struct keep_set *set, struct inherited *out)
{
	if (k->lock >= 0)
		inherited_add(out, lock_name, k->lock);
	for (int i = 0; i < KEEP_KINDS && !set->in_folder; i++)
		inherited_add(out, set->name, set->fds[i]);
}

int keep_check(const struct keep_set *set, enum keep_kind kind, struct err *e)
{
	struct stat st;
	if (fstat(set->fds[kind], &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(e, -EPERM, "the %s are no file", kinds[kind]);
	if (!set->in_folder)
		return segment_check_seals(set->fds[kind], kind == KEEP_WEIGHTS, e);
	mode_t mode = kind == KEEP_WEIGHTS ? 0400 : 0600;
	if (st.st_uid != geteuid() || (st.st_mode & 07777) != mode)
		return err_set(e, -EPERM, "segments: the %s have the owner %d and the mode %04o, expected %d and %04o", kinds[kind],
			       (int)st.st_uid, st.st_mode & 07777, (int)geteuid(), mode);
	return 0;
}
