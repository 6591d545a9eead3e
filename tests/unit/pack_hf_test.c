/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hugging Face folders to images: what config.json means, where query_key_value's rows go, and every refusal. Tensors of the
 * golden checkpoints are compared with the image element by element.
 */
#include "tests/unit/pack_util.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#include "base/f16.h"
#include "base/mem.h"
#include "pack/checkpoint.h"
#include "pack/config_json.h"
#include "pack/safetensors.h"
#include "pack/tables.h"
#include "tests/support/tree.h"

static const char *const golden[] = {"falcon-7b", "falcon-40b", "falcon-11b", "falcon-rw-1b", "falcon3"};

static struct packed pack_golden(const char *name)
{
	char path[256];
	struct err e = {0};
	snprintf(path, sizeof path, "tests/golden/%s", name);
	struct packed p = pack_path(source_path(path));
	assert_string_equal(strstr(p.status, "error") ? p.status : "", "");
	assert_int_equal(p.exit_status, 0);
	assert_int_equal(weights_check(p.image, p.size, &e), 0);
	assert_string_equal(((const struct weights_header *)p.image)->name, name);
	return p;
}

/* The tensors of a golden checkpoint, all bfloat16. */
struct safetensors { char *data; json_t *header; const uint8_t *tensors; };

static struct safetensors open_golden(const char *name)
{
	char path[256];
	struct stat st;
	uint64_t length;
	snprintf(path, sizeof path, "tests/golden/%s/model.safetensors", name);
	int fd = open(source_path(path), O_RDONLY);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	struct safetensors s = {.data = xmalloc((size_t)st.st_size)};
	assert_int_equal(read(fd, s.data, (size_t)st.st_size), st.st_size);
	close(fd);
	memcpy(&length, s.data, 8);
	s.header = json_loadb(s.data + 8, length, 0, NULL);
	s.tensors = (const uint8_t *)s.data + 8 + length;
	return s;
}

static void close_golden(struct safetensors *s)
{
	free(s->data);
	json_decref(s->header);
}

static uint16_t element(const struct safetensors *s, const char *name, uint32_t row, uint32_t cols, uint32_t col)
{
	const json_t *t = json_object_get(s->header, name);
	assert_non_null(t);
	const uint8_t *p = s->tensors + json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0)) +
			   2 * ((size_t)row * cols + col);
	return (uint16_t)(p[0] | p[1] << 8);
}

/* Image row r of a bfloat16 matrix is source row row_of(r). */
static void compare(const struct packed *p, const struct safetensors *s, enum weights_role role, uint32_t layer,
		    const char *name, uint32_t (*row_of)(uint32_t))
{
	const struct weights_tensor *t = weights_find(p->image, role, layer);
	const uint8_t *image = (const uint8_t *)p->image + t->offset;
	assert_int_equal(t->type, WEIGHTS_BF16);
	for (uint32_t r = 0; r < t->rows; r++) {
		for (uint32_t c = 0; c < t->cols; c++) {
			const uint8_t *v = image + 2 * ((size_t)r / 16 * 16 * t->cols + (size_t)c * 16 + r % 16);
			assert_int_equal(v[0] | v[1] << 8, element(s, name, row_of(r), t->cols, c));
		}
	}
}

static void compare_vector(const struct packed *p, const struct safetensors *s, enum weights_role role, uint32_t layer,
			   const char *name, uint32_t (*row_of)(uint32_t))
{
	const struct weights_tensor *t = weights_find(p->image, role, layer);
	const float *v = (const void *)((const uint8_t *)p->image + t->offset);
	for (uint32_t i = 0; i < t->cols; i++)
		assert_int_equal(f32_bits(v[i]), f32_bits(f32_from_bf16(element(s, name, row_of(i), 1, 0))));
}

static uint32_t same(uint32_t r) { return r; }
/* falcon-40b here: 6 query heads of 64, 2 groups of 3 queries, a key and a value. */
static uint32_t grouped_query(uint32_t r) { return r / 192 * 320 + r % 192; }
static uint32_t grouped_key(uint32_t r) { return r / 64 * 320 + 192 + r % 64; }
static uint32_t grouped_value(uint32_t r) { return r / 64 * 320 + 256 + r % 64; }
/* falcon-rw-1b here: 3 heads of a query, a key and a value each. */
static uint32_t own_query(uint32_t r) { return r / 64 * 192 + r % 64; }
static uint32_t own_key(uint32_t r) { return r / 64 * 192 + 64 + r % 64; }
static uint32_t own_value(uint32_t r) { return r / 64 * 192 + 128 + r % 64; }

