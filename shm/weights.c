/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reader may rely on in a weights image. The packer runs on untrusted bytes, so what it leaves is untrusted too until
 * weights_check() has looked at every offset and shape.
 */
#include "shm/weights.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static const char *const type_names[WEIGHTS_TYPES] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"};

static const char *const role_names[WEIGHTS_ROLES] = {
	[WEIGHTS_EMBED] = "embedding", [WEIGHTS_HEAD] = "head", [WEIGHTS_OUT_NORM] = "output norm",
	[WEIGHTS_OUT_NORM_BIAS] = "output norm bias", [WEIGHTS_ROPE] = "rotary table", [WEIGHTS_SLOPES] = "ALiBi slopes",
	[WEIGHTS_NORM] = "norm", [WEIGHTS_NORM_BIAS] = "norm bias", [WEIGHTS_MLP_NORM] = "MLP norm",
	[WEIGHTS_MLP_NORM_BIAS] = "MLP norm bias", [WEIGHTS_Q] = "queries", [WEIGHTS_Q_BIAS] = "queries bias",
	[WEIGHTS_K] = "keys", [WEIGHTS_K_BIAS] = "keys bias", [WEIGHTS_V] = "values", [WEIGHTS_V_BIAS] = "values bias",
	[WEIGHTS_GATE] = "gate", [WEIGHTS_UP] = "up", [WEIGHTS_UP_BIAS] = "up bias", [WEIGHTS_O] = "attention output",
	[WEIGHTS_O_BIAS] = "attention output bias", [WEIGHTS_DOWN] = "down", [WEIGHTS_DOWN_BIAS] = "down bias",
};

const char *weights_type_name(uint32_t type)
{
	return type < WEIGHTS_TYPES ? type_names[type] : NULL;
}

const char *weights_role_name(uint32_t role)
{
	return role < WEIGHTS_ROLES ? role_names[role] : NULL;
}

uint64_t weights_strip_bytes(uint32_t type, uint32_t cols)
{
	static const uint32_t dense[] = {[WEIGHTS_F32] = 4, [WEIGHTS_F16] = 2, [WEIGHTS_BF16] = 2};
	static const uint32_t block[WEIGHTS_TYPES] = {[WEIGHTS_Q8_0] = 32 + 512, [WEIGHTS_Q4_0] = 32 + 256,
		[WEIGHTS_Q4_1] = 64 + 256, [WEIGHTS_Q5_0] = 32 + 320, [WEIGHTS_Q5_1] = 64 + 320};
	if (type >= WEIGHTS_TYPES)
		return 0;
	if (type <= WEIGHTS_BF16)
		return (uint64_t)dense[type] * WEIGHTS_STRIP * cols;
	return cols % WEIGHTS_BLOCK ? 0 : (uint64_t)block[type] * (cols / WEIGHTS_BLOCK);
}

