/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a model before the packer confines itself: every file that could matter is mapped first, and nothing is opened
 * afterwards. Mappings are private and read-only. A file that somebody cuts short while it is read kills the packer with
 * SIGBUS, which costs nothing but this packing.
 */
#ifndef FALCON_PACK_FILES_H
#define FALCON_PACK_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { FILES_MOST = 4096 }; /* of a folder */

struct file {
	char *name;          /* within the folder; of a lone file its last component */
	const uint8_t *data; /* NULL if size is 0 */
	size_t size;
	uint64_t dev, inode, mtime_ns;
	bool used;           /* the image depends on it: it is hashed */
};

struct files {
	struct file *list;   /* sorted by name */
	size_t length;
	bool folder;
	bool pickles;        /* a folder that also has pytorch_model*.bin */
	char *name;          /* last component of the path */
};

/* Opens a file, or all *.json, *.safetensors and *.jinja of a folder (symbolic links followed). 0 or -errno with e set. */
int files_open(const char *path, struct files *f, struct err *e);
void files_close(struct files *f);

/* The file of this name, marked as used; NULL if there is none. */
struct file *files_use(struct files *f, const char *name);

#endif
