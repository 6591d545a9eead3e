/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every count of the file is first held against the bytes that are left: an entry has a least size, so a count that could
 * not fit is refused before anything is allocated for it.
 */
#include "pack/gguf.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/reader.h"
#include "shm/weights.h"

enum { KEY_BYTES = 65535, ENTRY_LEAST = 8 + 4 + 1, INFO_LEAST = 8 + 4 + 8 + 4 + 8, ALIGNMENT = 32 };

static const uint8_t item_bytes[GGUF_TYPES] = {[GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
	[GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* ggml's numbers for the types of tensors; `ours` is -1 for those that are known by name only. */
static const struct { uint32_t number; const char *name; int ours; } tensor_types[] = {
	{0, "F32", WEIGHTS_F32},   {1, "F16", WEIGHTS_F16},   {2, "Q4_0", WEIGHTS_Q4_0}, {3, "Q4_1", WEIGHTS_Q4_1},
	{6, "Q5_0", WEIGHTS_Q5_0}, {7, "Q5_1", WEIGHTS_Q5_1}, {8, "Q8_0", WEIGHTS_Q8_0}, {30, "BF16", WEIGHTS_BF16},
	{9, "Q8_1", -1},           {10, "Q2_K", -1},          {11, "Q3_K", -1},          {12, "Q4_K", -1},
	{13, "Q5_K", -1},          {14, "Q6_K", -1},          {15, "Q8_K", -1},          {16, "IQ2_XXS", -1},
	{17, "IQ2_XS", -1},        {18, "IQ3_XXS", -1},       {19, "IQ1_S", -1},         {20, "IQ4_NL", -1},
	{21, "IQ3_S", -1},         {22, "IQ2_S", -1},         {23, "IQ4_XS", -1},        {24, "I8", -1},
	{25, "I16", -1},           {26, "I32", -1},           {27, "I64", -1},           {28, "F64", -1},
	{29, "IQ1_M", -1},         {34, "TQ1_0", -1},         {35, "TQ2_0", -1},         {39, "MXFP4", -1},
};

static int cut_short(const struct gguf *g, const struct reader *r, const char *what, struct err *e)
{
	err_set(e, -EINVAL, "%s: the file ends within %s at byte %zu", g->file, what, r->at);
	return err_hint(e, "the file is incomplete or damaged: download or convert it again");
}

/* Takes a string's bytes; NULL if it does not fit (r has then failed). */
static const char *take_string(struct reader *r, uint64_t *ret_length)
{
	*ret_length = reader_u64(r);
	return (const char *)reader_take(r, *ret_length);
}

static int read_value(const struct gguf *g, struct reader *r, const char *key, size_t key_length, struct gguf_value *v,
		      struct err *e)
{
	*v = (struct gguf_value){.type = reader_u32(r), .n = 1};
	if (v->type == GGUF_ARRAY) {
		v->array = true;
		v->type = reader_u32(r);
		v->n = reader_u64(r);
	}
	if (r->failed)
		return cut_short(g, r, "a metadata value", e);
	if (v->type >= GGUF_TYPES || v->type == GGUF_ARRAY)
		return err_set(e, -EINVAL, "%s: metadata %.*s at byte %zu has type %" PRIu32 ", which is not known", g->file,
			       (int)key_length, key, r->at, v->type);
	v->data = r->data + r->at;
	if (v->type == GGUF_STRING) {
		for (uint64_t i = 0, length; i < v->n && !r->failed; i++)
			take_string(r, &length);
	} else {
		uint64_t size;
		if (__builtin_mul_overflow(v->n, item_bytes[v->type], &size))
			r->failed = true;
		reader_take(r, size);
	}
	if (r->failed)
		return cut_short(g, r, "a metadata value", e);
	v->size = (uint64_t)(r->data + r->at - v->data);
	return 0;
}

static int read_values(struct gguf *g, struct reader *r, uint64_t n, struct err *e)
{
	if (n > (r->size - r->at) / ENTRY_LEAST)
		return cut_short(g, r, "the metadata", e);
	g->values = xcalloc(n, sizeof *g->values);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t length;
		const char *key = take_string(r, &length);
		if (key == NULL || length > KEY_BYTES)
			return cut_short(g, r, "a metadata key", e);
		int ret = read_value(g, r, key, length, &g->values[i], e);
		if (ret < 0)
			return ret;
		if (names_add(&g->keys, key, length, (uint32_t)i) < 0)
			return err_set(e, -EINVAL, "%s: metadata %.*s is there twice", g->file, (int)length, key);
	}
	return 0;
}

static int find_type(const struct gguf *g, const char *name, uint32_t number, uint32_t *ret, struct err *e)
{
	const char *type = "of a newer kind";
	for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++) {
		if (tensor_types[i].number != number)
			continue;
		if (tensor_types[i].ours >= 0) {
			*ret = (uint32_t)tensor_types[i].ours;
			return 0;
		}
		type = tensor_types[i].name;
	}
	err_set(e, -EINVAL, "%s: tensor %s has type %s (number %" PRIu32 "), which is not supported", g->file, name, type,
		number);
	return err_hint(e, "use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1 (llama-quantize converts)");
}

/* One entry of the tensor table. `start` is where tensor data begin; it is known only after the table, so offsets come raw. */
static int read_info(const struct gguf *g, struct reader *r, struct source_tensor *t, uint64_t *ret_offset, struct err *e)
{
	uint64_t length, dims[SOURCE_DIMS];
	size_t at = r->at;
	const char *name = take_string(r, &length);
	uint32_t n_dims = reader_u32(r);
	if (!r->failed && (length == 0 || length >= SOURCE_NAME || memchr(name, '\0', length) != NULL))
		return err_set(e, -EINVAL, "%s: the tensor at byte %zu has a name of %" PRIu64 " bytes", g->file, at, length);
	if (!r->failed && (n_dims == 0 || n_dims > SOURCE_DIMS))
		return err_set(e, -EINVAL, "%s: tensor %.*s has %" PRIu32 " dimensions, expected 1 to %d", g->file, (int)length,
			       name, n_dims, SOURCE_DIMS);
	for (uint32_t i = 0; i < n_dims && i < SOURCE_DIMS; i++)
		dims[i] = reader_u64(r);
	uint32_t number = reader_u32(r);
	*ret_offset = reader_u64(r);
	if (r->failed)
		return cut_short(g, r, "the tensor table", e);
	while (n_dims > 1 && dims[n_dims - 1] == 1) /* GGUF has the contiguous dimension first, and may end in ones */
		n_dims--;
	t->n_dims = n_dims;
	for (uint32_t i = 0; i < n_dims; i++)
		t->dims[i] = dims[n_dims - 1 - i];
	t->name = xstrndup(name, length);
	int ret = find_type(g, t->name, number, &t->type, e);
	if (ret == 0 && (ret = source_size(t->type, t->n_dims, t->dims, &t->size, e)) < 0)
		err_prefix(e, "%s: tensor %s", g->file, t->name);
	if (ret < 0)
		free(t->name);
	return ret;
}

static int read_infos(const struct gguf *g, struct reader *r, uint64_t n, struct source *s, struct err *e)
{
	uint32_t alignment = ALIGNMENT;
	int ret = gguf_u32(g, "general.alignment", &alignment, e);
	if (ret < 0 && ret != -ENOENT)
		return ret;
	if (alignment < 8 || alignment > 1u << 20 || (alignment & (alignment - 1)))
		return err_set(e, -EINVAL, "%s: general.alignment is %" PRIu32 ", expected a power of two from 8 to 1048576",
			       g->file, alignment);
	if (n > (r->size - r->at) / INFO_LEAST)
		return cut_short(g, r, "the tensor table", e);
	uint64_t *offsets = xcalloc(n, sizeof *offsets);
	for (uint64_t i = 0; i < n; i++) {
		struct source_tensor t = {.file = g->file};
		if ((ret = read_info(g, r, &t, &offsets[i], e)) < 0 || (ret = source_add(s, t, e)) < 0)
			goto out;
	}
	ret = 0;
	uint64_t start = (r->at + alignment - 1) / alignment * alignment;
	for (uint64_t i = 0; i < n; i++) {
		struct source_tensor *t = &s->list[i];
		if (start > g->size || offsets[i] % alignment || offsets[i] > g->size - start ||
		    t->size > g->size - start - offsets[i]) {
			err_set(e, -EINVAL,
				"%s: tensor %s (%" PRIu64 " bytes at %" PRIu64 " + %" PRIu64
				") lies outside the file of %" PRIu64 " bytes or off its alignment",
				g->file, t->name, t->size, start, offsets[i], g->size);
			ret = err_hint(e, "the file is incomplete or damaged: download or convert it again");
			goto out;
		}
		t->data = g->data + start + offsets[i];
	}
out:
	free(offsets);
	return ret;
}

int gguf_open(const void *data, size_t size, const char *file, struct gguf *g, struct source *s, struct err *e)
{
	*g = (struct gguf){.file = file, .data = data, .size = size};
	struct reader r = reader_over(data, size);
	const uint8_t *magic = reader_take(&r, 4);
	if (magic == NULL || memcmp(magic, "GGUF", 4) != 0) {
		err_set(e, -EINVAL, "%s: not a GGUF file", file);
		return err_hint(e, "a model is a GGUF file, or a folder with config.json and *.safetensors");
	}
	uint32_t version = reader_u32(&r);
	if (!r.failed && version != 2 && version != 3) {
		err_set(e, -EINVAL, "%s: GGUF version %" PRIu32 "%s, expected 2 or 3", file, version,
			version & 0xffff ? "" : " (big endian)");
		return err_hint(e, "convert the model again with a current converter");
	}
	uint64_t n_tensors = reader_u64(&r), n_values = reader_u64(&r);
	if (r.failed)
		return cut_short(g, &r, "its header", e);
	int ret = read_values(g, &r, n_values, e);
	return ret < 0 ? ret : read_infos(g, &r, n_tensors, s, e);
}

void gguf_close(struct gguf *g)
{
	free(g->values);
	names_done(&g->keys);
	*g = (struct gguf){0};
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
	uint32_t i = names_find(&g->keys, key, strlen(key));
	return i == NAMES_NONE ? NULL : &g->values[i];
}

static int wrong_type(const struct gguf *g, const char *key, const char *expected, struct err *e)
{
	return err_set(e, -EINVAL, "%s: metadata %s is not %s", g->file, key, expected);
}

/* A scalar of any integer type, widened. False for other types. */
static bool integer(const struct gguf_value *v, int64_t *ret)
{
	if (v->array || v->type == GGUF_STRING || v->type == GGUF_F32 || v->type == GGUF_F64 || v->type == GGUF_BOOL)
		return false;
	uint64_t raw = 0;
	memcpy(&raw, v->data, item_bytes[v->type]);
	bool is_signed = v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 || v->type == GGUF_I64;
	int spare = 64 - 8 * item_bytes[v->type];
	if (!is_signed && raw > INT64_MAX)
		return false;
	*ret = is_signed ? (int64_t)(raw << spare) >> spare : (int64_t)raw;
	return true;
}

int gguf_u32(const struct gguf *g, const char *key, uint32_t *ret, struct err *e)
{
	const struct gguf_value *v = gguf_find(g, key);
	int64_t value;
	if (v == NULL)
		return -ENOENT;
	if (!integer(v, &value) || value < 0 || value > UINT32_MAX)
		return wrong_type(g, key, "an integer of 32 bits", e);
	*ret = (uint32_t)value;
	return 0;
}

int gguf_f32(const struct gguf *g, const char *key, float *ret, struct err *e)
{
	const struct gguf_value *v = gguf_find(g, key);
	if (v == NULL)
		return -ENOENT;
	double value = 0;
	float single;
	if (v->array || (v->type != GGUF_F32 && v->type != GGUF_F64))
		return wrong_type(g, key, "a floating-point number", e);
	if (v->type == GGUF_F32) {
		memcpy(&single, v->data, 4);
		value = (double)single;
	} else {
		memcpy(&value, v->data, 8);
	}
	if (!(value >= -(double)FLT_MAX && value <= (double)FLT_MAX))
		return wrong_type(g, key, "a finite number", e);
	*ret = (float)value;
	return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *ret, struct err *e)
{
	const struct gguf_value *v = gguf_find(g, key);
	if (v == NULL)
		return -ENOENT;
	if (v->array || v->type != GGUF_BOOL)
		return wrong_type(g, key, "a truth value", e);
	*ret = v->data[0] != 0;
	return 0;
}

int gguf_string(const struct gguf *g, const char *key, const char **ret, size_t *ret_length, struct err *e)
{
	const struct gguf_value *v = gguf_find(g, key);
	if (v == NULL)
		return -ENOENT;
	if (v->array || v->type != GGUF_STRING)
		return wrong_type(g, key, "a string", e);
	*ret = (const char *)v->data + 8;
	*ret_length = (size_t)(v->size - 8);
	return 0;
}