static void every_golden_checkpoint_becomes_an_image_that_is_accepted(void **state)
{
	(void)state;
	static const struct {
		uint32_t family, kv, norms, flags, head;
	} expected[] = {{WEIGHTS_FALCON, 1, 1, 0, 0},
			{WEIGHTS_FALCON, 2, 2, 0, 0},
			{WEIGHTS_FALCON, 2, 1, 0, 1},
			{WEIGHTS_FALCON_RW, 3, 1, WEIGHTS_ALIBI | WEIGHTS_BIAS, 0},
			{WEIGHTS_LLAMA, 2, 1, 0, 1}};
	for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
		struct packed p = pack_golden(golden[i]);
		const struct weights_header *h = p.image;
		assert_int_equal(h->hparams.family, expected[i].family);
		assert_int_equal(h->hparams.n_kv_head, expected[i].kv);
		assert_int_equal(h->hparams.n_norm, expected[i].norms);
		assert_int_equal(h->hparams.flags, expected[i].flags);
		assert_int_equal(weights_find(p.image, WEIGHTS_HEAD, 0) != NULL, expected[i].head);
		packed_done(&p);
	}
}

static void grouped_heads_are_taken_apart(void **state)
{
	(void)state;
	struct packed p = pack_golden("falcon-40b");
	struct safetensors s = open_golden("falcon-40b");
	const char *name = "transformer.h.1.self_attention.query_key_value.weight";
	compare(&p, &s, WEIGHTS_Q, 1, name, grouped_query);
	compare(&p, &s, WEIGHTS_K, 1, name, grouped_key);
	compare(&p, &s, WEIGHTS_V, 1, name, grouped_value);
	compare(&p, &s, WEIGHTS_DOWN, 1, "transformer.h.1.mlp.dense_4h_to_h.weight", same);
	compare(&p, &s, WEIGHTS_EMBED, 0, "transformer.word_embeddings.weight", same);
	compare_vector(&p, &s, WEIGHTS_NORM, 1, "transformer.h.1.ln_attn.weight", same);
	compare_vector(&p, &s, WEIGHTS_MLP_NORM_BIAS, 1, "transformer.h.1.ln_mlp.bias", same);
	close_golden(&s);
	packed_done(&p);
}

static void heads_of_their_own_and_their_biases_are_taken_apart(void **state)
{
	(void)state;
	struct packed p = pack_golden("falcon-rw-1b");
	struct safetensors s = open_golden("falcon-rw-1b");
	const char *name = "transformer.h.2.self_attention.query_key_value.weight",
		   *bias = "transformer.h.2.self_attention.query_key_value.bias";
	compare(&p, &s, WEIGHTS_Q, 2, name, own_query);
	compare(&p, &s, WEIGHTS_K, 2, name, own_key);
	compare(&p, &s, WEIGHTS_V, 2, name, own_value);
	compare_vector(&p, &s, WEIGHTS_Q_BIAS, 2, bias, own_query);
	compare_vector(&p, &s, WEIGHTS_K_BIAS, 2, bias, own_key);
	compare_vector(&p, &s, WEIGHTS_V_BIAS, 2, bias, own_value);
	compare_vector(&p, &s, WEIGHTS_MLP_NORM, 2, "transformer.h.2.post_attention_layernorm.weight", same);
	const struct weights_tensor *t = weights_find(p.image, WEIGHTS_SLOPES, 0);
	const float *slopes = (const void *)((const uint8_t *)p.image + t->offset);
	assert_true(slopes[0] == 0x1p-4f && slopes[1] == 0x1p-8f && slopes[2] == 0x1p-2f);
	close_golden(&s);
	packed_done(&p);
}

static void llama_tensors_keep_their_rows(void **state)
{
	(void)state;
	struct packed p = pack_golden("falcon3");
	struct safetensors s = open_golden("falcon3");
	compare(&p, &s, WEIGHTS_Q, 2, "model.layers.2.self_attn.q_proj.weight", same);
	compare(&p, &s, WEIGHTS_K, 2, "model.layers.2.self_attn.k_proj.weight", same);
	compare(&p, &s, WEIGHTS_GATE, 0, "model.layers.0.mlp.gate_proj.weight", same);
	compare(&p, &s, WEIGHTS_HEAD, 0, "lm_head.weight", same);
	close_golden(&s);
	packed_done(&p);
}