uint64_t weights_bytes(uint32_t type, uint32_t rows, uint32_t cols)
{
	uint64_t strips = ((uint64_t)rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP;
	return weights_strip_bytes(type, cols) * strips; /* rows, cols are below 2^24 in a checked image */
}

const struct weights_tensor *weights_find(const void *image, enum weights_role role, uint32_t layer)
{
	const struct weights_header *h = image;
	const struct weights_tensor *t = (const void *)((const uint8_t *)image + h->tensors_offset);
	for (uint32_t i = 0; i < h->n_tensors; i++)
		if (t[i].role == role && t[i].layer == layer)
			return &t[i];
	return NULL;
}

static int in_range(const char *what, uint64_t value, uint64_t low, uint64_t high, struct err *e)
{
	if (value >= low && value <= high)
		return 0;
	return err_set(e, -EINVAL, "%s is %llu, expected %llu to %llu", what, (unsigned long long)value,
		       (unsigned long long)low, (unsigned long long)high);
}

int weights_check_hparams(const struct weights_hparams *hp, struct err *e)
{
	const struct { const char *name; uint64_t value, low, high; } bounds[] = {
		{"family", hp->family, WEIGHTS_FALCON, WEIGHTS_LLAMA}, {"n_layer", hp->n_layer, 1, 1024},
		{"n_embd", hp->n_embd, 1, 1 << 20}, {"n_head", hp->n_head, 1, 4096},
		{"n_kv_head", hp->n_kv_head, 1, hp->n_head}, {"head_dim", hp->head_dim, 2, 1024},
		{"n_ff", hp->n_ff, 1, 1 << 22}, {"n_vocab", hp->n_vocab, 1, 1 << 24},
		{"n_context", hp->n_context, 1, 1 << 24}, {"n_norm", hp->n_norm, 1, 2},
		{"flags", hp->flags, 0, WEIGHTS_ALIBI | WEIGHTS_BIAS},
	};
	for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
		int r = in_range(bounds[i].name, bounds[i].value, bounds[i].low, bounds[i].high, e);
		if (r < 0)
			return r;
	}
	if (hp->n_head % hp->n_kv_head)
		return err_set(e, -EINVAL, "%u query heads are no multiple of %u key/value heads", hp->n_head,
			       hp->n_kv_head);
	if (hp->head_dim % 2)
		return err_set(e, -EINVAL, "head_dim %u is odd", hp->head_dim);
	if (!(hp->norm_eps > 0 && hp->norm_eps < 1))
		return err_set(e, -EINVAL, "norm_eps %g is not between 0 and 1", (double)hp->norm_eps);
	return 0;
}

struct weights_shape weights_shape(const struct weights_hparams *hp, enum weights_role role)
{
	uint32_t q = hp->n_head * hp->head_dim, kv = hp->n_kv_head * hp->head_dim;
	bool falcon = hp->family != WEIGHTS_LLAMA, bias = hp->flags & WEIGHTS_BIAS, alibi = hp->flags & WEIGHTS_ALIBI;
	bool two = hp->family != WEIGHTS_FALCON || hp->n_norm == 2;
	struct weights_shape none = {0};
#define VECTOR(n, present) ((present) ? (struct weights_shape){1, (n), 1, 0, 0} : none)
#define MATRIX(r, c) (struct weights_shape){(r), (c), 0, 0, 0}
	switch (role) {
	case WEIGHTS_EMBED: return (struct weights_shape){hp->n_vocab, hp->n_embd, 0, 0, 1};
	case WEIGHTS_HEAD: return (struct weights_shape){hp->n_vocab, hp->n_embd, 0, 1, 1};
	case WEIGHTS_OUT_NORM: return (struct weights_shape){1, hp->n_embd, 1, 0, 1};
	case WEIGHTS_OUT_NORM_BIAS: return falcon ? (struct weights_shape){1, hp->n_embd, 1, 0, 1} : none;
	case WEIGHTS_ROPE: return alibi ? none : (struct weights_shape){hp->n_context, hp->head_dim, 1, 0, 1};
	case WEIGHTS_SLOPES: return alibi ? (struct weights_shape){1, hp->n_head, 1, 0, 1} : none;
	case WEIGHTS_NORM: return VECTOR(hp->n_embd, true);
	case WEIGHTS_NORM_BIAS: return VECTOR(hp->n_embd, falcon);
	case WEIGHTS_MLP_NORM: return VECTOR(hp->n_embd, two);
	case WEIGHTS_MLP_NORM_BIAS: return VECTOR(hp->n_embd, two && falcon);
	case WEIGHTS_Q: return MATRIX(q, hp->n_embd);
	case WEIGHTS_Q_BIAS: return VECTOR(q, bias);
	case WEIGHTS_K: case WEIGHTS_V: return MATRIX(kv, hp->n_embd);
	case WEIGHTS_K_BIAS: case WEIGHTS_V_BIAS: return VECTOR(kv, bias);
	case WEIGHTS_GATE: return falcon ? none : MATRIX(hp->n_ff, hp->n_embd);
	case WEIGHTS_UP: return MATRIX(hp->n_ff, hp->n_embd);
	case WEIGHTS_UP_BIAS: return VECTOR(hp->n_ff, bias);
	case WEIGHTS_O: return MATRIX(hp->n_embd, q);
	case WEIGHTS_DOWN: return MATRIX(hp->n_embd, hp->n_ff);
	case WEIGHTS_O_BIAS: case WEIGHTS_DOWN_BIAS: return VECTOR(hp->n_embd, bias);
	case WEIGHTS_ROLES: break;
	}
	return none;
#undef VECTOR
#undef MATRIX
}

