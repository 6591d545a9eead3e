/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GGUF files to images. Tiny models of both architectures are written here; what arrives in the image is compared element
 * by element, through the formulas of the two layouts, which this file states on its own.
 */
#include "tests/unit/pack_util.h"

#include <errno.h>
#include <fcntl.h>

#include "base/f16.h"
#include "base/hash.h"
#include "pack/checkpoint.h"
#include "pack/plan.h"
#include "tests/support/tree.h"
#include "tests/unit/gguf_writer.h"

enum { EMBD = 64, HEADS = 4, KV = 2, DIM = 16, FF = 96, VOCAB = 40, Q_ROWS = HEADS * DIM, KV_ROWS = KV * DIM };

/* ggml's numbers, and bytes of 32 columns of a row. */
static const struct { uint32_t ggml, ours, bytes; } types[] = {
	{0, WEIGHTS_F32, 128}, {1, WEIGHTS_F16, 64}, {30, WEIGHTS_BF16, 64}, {8, WEIGHTS_Q8_0, 34}, {2, WEIGHTS_Q4_0, 18},
	{3, WEIGHTS_Q4_1, 20}, {6, WEIGHTS_Q5_0, 22}, {7, WEIGHTS_Q5_1, 24},
};
enum { N_TYPES = sizeof types / sizeof types[0], T_F32 = 0, T_Q4_0 = 4 };

static uint32_t random_bits(void)
{
	static uint32_t x = 12345;
	x = x * 1664525u + 1013904223u;
	return x >> 8;
}

/* Random bytes, but finite scales: their exponents are set. The caller frees. */
static uint8_t *random_rows(uint32_t t, uint32_t rows, uint32_t cols, size_t *ret_size)
{
	size_t size = (size_t)rows * cols / 32 * types[t].bytes;
	uint8_t *data = xmalloc(size);
	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)random_bits();
	size_t step = types[t].ours == WEIGHTS_F32 ? 4 : types[t].ours <= WEIGHTS_BF16 ? 2 : types[t].bytes;
	for (size_t i = 0; i < size; i += step) {
		size_t high = i + (types[t].ours == WEIGHTS_F32 ? 3 : 1); /* sign and exponent */
		data[high] = (uint8_t)((data[high] & 0x83) | 0x2c);
		if (types[t].ours == WEIGHTS_Q4_1 || types[t].ours == WEIGHTS_Q5_1)
			data[high + 2] = (uint8_t)((data[high + 2] & 0x83) | 0x2c);
	}
	*ret_size = size;
	return data;
}

static float f16_at(const uint8_t *p)
{
	return f32_from_f16((uint16_t)(p[0] | p[1] << 8));
}

/* Element (row, col) of a tensor as GGUF stores it. */
static float source_value(uint32_t type, const uint8_t *data, uint32_t cols, uint32_t row, uint32_t col)
{
	float f;
	uint32_t bytes = 0, j = col % 32, bit;
	for (uint32_t i = 0; i < N_TYPES; i++)
		bytes = types[i].ours == type ? types[i].bytes : bytes;
	const uint8_t *b = data + ((size_t)row * cols + col) / 32 * bytes;
	switch (type) {
	case WEIGHTS_F32:
		memcpy(&f, b + 4 * j, 4);
		return f;
	case WEIGHTS_F16:
		return f16_at(b + 2 * j);
	case WEIGHTS_BF16:
		return f32_from_bf16((uint16_t)(b[2 * j] | b[2 * j + 1] << 8));
	case WEIGHTS_Q8_0:
		return f16_at(b) * (float)(int8_t)b[2 + j];
	case WEIGHTS_Q4_0:
		return f16_at(b) * (float)((b[2 + j % 16] >> (j / 16 * 4) & 15) - 8);
	case WEIGHTS_Q4_1:
		return f16_at(b) * (float)(b[4 + j % 16] >> (j / 16 * 4) & 15) + f16_at(b + 2);
	case WEIGHTS_Q5_0:
		bit = b[2 + j / 8] >> (j % 8) & 1;
		return f16_at(b) * (float)((int)((b[6 + j % 16] >> (j / 16 * 4) & 15) | bit << 4) - 16);
	default:
		bit = b[4 + j / 8] >> (j % 8) & 1;
		return f16_at(b) * (float)((b[8 + j % 16] >> (j / 16 * 4) & 15) | bit << 4) + f16_at(b + 2);
	}
}