static void rotary_angles_are_products_in_single_precision(void **state)
{
	(void)state;
	enum { DIM = 8, N = 300 };
	static float table[N * DIM];
	tables_rope(10000, DIM, N, table);
	for (int p = 0; p < N; p++) {
		for (int i = 0; i < DIM / 2; i++) { /* 10000^(-i/4) = 10^-i */
			float f = 1.0f / (float[]){1, 10, 100, 1000}[i], angle = (float)p * f;
			assert_true(table[p * DIM + i] == (float)cos((double)angle));
			assert_true(table[p * DIM + DIM / 2 + i] == (float)sin((double)angle));
		}
	}
}

static void slopes_of_71_heads_are_those_of_64_and_every_other_of_128(void **state)
{
	(void)state;
	float slopes[71];
	tables_slopes(71, slopes);
	for (int i = 0; i < 71; i++) {
		double exact = i < 64 ? exp2(-(i + 1) / 8.0) : exp2(-(2 * (i - 64) + 1) / 16.0);
		assert_true(fabs((double)slopes[i] / exact - 1) < 0x1p-8); /* half a unit of bfloat16, and the rounded base */
		assert_int_equal(f32_bits(slopes[i]) & 0xffff, 0);
	}
}

/* Reads a configuration with these members. */
static int configure(const char *members, struct checkpoint *c, struct config_ids *ids, struct err *e)
{
	struct buf json = {0};
	*c = (struct checkpoint){.file = "config.json"};
	buf_printf(&json, "{%s}", members);
	int r = config_json_read(json.data, json.length, c, ids, e);
	buf_done(&json);
	return r;
}

#define FALCON                                                                                                                 \
	"\"architectures\":[\"FalconForCausalLM\"],\"hidden_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":8,"     \
	"\"vocab_size\":512"
#define RW "\"architectures\":[\"RWForCausalLM\"],\"hidden_size\":128,\"n_layer\":2,\"n_head\":8,\"vocab_size\":512"
#define LLAMA                                                                                                                  \
	"\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":8,"      \
	"\"vocab_size\":512,\"intermediate_size\":256"

