/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both file formats come down to: a list of named tensors whose data lie, checked, inside a mapping of the file.
 */
#ifndef FALCON_PACK_SOURCE_H
#define FALCON_PACK_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "pack/names.h"

enum { SOURCE_DIMS = 4, SOURCE_NAME = 256 };

struct source_tensor {
	char *name;              /* NUL-terminated, owned */
	const char *file;        /* for messages */
	uint32_t type;           /* enum weights_type */
	uint32_t n_dims;
	uint64_t dims[SOURCE_DIMS]; /* outermost (rows) first; the last one is contiguous */
	const uint8_t *data;     /* size bytes inside the mapping, any alignment */
	uint64_t size;
	bool used;               /* something of the image is made from it */
};

struct source {
	struct source_tensor *list;
	size_t length, capacity;
	struct names index;
};

/* Bytes of one row of `cols` elements as GGUF and safetensors store it; 0 if a block would be cut. */
uint64_t source_row_bytes(uint32_t type, uint64_t cols);

/*
 * Bytes of a tensor of these dimensions: 0 through ret_size, or -EINVAL if they are zero, cut a block or overflow. Fills e.
 */
int source_size(uint32_t type, uint32_t n_dims, const uint64_t dims[], uint64_t *ret_size, struct err *e);

/* Takes over t (its name must be on the heap). 0, or -EEXIST with e set, if the name is there; the name is then freed. */
int source_add(struct source *s, struct source_tensor t, struct err *e);

struct source_tensor *source_find(struct source *s, const char *name);

/* "4096 x 256" of a tensor. */
const char *source_shape(const struct source_tensor *t, char text[64]);

void source_done(struct source *s);

#endif