/* Element (row, col) of a matrix of the image, by the page at the head of shm/weights.h. */
static float image_value(const void *image, const struct weights_tensor *t, uint32_t row, uint32_t col)
{
	const uint8_t *strip = (const uint8_t *)image + t->offset + row / 16 * weights_strip_bytes(t->type, t->cols);
	uint32_t r = row % 16, j = col % 32, low = j % 16; /* nibbles: columns 0..15 low, 16..31 high */
	uint64_t block = weights_strip_bytes(t->type, 32) * (col / 32);
	const uint8_t *b = strip + block, *codes = b + (t->type == WEIGHTS_Q4_1 || t->type == WEIGHTS_Q5_1 ? 64 : 32);
	float f, d = f16_at(b + 2 * r), m = f16_at(b + 32 + 2 * r);
	int code = codes[low / 4 * 64 + r * 4 + low % 4] >> (j / 16 * 4) & 15;
	int high = codes[256 + r * 4 + j % 4] >> (j / 4) & 1;
	switch (t->type) {
	case WEIGHTS_F32:
		memcpy(&f, strip + 4 * (col * 16 + r), 4);
		return f;
	case WEIGHTS_F16:
		return f16_at(strip + 2 * (col * 16 + r));
	case WEIGHTS_BF16:
		return f32_from_bf16((uint16_t)(strip[2 * (col * 16 + r)] | strip[2 * (col * 16 + r) + 1] << 8));
	case WEIGHTS_Q8_0:
		return d * (float)(int8_t)codes[j / 4 * 64 + r * 4 + j % 4];
	case WEIGHTS_Q4_0:
		return d * (float)(code - 8);
	case WEIGHTS_Q4_1:
		return d * (float)code + m;
	case WEIGHTS_Q5_0:
		return d * (float)((code | high << 4) - 16);
	default:
		return d * (float)(code | high << 4) + m;
	}
}

/* One block of a model; matrices of type t. What differs between tests is in `change`. */
struct model {
	struct gguf_writer w;
	uint8_t *matrix[16];
	const char *name[16];
	uint32_t n;
};

static void add_matrix(struct model *m, const char *name, uint32_t t, uint32_t rows, uint32_t cols)
{
	size_t size;
	m->matrix[m->n] = random_rows(t, rows, cols, &size);
	m->name[m->n] = name;
	gguf_put_tensor(&m->w, name, types[t].ggml, rows, cols, m->matrix[m->n++], size);
}

static void add_vector(struct model *m, const char *name, float first)
{
	float v[EMBD];
	for (int i = 0; i < EMBD; i++)
		v[i] = first + (float)i;
	gguf_put_tensor(&m->w, name, 0, 0, EMBD, v, sizeof v);
}

static void add_numbers(struct model *m, const char *arch)
{
	static const struct { const char *key; uint32_t value;
	} numbers[] = {{"block_count", 1},     {"embedding_length", EMBD},      {"feed_forward_length", FF},
		       {"context_length", 32}, {"attention.head_count", HEADS}, {"attention.head_count_kv", KV}};
	char key[64];
	gguf_put_string(&m->w, "general.architecture", arch);
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		snprintf(key, sizeof key, "%s.%s", arch, numbers[i].key);
		gguf_put_u32(&m->w, key, numbers[i].value);
	}
	snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", arch, strcmp(arch, "llama") == 0 ? "rms_" : "");
	gguf_put_f32(&m->w, key, 1e-5f);
}