static void configurations_mean_what_the_reference_reads_in_them(void **state)
{
	(void)state;
	static const struct { const char *members; struct weights_hparams hp;
	} cases[] = {
		/* num_kv_heads says nothing without new_decoder_architecture */
		{FALCON ",\"multi_query\":true,\"num_kv_heads\":8,\"new_decoder_architecture\":false,\"rope_parameters\":{"
			"\"rope_theta\":5,\"rope_type\":\"default\"}",
		 {.family = WEIGHTS_FALCON,
		  .n_kv_head = 1,
		  .head_dim = 16,
		  .n_ff = 512,
		  .n_context = 2048,
		  .n_norm = 1,
		  .rope_theta = 5}},
		{FALCON ",\"multi_query\":true,\"num_kv_heads\":4,\"new_decoder_architecture\":true,\"rope_theta\":7,\"num_ln_"
			"in_parallel_attn\":null",
		 {.family = WEIGHTS_FALCON,
		  .n_kv_head = 4,
		  .head_dim = 16,
		  .n_ff = 512,
		  .n_context = 2048,
		  .n_norm = 2,
		  .rope_theta = 7}},
		{FALCON ",\"num_kv_heads\":4,\"new_decoder_architecture\":true,\"num_ln_in_parallel_attn\":1,\"ffn_hidden_"
			"size\":300,\"max_position_embeddings\":4096",
		 {.family = WEIGHTS_FALCON,
		  .n_kv_head = 4,
		  .head_dim = 16,
		  .n_ff = 300,
		  .n_context = 4096,
		  .n_norm = 1,
		  .rope_theta = 10000}},
		{RW ",\"multi_query\":true,\"parallel_attn\":true,\"bias\":false,\"alibi\":false",
		 {.family = WEIGHTS_FALCON,
		  .n_kv_head = 1,
		  .head_dim = 16,
		  .n_ff = 512,
		  .n_context = 2048,
		  .n_norm = 1,
		  .rope_theta = 10000}},
		{RW ",\"n_head_kv\":2,\"parallel_attn\":true,\"bias\":false,\"alibi\":false",
		 {.family = WEIGHTS_FALCON,
		  .n_kv_head = 2,
		  .head_dim = 16,
		  .n_ff = 512,
		  .n_context = 2048,
		  .n_norm = 2,
		  .rope_theta = 10000}},
		{RW ",\"multi_query\":false,\"parallel_attn\":false,\"bias\":true,\"alibi\":true",
		 {.family = WEIGHTS_FALCON_RW,
		  .n_kv_head = 8,
		  .head_dim = 16,
		  .n_ff = 512,
		  .n_context = 2048,
		  .n_norm = 1,
		  .flags = WEIGHTS_ALIBI | WEIGHTS_BIAS}},
		{LLAMA ",\"num_key_value_heads\":2,\"head_dim\":32,\"rope_theta\":1000042.0,\"rope_scaling\":null,\"max_"
		       "position_embeddings\":8192",
		 {.family = WEIGHTS_LLAMA,
		  .n_kv_head = 2,
		  .head_dim = 32,
		  .n_ff = 256,
		  .n_context = 8192,
		  .n_norm = 1,
		  .rope_theta = 1000042}},
		{LLAMA,
		 {.family = WEIGHTS_LLAMA,
		  .n_kv_head = 8,
		  .head_dim = 16,
		  .n_ff = 256,
		  .n_context = 2048,
		  .n_norm = 1,
		  .rope_theta = 10000}},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct checkpoint c;
		struct config_ids ids;
		struct err e = {0};
		struct weights_hparams hp = cases[i].hp;
		assert_int_equal(configure(cases[i].members, &c, &ids, &e), 0);
		hp.n_layer = 2;
		hp.n_embd = 128;
		hp.n_head = 8;
		hp.n_vocab = 512;
		hp.norm_eps = hp.family == WEIGHTS_LLAMA ? 1e-6f : 1e-5f;
		assert_memory_equal(&c.hparams, &hp, sizeof hp);
	}
}

static void end_of_text_may_be_a_list(void **state)
{
	(void)state;
	struct checkpoint c;
	struct config_ids ids;
	struct err e = {0};
	assert_int_equal(configure(LLAMA ",\"bos_token_id\":3,\"eos_token_id\":[9,11]", &c, &ids, &e), 0);
	assert_int_equal(ids.bos, 3);
	assert_int_equal(ids.n_eos, 2);
	assert_int_equal(ids.eos[1], 11);
	assert_int_equal(configure(LLAMA ",\"eos_token_id\":null", &c, &ids, &e), 0);
	assert_int_equal(ids.bos, -1);
	assert_int_equal(ids.n_eos, 0);
}

