/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "base/reader.h"
#include "pack/json.h"
#include "shm/weights.h"

enum { HEADER_MOST = 100 << 20 }; /* the format's own limit is 100 MB */

static int read_type(const char *dtype, uint32_t *ret, struct err *e)
{
	static const struct { const char *name; uint32_t type; } types[] = {
		{"F32", WEIGHTS_F32}, {"F16", WEIGHTS_F16}, {"BF16", WEIGHTS_BF16}};
	for (size_t i = 0; i < 3; i++) {
		if (strcmp(types[i].name, dtype) == 0) {
			*ret = types[i].type;
			return 0;
		}
	}
	err_set(e, -EINVAL, "type '%.16s' is not supported", dtype);
	return err_hint(e, "save the model in float32, float16 or bfloat16");
}

static int read_shape(const json_t *shape, struct source_tensor *t, struct err *e)
{
	size_t n = json_array_size(shape);
	if (!json_is_array(shape) || n == 0 || n > SOURCE_DIMS)
		return err_set(e, -EINVAL, "its shape is not an array of 1 to %d numbers", SOURCE_DIMS);
	t->n_dims = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		const json_t *dim = json_array_get(shape, i);
		if (!json_is_integer(dim) || json_integer_value(dim) <= 0)
			return err_set(e, -EINVAL, "its shape holds something that is not a positive number");
		t->dims[i] = (uint64_t)json_integer_value(dim);
	}
	return source_size(t->type, t->n_dims, t->dims, &t->size, e);
}

/* data_offsets [begin, end) count from the end of the header. */
static int read_offsets(const json_t *offsets, const uint8_t *data, size_t size, struct source_tensor *t, struct err *e)
{
	const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
	if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
		return err_set(e, -EINVAL, "data_offsets is not two numbers");
	json_int_t begin = json_integer_value(first), end = json_integer_value(second);
	if (begin < 0 || end < begin || (uint64_t)end > size) {
		err_set(e, -EINVAL, "its data, bytes %lld to %lld, lie outside the %zu bytes of data", (long long)begin,
			(long long)end, size);
		return err_hint(e, "the file is incomplete or damaged: download it again");
	}
	if ((uint64_t)(end - begin) != t->size)
		return err_set(e, -EINVAL, "its data have %lld bytes, its shape needs %" PRIu64, (long long)(end - begin),
			       t->size);
	t->data = data + begin;
	return 0;
}

static int read_tensor(const char *name, const json_t *entry, const uint8_t *data, size_t size, struct source_tensor *t,
		       struct err *e)
{
	int r = 0;
	if (strlen(name) >= SOURCE_NAME)
		return err_set(e, -EINVAL, "its name has %zu bytes", strlen(name));
	if ((r = read_type(json_text(json_object_get(entry, "dtype")), &t->type, e)) < 0 ||
	    (r = read_shape(json_object_get(entry, "shape"), t, e)) < 0)
		return r;
	return read_offsets(json_object_get(entry, "data_offsets"), data, size, t, e);
}

int safetensors_read(const void *data, size_t size, const char *file, struct source *s, struct err *e)
{
	struct reader r = reader_over(data, size);
	uint64_t length = reader_u64(&r);
	const uint8_t *text = length <= HEADER_MOST ? reader_take(&r, length) : NULL;
	if (text == NULL) {
		err_set(e, -EINVAL, "%s: the header of %" PRIu64 " bytes does not fit the file of %zu bytes", file, length,
			size);
		return err_hint(e, "the file is incomplete, or not a safetensors file");
	}
	json_t *root;
	int ret = json_open(text, length, file, &root, e);
	if (ret < 0)
		return err_hint(e, "the header of the safetensors file is damaged");
	const char *name;
	json_t *entry;
	json_object_foreach(root, name, entry) {
		struct source_tensor t = {.file = file};
		if (strcmp(name, "__metadata__") == 0)
			continue;
		if ((ret = read_tensor(name, entry, r.data + r.at, r.size - r.at, &t, e)) < 0) {
			err_prefix(e, "%s: tensor %.255s", file, name);
			break;
		}
		t.name = xstrdup(name);
		if ((ret = source_add(s, t, e)) < 0)
			break;
	}
	json_decref(root);
	return ret;
}