static void falcon_model(struct model *m, uint32_t t)
{
	*m = (struct model){0};
	add_numbers(m, "falcon");
	add_matrix(m, "token_embd.weight", t, VOCAB, EMBD);
	add_vector(m, "output_norm.weight", 100);
	add_vector(m, "output_norm.bias", 200);
	add_vector(m, "blk.0.attn_norm.weight", 300);
	add_vector(m, "blk.0.attn_norm.bias", 400);
	add_vector(m, "blk.0.attn_norm_2.weight", 500);
	add_vector(m, "blk.0.attn_norm_2.bias", 600);
	add_matrix(m, "blk.0.attn_qkv.weight", t, Q_ROWS + 2 * KV_ROWS, EMBD);
	add_matrix(m, "blk.0.attn_output.weight", t, EMBD, Q_ROWS);
	add_matrix(m, "blk.0.ffn_up.weight", t, FF, EMBD);
	add_matrix(m, "blk.0.ffn_down.weight", t, EMBD, FF);
}

static void llama_model(struct model *m, uint32_t t)
{
	*m = (struct model){0};
	add_numbers(m, "llama");
	add_matrix(m, "token_embd.weight", t, VOCAB, EMBD);
	add_matrix(m, "output.weight", t, VOCAB, EMBD);
	add_vector(m, "output_norm.weight", 100);
	add_vector(m, "blk.0.attn_norm.weight", 300);
	add_vector(m, "blk.0.ffn_norm.weight", 400);
	add_matrix(m, "blk.0.attn_q.weight", t, Q_ROWS, EMBD);
	add_matrix(m, "blk.0.attn_k.weight", t, KV_ROWS, EMBD);
	add_matrix(m, "blk.0.attn_v.weight", t, KV_ROWS, EMBD);
	add_matrix(m, "blk.0.attn_output.weight", t, EMBD, Q_ROWS);
	add_matrix(m, "blk.0.ffn_gate.weight", t, FF, EMBD);
	add_matrix(m, "blk.0.ffn_up.weight", t, FF, EMBD);
	add_matrix(m, "blk.0.ffn_down.weight", t, EMBD, FF);
}

static void model_done(struct model *m)
{
	for (uint32_t i = 0; i < m->n; i++)
		free(m->matrix[i]);
	gguf_writer_done(&m->w);
}

static struct packed pack_model(struct model *m)
{
	char folder[64], path[80];
	tree_make(folder, sizeof folder);
	snprintf(path, sizeof path, "%s/model.gguf", folder);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	gguf_finish(&m->w, 3);
	assert_int_equal(write(fd, m->w.file.data, m->w.file.length), m->w.file.length);
	close(fd);
	struct packed p = pack_path(path);
	tree_remove(folder);
	assert_string_equal(strstr(p.status, "error") ? p.status : "", "");
	struct err e = {0};
	if (weights_check(p.image, p.size, &e) < 0)
		fail_msg("%s", e.what);
	return p;
}

/* Every element of the role equals the element of the source row that row_of() says. */
static void compare(const struct packed *p, const struct model *m, enum weights_role role, const char *name,
		    uint32_t (*row_of)(uint32_t))
{
	const struct weights_tensor *t = weights_find(p->image, role, 0);
	uint32_t k = 0;
	while (strcmp(m->name[k], name) != 0)
		assert_true(++k < m->n);
	for (uint32_t r = 0; r < t->rows; r++)
		for (uint32_t c = 0; c < t->cols; c++)
			assert_int_equal(f32_bits(image_value(p->image, t, r, c)),
					 f32_bits(source_value(t->type, m->matrix[k], t->cols, row_of(r), c)));
	assert_int_equal(t->checksum, hash64((const uint8_t *)p->image + t->offset, t->size));
}

static uint32_t same(uint32_t r) { return r; }
static uint32_t after_queries(uint32_t r) { return Q_ROWS + r; }
static uint32_t after_keys(uint32_t r) { return Q_ROWS + KV_ROWS + r; }
/* Rotary partners i and i + DIM/2 of a head stand at 2i and 2i + 1 in a llama file. */
static uint32_t side_by_side(uint32_t r) { return r / DIM * DIM + r % DIM % (DIM / 2) * 2 + r % DIM / (DIM / 2); }