static int check_tensor(const struct weights_header *h, const struct weights_tensor *t, struct err *e)
{
	const char *name = weights_role_name(t->role);
	if (name == NULL)
		return err_set(e, -EINVAL, "weights image: tensor of unknown role %u", t->role);
	struct weights_shape s = weights_shape(&h->hparams, t->role);
	uint32_t layers = s.once ? 1 : h->hparams.n_layer;
	if (s.rows == 0 || t->layer >= layers)
		return err_set(e, -EINVAL, "weights image: %s of layer %u does not belong here", name, t->layer);
	if (t->rows != s.rows || t->cols != s.cols || t->plain != s.plain)
		return err_set(e, -EINVAL, "weights image: %s of layer %u is %u x %u, expected %u x %u", name, t->layer, t->rows,
			       t->cols, s.rows, s.cols);
	uint64_t bytes = t->plain ? (uint64_t)t->rows * t->cols * 4 : weights_bytes(t->type, t->rows, t->cols);
	if (bytes == 0 || (t->plain && t->type != WEIGHTS_F32) || bytes != t->size)
		return err_set(e, -EINVAL, "weights image: %s of layer %u has type %u and %llu bytes", name, t->layer, t->type,
			       (unsigned long long)t->size);
	if (t->offset % WEIGHTS_ALIGN || t->offset > h->size || t->size > h->size - t->offset)
		return err_set(e, -EINVAL, "weights image: %s of layer %u lies outside the image", name, t->layer);
	return 0;
}

/* Every tensor that the family needs is there, once. The table's order is free, so count what is seen. */
static int check_tensors(const struct weights_header *h, struct err *e)
{
	const struct weights_tensor *t = (const void *)((const uint8_t *)(const void *)h + h->tensors_offset);
	uint32_t needed = 0, optional = 0;
	for (uint32_t i = 0; i < h->n_tensors; i++) {
		int r = check_tensor(h, &t[i], e);
		if (r < 0)
			return r;
		/* Sorted by (layer, role), strictly: that makes "once" a comparison with the neighbour. */
		if (i > 0 && !(t[i - 1].layer < t[i].layer || (t[i - 1].layer == t[i].layer && t[i - 1].role < t[i].role)))
			return err_set(e, -EINVAL, "weights image: %s of layer %u is there twice or out of order",
				       role_names[t[i].role], t[i].layer);
		optional += (uint32_t)weights_shape(&h->hparams, t[i].role).optional;
	}
	for (int role = 1; role < WEIGHTS_ROLES; role++) {
		struct weights_shape s = weights_shape(&h->hparams, (enum weights_role)role);
		if (s.rows && !s.optional)
			needed += s.once ? 1 : h->hparams.n_layer;
	}
	if (h->n_tensors - optional != needed)
		return err_set(e, -EINVAL, "weights image: %u tensors, expected %u", h->n_tensors - optional, needed);
	return 0;
}

