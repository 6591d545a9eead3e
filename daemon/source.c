/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/source.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

/* As the packer describes it in the header. */
struct source {
	uint64_t dev, inode, size, mtime_ns;
};

static void add(struct source *s, const struct stat *st, bool place)
{
	uint64_t mtime_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
	if (place) {
		s->dev = st->st_dev;
		s->inode = st->st_ino;
	}
	s->size += (uint64_t)st->st_size;
	if (mtime_ns > s->mtime_ns)
		s->mtime_ns = mtime_ns;
}

static bool ends_with(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);
	return n > m && strcmp(name + n - m, suffix) == 0;
}

static bool is_model_file(const char *name)
{
	return ends_with(name, ".json") || ends_with(name, ".safetensors") || ends_with(name, ".jinja");
}

/* Every file that the packer opens; config.json stands for the folder's place. */
static void add_folder(struct source *s, const char *path)
{
	DIR *d = opendir(path);
	struct stat st;
	for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;)
		if (is_model_file(f->d_name) && fstatat(dirfd(d), f->d_name, &st, 0) == 0)
			add(s, &st, strcmp(f->d_name, "config.json") == 0);
	if (d != NULL)
		closedir(d);
}

bool source_is(const char *path, const struct weights_header *image)
{
	struct source s = {0};
	struct stat st;
	if (stat(path, &st) < 0)
		return false;
	if (S_ISDIR(st.st_mode))
		add_folder(&s, path);
	else
		add(&s, &st, true);
	return s.dev == image->source_dev && s.inode == image->source_inode && s.size == image->source_size &&
	       s.mtime_ns == image->source_mtime_ns;
}