static void configurations_that_we_would_compute_differently_are_refused(void **state)
{
	(void)state;
	static const struct { const char *members, *what; } cases[] = {
		{"\"architectures\":[\"GPT2LMHeadModel\"]", "architecture 'GPT2LMHeadModel'"},
		{"\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":128", "num_hidden_layers is missing"},
		{LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0}", "rotary embedding of type 'llama3'"},
		{LLAMA ",\"rope_parameters\":{\"rope_type\":\"yarn\"}", "rotary embedding of type 'yarn'"},
		{LLAMA ",\"partial_rotary_factor\":0.5", "partial_rotary_factor is 0.5"},
		{LLAMA ",\"rope_theta\":\"10000\"", "rope_theta is not a number"},
		{LLAMA ",\"attention_bias\":true", "attention_bias"},
		{LLAMA ",\"hidden_act\":\"gelu\"", "hidden_act is 'gelu'"},
		{LLAMA ",\"quantization_config\":{\"bits\":4}", "quantization_config"},
		{LLAMA ",\"num_key_value_heads\":-1", "num_key_value_heads is not a number"},
		{LLAMA ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]", "eos_token_id lists 9"},
		{LLAMA ",\"vocab_size\":1", "duplicate"},
		{FALCON ",\"alibi\":true", "alibi together with parallel_attn"},
		{FALCON ",\"activation\":\"relu\"", "activation is 'relu'"},
		{FALCON ",\"parallel_attn\":false,\"new_decoder_architecture\":true", "without parallel_attn"},
		{FALCON ",\"num_ln_in_parallel_attn\":2", "without new_decoder_architecture"},
		{FALCON ",\"parallel_attn\":1", "parallel_attn is neither"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct checkpoint c;
		struct config_ids ids;
		struct err e = {0};
		assert_int_equal(configure(cases[i].members, &c, &ids, &e), -EINVAL);
		if (strstr(e.what, cases[i].what) == NULL || strstr(e.what, "config.json") == NULL)
			fail_msg("'%s', expected '%s'", e.what, cases[i].what);
	}
}

/* One safetensors file of this header and n bytes of data, in memory of exactly its size. */
static int read_safetensors(const char *header, size_t n, size_t cut, struct err *e)
{
	size_t length = strlen(header), size = 8 + length + n - cut;
	uint8_t *file = xcalloc(8 + length + n, 1), *exact = xmalloc(size);
	uint64_t stated = length;
	struct source s = {0};
	memcpy(file, &stated, 8);
	memcpy(file + 8, header, length);
	memcpy(exact, file, size);
	int r = safetensors_read(exact, size, "tiny.safetensors", &s, e);
	source_done(&s);
	free(file);
	free(exact);
	return r;
}

#define ONE "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}"

static void safetensors_that_do_not_add_up_are_refused(void **state)
{
	(void)state;
	static const struct { const char *header; const char *what;
	} cases[] = {
		{"{\"a\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,24]}}", "tensor a: type 'F64'"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,25]}}", "lie outside"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,4]}}", "lie outside"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[-4,20]}}", "lie outside"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,20]}}", "its shape needs 24"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3]}}", "data_offsets is not two numbers"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,24]}}",
		 "do not fit"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,16],\"data_offsets\":[0,24]}}", "overflow"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", "1 to 4 numbers"},
		{"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2,3],\"data_offsets\":[0,24]}}", "not a positive number"},
		{"{\"a\":[]}", "type ''"},
		{"[]", "not a JSON object"},
		{"{\"a\":1,\"a\":2}", "duplicate"},
	};
	struct err e = {0};
	assert_int_equal(read_safetensors(ONE, 24, 0, &e), 0);
	for (size_t cut = 1; cut <= strlen(ONE) + 24; cut++)
		assert_int_equal(read_safetensors(ONE, 24, cut, &e), -EINVAL);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		e = (struct err){0};
		assert_int_equal(read_safetensors(cases[i].header, 24, 0, &e), -EINVAL);
		if (strstr(e.what, cases[i].what) == NULL || strstr(e.what, "tiny.safetensors") == NULL)
			fail_msg("'%s', expected '%s'", e.what, cases[i].what);
	}
}

/* A folder of its own under /tmp. */
struct folder { char path[64]; };

static void put_file(const struct folder *f, const char *name, const char *text, size_t length)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", f->path, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, text, length), length);
	close(fd);
}

static void link_golden(const struct folder *f, const char *model, const char *name, const char *as)
{
	char path[256], from[256], real[4096];
	snprintf(path, sizeof path, "%s/%s", f->path, as);
	snprintf(from, sizeof from, "tests/golden/%s/%s", model, name);
	assert_non_null(realpath(source_path(from), real));
	assert_int_equal(symlink(real, path), 0);
}

static void expect_refusal(const struct folder *f, const char *what, const char *hint)
{
	struct packed p = pack_path(f->path);
	assert_int_equal(WEXITSTATUS(p.exit_status), 1);
	const char *error = strstr(p.status, "error ");
	if (error == NULL || strstr(error, what) == NULL || strstr(error, hint) == NULL)
		fail_msg("'%s', expected '%s' and '%s'", p.status, what, hint);
}

static struct folder make_folder(void)
{
	struct folder f;
	tree_make(f.path, sizeof f.path);
	return f;
}

static void remove_folder(const struct folder *f)
{
	static const char *const names[] = {
		"config.json",     "model.safetensors", "model.safetensors.index.json", "pytorch_model-00001-of-00002.bin",
		"one.safetensors", "two.safetensors"};
	char path[256];
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", f->path, names[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(f->path), 0);
}