static void every_element_of_every_type_lands_where_the_layout_says(void **state)
{
	(void)state;
	for (uint32_t t = 0; t < N_TYPES; t++) {
		struct model m;
		falcon_model(&m, t);
		struct packed p = pack_model(&m);
		assert_int_equal(weights_find(p.image, WEIGHTS_UP, 0)->type, types[t].ours);
		compare(&p, &m, WEIGHTS_EMBED, "token_embd.weight", same);
		compare(&p, &m, WEIGHTS_Q, "blk.0.attn_qkv.weight", same);
		compare(&p, &m, WEIGHTS_K, "blk.0.attn_qkv.weight", after_queries);
		compare(&p, &m, WEIGHTS_V, "blk.0.attn_qkv.weight", after_keys);
		compare(&p, &m, WEIGHTS_O, "blk.0.attn_output.weight", same);
		compare(&p, &m, WEIGHTS_UP, "blk.0.ffn_up.weight", same);
		compare(&p, &m, WEIGHTS_DOWN, "blk.0.ffn_down.weight", same);
		packed_done(&p);
		model_done(&m);
	}
}

static void padding_rows_are_zero(void **state)
{
	(void)state;
	struct model m;
	falcon_model(&m, T_Q4_0);
	struct packed p = pack_model(&m);
	const struct weights_tensor *t = weights_find(p.image, WEIGHTS_EMBED, 0);
	struct weights_tensor padded = *t;
	padded.rows = (VOCAB + 15) / 16 * 16;
	for (uint32_t r = VOCAB; r < padded.rows; r++)
		for (uint32_t c = 0; c < EMBD; c++)
			assert_true(image_value(p.image, &padded, r, c) == 0.0f);
	packed_done(&p);
	model_done(&m);
}

static void llama_queries_and_keys_come_back_to_neox_order(void **state)
{
	(void)state;
	struct model m;
	llama_model(&m, T_F32);
	struct packed p = pack_model(&m);
	assert_int_equal(((const struct weights_header *)p.image)->hparams.family, WEIGHTS_LLAMA);
	compare(&p, &m, WEIGHTS_Q, "blk.0.attn_q.weight", side_by_side);
	compare(&p, &m, WEIGHTS_K, "blk.0.attn_k.weight", side_by_side);
	compare(&p, &m, WEIGHTS_V, "blk.0.attn_v.weight", same);
	compare(&p, &m, WEIGHTS_GATE, "blk.0.ffn_gate.weight", same);
	compare(&p, &m, WEIGHTS_HEAD, "output.weight", same);
	packed_done(&p);
	model_done(&m);
}

static float first_of(const struct packed *p, enum weights_role role)
{
	const struct weights_tensor *t = weights_find(p->image, role, 0);
	assert_non_null(t);
	return ((const float *)(const void *)((const uint8_t *)p->image + t->offset))[0];
}

static void attn_norm_2_is_the_norm_of_attention_and_attn_norm_that_of_the_mlp(void **state)
{
	(void)state;
	struct model m;
	falcon_model(&m, T_F32);
	struct packed p = pack_model(&m);
	assert_int_equal(((const struct weights_header *)p.image)->hparams.n_norm, 2);
	assert_true(first_of(&p, WEIGHTS_NORM) == 500 && first_of(&p, WEIGHTS_NORM_BIAS) == 600);
	assert_true(first_of(&p, WEIGHTS_MLP_NORM) == 300 && first_of(&p, WEIGHTS_MLP_NORM_BIAS) == 400);
	assert_true(first_of(&p, WEIGHTS_OUT_NORM) == 100 && first_of(&p, WEIGHTS_OUT_NORM_BIAS) == 200);
	packed_done(&p);
	model_done(&m);
}

