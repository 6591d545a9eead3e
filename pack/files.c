/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static bool ends_with(const char *name, const char *end)
{
	size_t n = strlen(name), m = strlen(end);
	return n > m && memcmp(name + n - m, end, m) == 0;
}

static int map_file(int fd, const char *name, struct file *f, struct err *e)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set(e, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s: not a regular file", name);
	*f = (struct file){.size = (size_t)st.st_size, .dev = st.st_dev, .inode = st.st_ino,
		.mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec};
	if (f->size > 0) {
		void *p = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			return err_set(e, -errno, "%s: cannot map %zu bytes: %s", name, f->size, strerror(errno));
		f->data = p;
	}
	f->name = xstrdup(name);
	return 0;
}

/* Opens and maps folder/name and adds it. */
static int add_file(struct files *f, int folder, const char *path, const char *name, struct err *e)
{
	int fd = openat(folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(e, -errno, "%s: %s", path, strerror(errno));
	f->list = xreallocarray(f->list, f->length + 1, sizeof *f->list);
	int r = map_file(fd, name, &f->list[f->length], e);
	close(fd);
	if (r == 0)
		f->length++;
	return r;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->name, ((const struct file *)b)->name);
}

static int add_folder(struct files *f, const char *path, struct err *e)
{
	DIR *dir = opendir(path);
	if (dir == NULL)
		return err_set(e, -errno, "%s: %s", path, strerror(errno));
	int r = 0;
	for (struct dirent *d; r == 0 && (d = readdir(dir)) != NULL;) {
		if (ends_with(d->d_name, ".bin") && strncmp(d->d_name, "pytorch_model", 13) == 0)
			f->pickles = true;
		if (!ends_with(d->d_name, ".json") && !ends_with(d->d_name, ".safetensors") && !ends_with(d->d_name, ".jinja"))
			continue;
		if (f->length == FILES_MOST)
			r = err_set(e, -E2BIG, "%s: more than %d model files", path, FILES_MOST);
		else
			r = add_file(f, dirfd(dir), d->d_name, d->d_name, e);
	}
	closedir(dir);
	if (f->length > 0)
		qsort(f->list, f->length, sizeof *f->list, by_name);
	return r;
}

int files_open(const char *path, struct files *f, struct err *e)
{
	*f = (struct files){0};
	struct stat st;
	if (stat(path, &st) < 0) {
		err_set(e, -errno, "%s: %s", path, strerror(errno));
		return err_hint(e, "a model is a GGUF file, or a folder with config.json and *.safetensors");
	}
	size_t end = strlen(path);
	while (end > 1 && path[end - 1] == '/')
		end--;
	size_t start = end;
	while (start > 0 && path[start - 1] != '/')
		start--;
	f->name = xstrndup(path + start, end - start);
	f->folder = S_ISDIR(st.st_mode);
	return f->folder ? add_folder(f, path, e) : add_file(f, AT_FDCWD, path, f->name, e);
}

void files_close(struct files *f)
{
	for (size_t i = 0; i < f->length; i++) {
		if (f->list[i].data != NULL)
			munmap((void *)(uintptr_t)f->list[i].data, f->list[i].size);
		free(f->list[i].name);
	}
	free(f->list);
	free(f->name);
	*f = (struct files){0};
}

struct file *files_use(struct files *f, const char *name)
{
	for (size_t i = 0; i < f->length; i++) {
		if (strcmp(f->list[i].name, name) == 0) {
			f->list[i].used = true;
			return &f->list[i];
		}
	}
	return NULL;
}