static void a_folder_of_pickles_is_refused_with_how_to_convert_it(void **state)
{
	(void)state;
	struct folder f = make_folder();
	expect_refusal(&f, "config.json is missing", "GGUF file, or a folder");
	link_golden(&f, "falcon-7b", "config.json", "config.json");
	expect_refusal(&f, "neither model.safetensors nor", "GGUF file, or a folder");
	put_file(&f, "pytorch_model-00001-of-00002.bin", "PK", 2);
	expect_refusal(&f, "pickles", "save_pretrained('new', safe_serialization=True)");
	remove_folder(&f);
}

/* A file with every other tensor of s, from the first or the second on; entered into the index's weight_map. */
static void put_half(const struct folder *f, const struct safetensors *s, size_t data_size, size_t from, const char *as,
		     json_t *map)
{
	const char *name;
	json_t *entry, *half = json_object();
	size_t i = from;
	json_object_foreach(s->header, name, entry) {
		if (i++ % 2 || strcmp(name, "__metadata__") == 0)
			continue;
		json_object_set(half, name, entry);
		json_object_set_new(map, name, json_string(as));
	}
	char *text = json_dumps(half, JSON_COMPACT);
	uint64_t length = strlen(text);
	struct buf b = {0};
	buf_add(&b, &length, sizeof length);
	buf_add(&b, text, length);
	buf_add(&b, s->tensors, data_size);
	put_file(f, as, b.data, b.length);
	buf_done(&b);
	free(text);
	json_decref(half);
}

static void put_index(const struct folder *f, json_t *map)
{
	json_t *index = json_pack("{s:O}", "weight_map", map);
	char *text = json_dumps(index, 0);
	put_file(f, "model.safetensors.index.json", text, strlen(text));
	free(text);
	json_decref(index);
}

static void a_checkpoint_of_many_files_is_read_by_its_index(void **state)
{
	(void)state;
	struct folder f = make_folder();
	struct safetensors s = open_golden("falcon-7b");
	json_t *map = json_object();
	size_t data_size = 2561272 - (size_t)(s.tensors - (const uint8_t *)s.data);
	link_golden(&f, "falcon-7b", "config.json", "config.json");
	put_half(&f, &s, data_size, 0, "one.safetensors", map);
	json_object_set_new(map, "x", json_string("two.safetensors"));
	put_index(&f, map);
	expect_refusal(&f, "file 'two.safetensors' (tensor x) is missing", "");
	put_half(&f, &s, data_size, 1, "two.safetensors", map);
	put_index(&f, map);
	struct packed whole = pack_golden("falcon-7b"), parts = pack_path(f.path);
	assert_int_equal(parts.exit_status, 0);
	const struct weights_header *h = whole.image, *k = parts.image;
	assert_int_equal(h->n_tensors, k->n_tensors);
	assert_memory_equal((char *)whole.image + h->tensors_offset, (char *)parts.image + k->tensors_offset,
			    h->n_tensors * sizeof(struct weights_tensor)); /* checksums and all */
	packed_done(&whole);
	packed_done(&parts);
	json_decref(map);
	close_golden(&s);
	remove_folder(&f);
}

static void a_model_without_its_tensors_says_which(void **state)
{
	(void)state;
	struct folder f = make_folder();
	link_golden(&f, "falcon-40b", "config.json", "config.json");
	link_golden(&f, "falcon-7b", "model.safetensors", "model.safetensors");
	expect_refusal(&f, "tensor transformer.word_embeddings.weight is 512 x 192, expected 512 x 384", "");
	remove_folder(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_golden_checkpoint_becomes_an_image_that_is_accepted),
		cmocka_unit_test(grouped_heads_are_taken_apart),
		cmocka_unit_test(heads_of_their_own_and_their_biases_are_taken_apart),
		cmocka_unit_test(llama_tensors_keep_their_rows),
		cmocka_unit_test(rotary_angles_are_products_in_single_precision),
		cmocka_unit_test(slopes_of_71_heads_are_those_of_64_and_every_other_of_128),
		cmocka_unit_test(configurations_mean_what_the_reference_reads_in_them),
		cmocka_unit_test(end_of_text_may_be_a_list),
		cmocka_unit_test(configurations_that_we_would_compute_differently_are_refused),
		cmocka_unit_test(safetensors_that_do_not_add_up_are_refused),
		cmocka_unit_test(a_folder_of_pickles_is_refused_with_how_to_convert_it),
		cmocka_unit_test(a_checkpoint_of_many_files_is_read_by_its_index),
		cmocka_unit_test(a_model_without_its_tensors_says_which),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