static void tensors_stand_in_the_order_in_which_they_are_read(void **state)
{
	(void)state;
	static const enum weights_role order[] = {WEIGHTS_NORM, WEIGHTS_MLP_NORM, WEIGHTS_Q, WEIGHTS_K, WEIGHTS_V, WEIGHTS_GATE,
		WEIGHTS_UP, WEIGHTS_O, WEIGHTS_DOWN, WEIGHTS_OUT_NORM, WEIGHTS_HEAD, WEIGHTS_EMBED, WEIGHTS_ROPE};
	struct model m;
	llama_model(&m, T_F32);
	struct packed p = pack_model(&m);
	for (size_t i = 1; i < sizeof order / sizeof order[0]; i++)
		assert_true(weights_find(p.image, order[i - 1], 0)->offset < weights_find(p.image, order[i], 0)->offset);
	packed_done(&p);
	model_done(&m);
}

/* Parses and plans in this process, from memory of exactly this size. */
static int attempt(const void *data, size_t size, struct err *e)
{
	struct checkpoint c = {0};
	struct plan p = {0};
	uint8_t *copy = xmalloc(size);
	memcpy(copy, data, size);
	int r = gguf_checkpoint(copy, size, "tiny.gguf", &c, e);
	if (r == 0)
		r = plan_make(&c, &p, e);
	plan_done(&p);
	checkpoint_done(&c);
	free(copy);
	return r;
}

static void a_file_cut_short_anywhere_is_refused(void **state)
{
	(void)state;
	struct model m;
	llama_model(&m, T_Q4_0);
	gguf_finish(&m.w, 2);
	struct err e = {0};
	assert_int_equal(attempt(m.w.file.data, m.w.file.length, &e), 0);
	size_t head = m.w.file.length - m.w.data.length;
	for (size_t n = 0; n < m.w.file.length; n += n < head ? 1 : 997) {
		e = (struct err){0};
		assert_int_equal(attempt(m.w.file.data, n, &e), -EINVAL);
		assert_true(e.what[0] != '\0');
	}
	model_done(&m);
}

static void a_damaged_byte_never_crashes_the_parser(void **state)
{
	(void)state;
	struct model m;
	falcon_model(&m, T_Q4_0);
	gguf_finish(&m.w, 3);
	size_t head = m.w.file.length - m.w.data.length, refused = 0;
	for (size_t i = 0; i < head; i++) {
		char old = m.w.file.data[i];
		static const char flips[] = {1, 0x40, (char)0x80, (char)0xff};
		for (size_t k = 0; k < sizeof flips; k++) {
			struct err e = {0};
			m.w.file.data[i] = (char)(old ^ flips[k]);
			int r = attempt(m.w.file.data, m.w.file.length, &e);
			assert_true(r == 0 || (r < 0 && e.what[0] != '\0'));
			refused += r < 0;
		}
		m.w.file.data[i] = old;
	}
	assert_true(refused > 2 * head);
	model_done(&m);
}

static void expect_refusal(struct model *m, const char *what, const char *hint)
{
	struct err e = {0};
	gguf_finish(&m->w, 3);
	assert_true(attempt(m->w.file.data, m->w.file.length, &e) < 0);
	if (strstr(e.what, what) == NULL || strstr(e.hint, hint) == NULL)
		fail_msg("'%s' (%s), expected '%s' (%s)", e.what, e.hint, what, hint);
	model_done(m);
}

static void tensor_types_that_are_not_read_are_refused_by_name(void **state)
{
	(void)state;
	static const struct {
		uint32_t number;
		const char *name;
	} others[] = {{12, "Q4_K"}, {13, "Q5_K"}, {14, "Q6_K"}, {10, "Q2_K"}, {20, "IQ4_NL"}, {24, "I8"}, {77, "number 77"}};
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		struct model m;
		falcon_model(&m, T_F32);
		gguf_put_tensor(&m.w, "blk.1.ffn_up.weight", others[i].number, 256, 256, "", 0);
		expect_refusal(&m, others[i].name, "llama-quantize");
	}
}