static int check_tokenizer(const struct weights_header *h, struct err *e)
{
	if (h->tokenizer_size < sizeof(struct weights_tokenizer))
		return err_set(e, -EINVAL, "weights image: the tokenizer tables are cut short");
	const uint8_t *base = (const uint8_t *)(const void *)h + h->tokenizer_offset;
	const struct weights_tokenizer *t = (const void *)base;
	if (t->pre == WEIGHTS_PRE_NONE)
		return 0;
	if (t->pre >= WEIGHTS_PRES || t->n_tokens > h->hparams.n_vocab || t->n_eos > 8 || t->bos >= (int32_t)t->n_tokens)
		return err_set(e, -EINVAL, "weights image: the tokenizer's header is out of range");
	for (uint32_t i = 0; i < t->n_eos; i++)
		if (t->eos[i] < 0 || (uint32_t)t->eos[i] >= t->n_tokens)
			return err_set(e, -EINVAL, "weights image: end-of-text token %d is out of range", t->eos[i]);
	uint64_t kinds = ((uint64_t)t->n_tokens + 3) / 4 * 4;
	uint64_t size = sizeof *t + 4 * ((uint64_t)t->n_tokens + 1) + kinds + 12 * (uint64_t)t->n_merges + t->n_bytes;
	if (size != h->tokenizer_size)
		return err_set(e, -EINVAL, "weights image: the tokenizer tables have %llu bytes, expected %llu",
			       (unsigned long long)h->tokenizer_size, (unsigned long long)size);
	const uint32_t *start = (const void *)(base + sizeof *t);
	for (uint32_t i = 0; i < t->n_tokens; i++)
		if (start[i] > start[i + 1] || start[i + 1] - start[i] > 65536)
			return err_set(e, -EINVAL, "weights image: the text of token %u is out of bounds", i);
	if (start[0] != 0 || start[t->n_tokens] != t->n_bytes)
		return err_set(e, -EINVAL, "weights image: the tokens' text does not fill its table");
	const struct weights_merge *m = (const void *)(base + sizeof *t + 4 * ((size_t)t->n_tokens + 1) + kinds);
	for (uint32_t i = 0; i < t->n_merges; i++) {
		uint32_t n = t->n_tokens;
		if ((uint32_t)m[i].left >= n || (uint32_t)m[i].right >= n || (uint32_t)m[i].result >= n)
			return err_set(e, -EINVAL, "weights image: merge %u names a token that is not there", i);
	}
	return 0;
}

static bool inside(uint64_t offset, uint64_t size, uint64_t align, uint64_t whole)
{
	return offset % align == 0 && offset >= WEIGHTS_HEADER_SIZE && offset <= whole && size <= whole - offset;
}

/* ASCII as the packer writes it: it goes to clients, whose JSON takes no other bytes. */
static bool is_name(const char *name, size_t size)
{
	size_t n = strnlen(name, size);
	for (size_t i = 0; i < n; i++)
		if (name[i] < 0x20 || name[i] > 0x7e)
			return false;
	return n < size;
}

int weights_check(const void *image, uint64_t size, struct err *e)
{
	const struct weights_header *h = image;
	if (size < WEIGHTS_HEADER_SIZE || h->magic != WEIGHTS_MAGIC)
		return err_set(e, -EINVAL, "not a weights image");
	if (h->abi != WEIGHTS_ABI || h->features != 0)
		return err_set(e, -EINVAL, "weights image: layout %u, features %#x, this build reads layout %u", h->abi,
			       h->features, WEIGHTS_ABI);
	if (h->complete != 1)
		return err_set(e, -EINVAL, "weights image: packing did not finish");
	if (h->size != size || size % WEIGHTS_ALIGN)
		return err_set(e, -EINVAL, "weights image: %llu bytes, its header says %llu", (unsigned long long)size,
			       (unsigned long long)h->size);
	if (!is_name(h->name, sizeof h->name))
		return err_set(e, -EINVAL, "weights image: the model's name is not printable, or has no end");
	int r = weights_check_hparams(&h->hparams, e);
	if (r < 0) {
		err_prefix(e, "weights image");
		return r;
	}
	if (!inside(h->tensors_offset, (uint64_t)h->n_tensors * sizeof(struct weights_tensor), 8, size) ||
	    !inside(h->tokenizer_offset, h->tokenizer_size, 8, size) || !inside(h->template_offset, h->template_size, 1, size))
		return err_set(e, -EINVAL, "weights image: a table lies outside the image");
	if ((r = check_tensors(h, e)) < 0)
		return r;
	return check_tokenizer(h, e);
}