static void wrong_missing_doubled_and_foreign_tensors_are_named(void **state)
{
	(void)state;
	struct model m;
	float v[EMBD] = {0};
	m = (struct model){0};
	add_numbers(&m, "falcon");
	add_matrix(&m, "token_embd.weight", T_F32, VOCAB, EMBD);
	expect_refusal(&m, "tensor output_norm.weight is missing", "");
	falcon_model(&m, T_F32);
	add_matrix(&m, "output.weight", T_F32, VOCAB + 1, EMBD);
	expect_refusal(&m, "tensor output.weight is 41 x 64, expected 40 x 64", "");
	falcon_model(&m, T_F32);
	add_vector(&m, "output_norm.bias", 0);
	expect_refusal(&m, "tensor output_norm.bias is there twice", "");
	falcon_model(&m, T_F32);
	gguf_put_tensor(&m.w, "blk.0.attn_q_norm.weight", 0, 0, EMBD, v, sizeof v);
	expect_refusal(&m, "tensor blk.0.attn_q_norm.weight does not belong", "ignored");
	llama_model(&m, T_F32);
	gguf_put_tensor(&m.w, "rope_freqs.weight", 0, 0, DIM / 2, v, DIM / 2 * 4);
	expect_refusal(&m, "rope_freqs.weight", "scaled rotary");
	falcon_model(&m, T_F32);
	gguf_put_tensor(&m.w, "output.weight", 0, (uint64_t)1 << 40, (uint64_t)1 << 30, "", 0);
	expect_refusal(&m, "tensor output.weight: its dimensions are zero or overflow", "");
	falcon_model(&m, T_F32);
	gguf_put_tensor(&m.w, "output.weight", 0, 1 << 20, EMBD, "", 0);
	expect_refusal(&m, "tensor output.weight (268435456 bytes", "incomplete");
}

static void models_that_we_would_compute_differently_are_refused(void **state)
{
	(void)state;
	struct model m;
	falcon_model(&m, T_F32);
	gguf_put_u32(&m.w, "falcon.rope.dimension_count", DIM / 2);
	expect_refusal(&m, "rotary over a part of the head", "");
	llama_model(&m, T_F32);
	gguf_put_string(&m.w, "llama.rope.scaling.type", "yarn");
	expect_refusal(&m, "rotary scaling 'yarn'", "");
	llama_model(&m, T_F32);
	gguf_put_u32(&m.w, "llama.expert_count", 8);
	expect_refusal(&m, "mixtures of experts", "");
	falcon_model(&m, T_F32);
	gguf_put_u32(&m.w, "falcon.block_count", 1);
	expect_refusal(&m, "falcon.block_count is there twice", "");
	falcon_model(&m, T_F32);
	gguf_put_u32(&m.w, "general.alignment", 24);
	expect_refusal(&m, "general.alignment is 24", "");
	m = (struct model){0};
	gguf_put_string(&m.w, "general.architecture", "gpt2");
	expect_refusal(&m, "architecture 'gpt2'", "falcon and llama");
}

static void a_tokenizer_that_does_not_fit_is_refused(void **state)
{
	(void)state;
	static const char *const tokens[] = {"a", "b", "ab", "a"}, *const merges[] = {"a b", "a c", "ab"};
	static const struct { const char *model, *pre, *what; uint64_t n_tokens, n_merges, first_merge; } cases[] = {
		{"llama", "falcon", "of kind 'llama'", 3, 1, 0}, {"gpt2", "qwen2", "'qwen2'", 3, 1, 0},
		{"gpt2", "falcon", "same text 'a'", 4, 1, 0}, {"gpt2", "falcon", "merge 1, 'a' with 'c'", 3, 2, 0},
		{"gpt2", "falcon", "not two tokens", 3, 1, 2},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct model m;
		falcon_model(&m, T_F32);
		gguf_put_string(&m.w, "tokenizer.ggml.model", cases[i].model);
		gguf_put_string(&m.w, "tokenizer.ggml.pre", cases[i].pre);
		gguf_put_strings(&m.w, "tokenizer.ggml.tokens", tokens, cases[i].n_tokens);
		gguf_put_strings(&m.w, "tokenizer.ggml.merges", merges + cases[i].first_merge, cases[i].n_merges);
		expect_refusal(&m, cases[i].what, "");
	}
	const char *many[VOCAB + 1];
	char text[VOCAB + 1][4];
	for (int i = 0; i <= VOCAB; i++) {
		snprintf(text[i], sizeof text[i], "%d", i);
		many[i] = text[i];
	}
	struct model m;
	falcon_model(&m, T_F32);
	gguf_put_string(&m.w, "tokenizer.ggml.model", "gpt2");
	gguf_put_string(&m.w, "tokenizer.ggml.pre", "falcon");
	gguf_put_strings(&m.w, "tokenizer.ggml.tokens", many, VOCAB + 1);
	gguf_put_strings(&m.w, "tokenizer.ggml.merges", merges, 0);
	expect_refusal(&m, "the tokenizer has 41 tokens, the embedding 40 rows", "another model");
}

static void the_bundled_model_becomes_an_image_that_is_accepted(void **state)
{
	(void)state;
	struct packed p = pack_path(source_path("models/falcon-tales.Q8_0.gguf"));
	struct err e = {0};
	assert_string_equal(strstr(p.status, "error") ? p.status : "", "");
	assert_int_equal(p.exit_status, 0);
	assert_int_equal(weights_check(p.image, p.size, &e), 0);
	const struct weights_header *h = p.image;
	assert_string_equal(h->name, "falcon-tales");
	assert_memory_equal(h->set_id, "0123456789abcde", 16);
	assert_int_equal(h->hparams.n_layer, 6);
	assert_int_equal(h->hparams.n_kv_head, 1);
	assert_int_equal(weights_find(p.image, WEIGHTS_Q, 5)->type, WEIGHTS_Q8_0);
	assert_null(weights_find(p.image, WEIGHTS_HEAD, 0));
	assert_non_null(strstr(p.status, "progress 100\n"));
	struct weights_header *liar = malloc(p.size); /* an image that somebody else made */
	memcpy(liar, p.image, p.size);
	memcpy(liar->name, "\xff\xfe", 3);
	assert_int_equal(weights_check(liar, p.size, &e), -EINVAL);
	assert_non_null(strstr(e.what, "name"));
	memset(liar->name, 'x', sizeof liar->name);
	assert_int_equal(weights_check(liar, p.size, &e), -EINVAL);
	free(liar);
	packed_done(&p);
}

static void what_is_not_a_model_is_refused_on_the_status_pipe(void **state)
{
	(void)state;
	struct packed p = pack_path(source_path("README.md"));
	assert_int_equal(WEXITSTATUS(p.exit_status), 1);
	assert_non_null(strstr(p.status, "error README.md: not a GGUF file\ta model is"));
	p = pack_path("/nonexistent/model.gguf");
	assert_int_equal(WEXITSTATUS(p.exit_status), 1);
	assert_non_null(strstr(p.status, "error /nonexistent/model.gguf: No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_element_of_every_type_lands_where_the_layout_says),
		cmocka_unit_test(padding_rows_are_zero),
		cmocka_unit_test(llama_queries_and_keys_come_back_to_neox_order),
		cmocka_unit_test(attn_norm_2_is_the_norm_of_attention_and_attn_norm_that_of_the_mlp),
		cmocka_unit_test(tensors_stand_in_the_order_in_which_they_are_read),
		cmocka_unit_test(a_file_cut_short_anywhere_is_refused),
		cmocka_unit_test(a_damaged_byte_never_crashes_the_parser),
		cmocka_unit_test(tensor_types_that_are_not_read_are_refused_by_name),
		cmocka_unit_test(wrong_missing_doubled_and_foreign_tensors_are_named),
		cmocka_unit_test(models_that_we_would_compute_differently_are_refused),
		cmocka_unit_test(a_tokenizer_that_does_not_fit_is_refused),
		cmocka_unit_test(the_bundled_model_becomes_an_image_that_is_accepted),
		cmocka_unit_test(what_is_not_a_model_is_refused_on_the_status_pipe),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
