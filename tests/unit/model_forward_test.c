/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's logits are the same bytes however it is computed. Each case is a block family with its own mix of weight
 * types, over random weights: what is compared is the program with itself, by memcmp. The golden table compares it with the
 * reference.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "tests/support/lab.h"

enum { VOCAB = 97, CONTEXT = 1120, PROMPT = 70, NEIGHBOURS = 7 };

struct family {
	const char *name;
	struct weights_hparams hp;
	uint32_t types[WEIGHTS_ROLES];
	uint32_t kv;
};

#define SHAPE                                                                                                                  \
	.n_layer = 2, .n_embd = 96, .head_dim = 32, .n_vocab = VOCAB, .n_context = CONTEXT, .norm_eps = 1e-5f,                 \
	.rope_theta = 10000
static const struct family families[] = {
	{"7B in Q4_0 under a Q8_0 head",
	 {.family = WEIGHTS_FALCON, .n_head = 3, .n_kv_head = 1, .n_ff = 384, .n_norm = 1, SHAPE},
	 {[WEIGHTS_EMBED] = WEIGHTS_Q4_0,
	  [WEIGHTS_HEAD] = WEIGHTS_Q8_0,
	  [WEIGHTS_Q] = WEIGHTS_Q4_0,
	  [WEIGHTS_K] = WEIGHTS_Q4_0,
	  [WEIGHTS_V] = WEIGHTS_Q4_0,
	  [WEIGHTS_UP] = WEIGHTS_Q4_0,
	  [WEIGHTS_O] = WEIGHTS_Q4_0,
	  [WEIGHTS_DOWN] = WEIGHTS_Q4_0},
	 PAGES_F16},
	{"40B with a type of its own a matrix",
	 {.family = WEIGHTS_FALCON, .n_head = 6, .n_kv_head = 2, .n_ff = 320, .n_norm = 2, SHAPE},
	 {[WEIGHTS_EMBED] = WEIGHTS_BF16,
	  [WEIGHTS_HEAD] = WEIGHTS_F16,
	  [WEIGHTS_Q] = WEIGHTS_Q5_1,
	  [WEIGHTS_K] = WEIGHTS_F16,
	  [WEIGHTS_V] = WEIGHTS_Q8_0,
	  [WEIGHTS_UP] = WEIGHTS_Q5_0,
	  [WEIGHTS_O] = WEIGHTS_BF16,
	  [WEIGHTS_DOWN] = WEIGHTS_Q4_1},
	 PAGES_F32},
	{"RW with ALiBi and biases",
	 {.family = WEIGHTS_FALCON_RW,
	  .n_head = 3,
	  .n_kv_head = 3,
	  .n_ff = 384,
	  .n_norm = 2,
	  .flags = WEIGHTS_ALIBI | WEIGHTS_BIAS,
	  SHAPE},
	 {[WEIGHTS_EMBED] = WEIGHTS_F16, [WEIGHTS_HEAD] = WEIGHTS_BF16, [WEIGHTS_Q] = WEIGHTS_BF16, [WEIGHTS_O] = WEIGHTS_Q8_0},
	 PAGES_F16},
	{"RW with rotary",
	 {.family = WEIGHTS_FALCON_RW, .n_head = 3, .n_kv_head = 3, .n_ff = 384, .n_norm = 2, .flags = WEIGHTS_BIAS, SHAPE},
	 {[WEIGHTS_Q] = WEIGHTS_Q8_0, [WEIGHTS_DOWN] = WEIGHTS_Q8_0},
	 PAGES_F32},
	{"Llama",
	 {.family = WEIGHTS_LLAMA, .n_head = 4, .n_kv_head = 2, .n_ff = 256, .n_norm = 2, SHAPE},
	 {[WEIGHTS_EMBED] = WEIGHTS_Q8_0,
	  [WEIGHTS_HEAD] = WEIGHTS_Q8_0,
	  [WEIGHTS_Q] = WEIGHTS_Q4_1,
	  [WEIGHTS_GATE] = WEIGHTS_Q5_0,
	  [WEIGHTS_UP] = WEIGHTS_Q4_0,
	  [WEIGHTS_O] = WEIGHTS_Q5_1,
	  [WEIGHTS_DOWN] = WEIGHTS_Q8_0},
	 PAGES_F16},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

struct fixture {
	struct lab_image image;
	struct model model;
};

static void open_fixture(struct fixture *x, const struct family *f)
{
	struct err e = {0};
	x->image = lab_image_new(&f->hp, f->types, 7);
	int r = model_open(x->image.data, x->image.size, &x->model, &e);
	if (r < 0)
		fail_msg("%s: %s", f->name, e.what);
}

static void close_fixture(struct fixture *x)
{
	model_close(&x->model);
	lab_image_free(&x->image);
}

static struct forward_options options(const struct family *f, uint32_t threads)
{
	return (struct forward_options){.kv = f->kv, .max_tokens = 512, .max_spans = NEIGHBOURS + 1, .max_logits = 512,
		.max_context = CONTEXT, .threads = threads};
}

static void make_ids(int32_t *ids, uint32_t n, uint32_t seed)
{
	for (uint32_t i = 0; i < n; i++) {
		seed = seed * 1664525u + 1013904223u;
		ids[i] = (int32_t)((seed >> 8) % VOCAB);
	}
}

/* Logits of every position of the prompt, in one way. */
static float *feed(const struct fixture *x, const struct family *f, const struct kernels *k, uint32_t threads, uint32_t chunk,
		   const int32_t *ids, uint32_t n)
{
	struct lab l;
	lab_init(&l, &x->model, k, options(f, threads));
	struct lab_session *s = lab_session_new(&l);
	float *out = xcalloc((size_t)n * VOCAB, sizeof *out);
	lab_feed(&l, s, ids, n, chunk, out);
	lab_session_free(s);
	lab_done(&l);
	return out;
}

static void expect_same(const struct family *f, const char *how, const float *want, float *got, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (memcmp(&want[i], &got[i], sizeof *got))
			fail_msg("%s, %s: logit %zu of row %zu is %a, not %a", f->name, how, i % VOCAB, i / VOCAB,
				 (double)got[i], (double)want[i]);
	free(got);
}

static void chunks_and_threads_change_no_bit(void **state)
{
	(void)state;
	int32_t ids[PROMPT];
	make_ids(ids, PROMPT, 1);
	for (int i = 0; i < FAMILIES; i++) {
		const struct family *f = &families[i];
		struct fixture x;
		open_fixture(&x, f);
		const struct kernels *k = kernels_select(NULL);
		float *want = feed(&x, f, k, 1, PROMPT, ids, PROMPT);
		expect_same(f, "one at a time", want, feed(&x, f, k, 1, 1, ids, PROMPT), PROMPT * VOCAB);
		expect_same(f, "chunks of 7 on 2 threads", want, feed(&x, f, k, 2, 7, ids, PROMPT), PROMPT * VOCAB);
		expect_same(f, "chunks of 32 on 3 threads", want, feed(&x, f, k, 3, 32, ids, PROMPT), PROMPT * VOCAB);
		free(want);
		close_fixture(&x);
	}
}

static void every_instruction_set_gives_the_bytes_of_plain_c(void **state)
{
	(void)state;
	int32_t ids[PROMPT];
	make_ids(ids, PROMPT, 2);
	for (int i = 0; i < FAMILIES; i++) {
		struct fixture x;
		open_fixture(&x, &families[i]);
		float *want = feed(&x, &families[i], kernels_at(0), 2, PROMPT, ids, PROMPT);
		for (unsigned set = 1; kernels_at(set); set++) {
			const struct kernels *k = kernels_at(set);
			expect_same(&families[i], k->name, want, feed(&x, &families[i], k, 1, 33, ids, PROMPT), PROMPT * VOCAB);
			expect_same(&families[i], k->name, want, feed(&x, &families[i], k, 2, 1, ids, PROMPT), PROMPT * VOCAB);
		}
		free(want);
		close_fixture(&x);
	}
}

/* Seven others of different lengths, which come and go, between which the session stands in the batch. */
static void neighbours_change_no_bit(void **state)
{
	(void)state;
	int32_t ids[PROMPT], other[NEIGHBOURS][PROMPT];
	make_ids(ids, PROMPT, 3);
	for (uint32_t i = 0; i < NEIGHBOURS; i++)
		make_ids(other[i], PROMPT, 100 + i);
	for (int i = 0; i < FAMILIES; i++) {
		const struct family *f = &families[i];
		struct fixture x;
		struct lab l;
		open_fixture(&x, f);
		float *want = feed(&x, f, kernels_select(NULL), 1, PROMPT, ids, PROMPT),
		      *got = xcalloc(PROMPT * VOCAB, sizeof *got);
		lab_init(&l, &x.model, kernels_select(NULL), options(f, 2));
		struct lab_session *mine = lab_session_new(&l), *theirs[NEIGHBOURS];
		for (uint32_t j = 0; j < NEIGHBOURS; j++)
			theirs[j] = lab_session_new(&l);
		for (uint32_t step = 0; mine->n_kv < PROMPT; step++) {
			struct forward_span spans[NEIGHBOURS + 1];
			uint32_t n = 0, take = PROMPT - mine->n_kv < 5 ? PROMPT - mine->n_kv : 5;
			for (uint32_t j = 0; j <= NEIGHBOURS; j++) {
				uint32_t more = (j + step) % 4 + 1;
				if (j == step % NEIGHBOURS)
					spans[n++] =
						lab_span(mine, ids + mine->n_kv, take, FORWARD_ALL, got + mine->n_kv * VOCAB);
				if (j < NEIGHBOURS && theirs[j]->n_kv + more <= PROMPT && (step + j) % 3) {
					spans[n++] = lab_span(theirs[j], other[j] + theirs[j]->n_kv, more, FORWARD_NONE, NULL);
					theirs[j]->n_kv += more;
				}
			}
			lab_run(&l, spans, n);
			mine->n_kv += take;
		}
		expect_same(f, "beside others", want, got, PROMPT * VOCAB);
		for (uint32_t j = 0; j < NEIGHBOURS; j++)
			lab_session_free(theirs[j]);
		lab_session_free(mine);
		lab_done(&l);
		free(want);
		close_fixture(&x);
	}
}

/* Beyond 512 positions attention has several parts; a single row's go to different members. */
static void a_long_context_changes_no_bit(void **state)
{
	(void)state;
	enum { LONG = 1100, TAIL = 12 };
	int32_t ids[LONG];
	make_ids(ids, LONG, 4);
	const struct family *cases[] = {&families[0], &families[2]};
	for (int i = 0; i < 2; i++) {
		const struct family *f = cases[i];
		struct fixture x;
		open_fixture(&x, f);
		const struct kernels *k = kernels_select(NULL);
		float *want = feed(&x, f, k, 1, 512, ids, LONG);
		expect_same(f, "long, 3 threads", want, feed(&x, f, k, 3, 100, ids, LONG), LONG * VOCAB);
		for (uint32_t threads = 1; threads <= 3; threads++) {
			struct lab l;
			lab_init(&l, &x.model, k, options(f, threads));
			struct lab_session *s = lab_session_new(&l);
			float *all = xcalloc(LONG * VOCAB, sizeof *all), *got = xcalloc(TAIL * VOCAB, sizeof *got);
			lab_feed(&l, s, ids, LONG - TAIL, 512, all);
			lab_feed(&l, s, ids + LONG - TAIL, TAIL, 1, got);
			expect_same(f, "decoded at depth", want + (LONG - TAIL) * VOCAB, got, TAIL * VOCAB);
			free(all);
			lab_session_free(s);
			lab_done(&l);
		}
		free(want);
		close_fixture(&x);
	}
}

static void the_last_row_alone_is_that_of_all(void **state)
{
	(void)state;
	int32_t ids[PROMPT];
	make_ids(ids, PROMPT, 5);
	const struct family *f = &families[1];
	struct fixture x;
	struct lab l;
	open_fixture(&x, f);
	float *want = feed(&x, f, kernels_select(NULL), 1, PROMPT, ids, PROMPT), *got = xcalloc(VOCAB, sizeof *got);
	lab_init(&l, &x.model, kernels_select(NULL), options(f, 2));
	struct lab_session *s = lab_session_new(&l);
	struct forward_span span = lab_span(s, ids, PROMPT, FORWARD_LAST, got);
	lab_run(&l, &span, 1);
	expect_same(f, "last row", want + (PROMPT - 1) * VOCAB, got, VOCAB);
	free(want);
	lab_session_free(s);
	lab_done(&l);
	close_fixture(&x);
}

/* A session's hidden states, in chunks of `chunk` tokens, beside one that wants logits. */
static void feed_hidden(struct lab *l, const int32_t *ids, uint32_t chunk, float *out)
{
	float logits[VOCAB];
	struct lab_session *s = lab_session_new(l), *other = lab_session_new(l);
	for (uint32_t at = 0; at < PROMPT; at += chunk) {
		uint32_t n = PROMPT - at < chunk ? PROMPT - at : chunk;
		struct forward_span both[2] = {lab_span(other, ids, 1, FORWARD_LAST, logits), lab_span(s, ids + at, n, FORWARD_HIDDEN, NULL)};
		both[1].hidden_out = out + (size_t)at * l->model->hp.n_embd;
		lab_run(l, both, 2);
		assert_false(both[0].failed || both[1].failed);
		s->n_kv += n;
	}
	lab_session_free(other);
	lab_session_free(s);
}

/* The head of this family is dense: its product can be made here, in the order that docs/ARITHMETIC.md has. */
static void hidden_states_are_what_the_head_multiplies_however_they_are_computed(void **state)
{
	(void)state;
	int32_t ids[PROMPT];
	const struct family *f = &families[2];
	const struct kernels *k = kernels_select(NULL);
	const uint32_t n_embd = f->hp.n_embd;
	struct fixture x;
	struct lab l;
	make_ids(ids, PROMPT, 6);
	open_fixture(&x, f);
	float *logits = feed(&x, f, k, 1, PROMPT, ids, PROMPT), row[96];
	float *whole = xcalloc((size_t)PROMPT * n_embd, sizeof *whole), *parts = xcalloc((size_t)PROMPT * n_embd, sizeof *parts);
	assert_true(n_embd <= sizeof row / sizeof row[0]);
	lab_init(&l, &x.model, k, options(f, 2));
	feed_hidden(&l, ids, PROMPT, whole);
	feed_hidden(&l, ids, 29, parts);
	assert_memory_equal(parts, whole, (size_t)PROMPT * n_embd * sizeof *parts);
	for (uint32_t v = 0; v < VOCAB; v++) {
		k->row(&x.model.head, v, row);
		for (uint32_t p = 0; p < PROMPT; p++) {
			float sum = 0;
			for (uint32_t i = 0; i < n_embd; i++)
				sum = fmaf(row[i], whole[(size_t)p * n_embd + i], sum);
			assert_true(sum == logits[(size_t)p * VOCAB + v]);
		}
	}
	lab_done(&l);
	close_fixture(&x);
	free(logits);
	free(whole);
	free(parts);
}

/* Overwrites an embedding row of a dense F32 image, so that whoever says this id computes with it. */
static void poison_embedding(struct fixture *x, int32_t id, float value)
{
	const struct weights_tensor *t = weights_find(x->image.data, WEIGHTS_EMBED, 0);
	uint8_t *strip = x->image.data + t->offset + weights_strip_bytes(t->type, t->cols) * ((uint32_t)id / WEIGHTS_STRIP);
	for (uint32_t c = 0; c < t->cols; c++)
		memcpy(strip + 4 * (c * WEIGHTS_STRIP + (uint32_t)id % WEIGHTS_STRIP), &value, 4);
}

/* Four rows of different sessions share one group of codes; the second goes wrong. */
static void a_number_that_is_not_finite_fails_its_session_alone(void **state)
{
	(void)state;
	const struct family *cases[] = {&families[2], &families[3]}; /* dense and quantised readers of the first norm */
	int32_t bad = 50, ids[4] = {1, 50, 2, 3};
	for (int i = 0; i < 2; i++) {
		struct family f = *cases[i];
		struct fixture x;
		struct lab l;
		float got[2][4][VOCAB];
		f.types[WEIGHTS_EMBED] = WEIGHTS_F32;
		open_fixture(&x, &f);
		lab_init(&l, &x.model, kernels_select(NULL), options(&f, 2));
		for (int poisoned = 0; poisoned < 2; poisoned++) {
			struct lab_session *s[4];
			struct forward_span spans[4];
			if (poisoned)
				poison_embedding(&x, bad, NAN);
			for (int j = 0; j < 4; j++) {
				s[j] = lab_session_new(&l);
				spans[j] = lab_span(s[j], &ids[j], 1, FORWARD_LAST, got[poisoned][j]);
			}
			lab_run(&l, spans, 4);
			for (int j = 0; j < 4; j++) {
				assert_int_equal(spans[j].failed, poisoned && j == 1);
				lab_session_free(s[j]);
			}
		}
		for (int j = 0; j < 4; j++)
			if (j != 1)
				assert_memory_equal(got[0][j], got[1][j], sizeof got[0][j]);
		lab_done(&l);
		close_fixture(&x);
	}
}

static void openblas_agrees_with_the_exact_kernels(void **state)
{
	(void)state;
	int32_t ids[PROMPT];
	make_ids(ids, PROMPT, 6);
	for (int i = 0; i < FAMILIES; i++) {
		struct family f = families[i];
		for (int role = 1; role < WEIGHTS_ROLES; role++)
			f.types[role] = (uint32_t)role % 3; /* F32, F16, BF16 */
		struct fixture x;
		struct lab l;
		open_fixture(&x, &f);
		float *want = feed(&x, &f, kernels_select(NULL), 1, PROMPT, ids, PROMPT),
		      *got = xcalloc(PROMPT * VOCAB, sizeof *got);
		struct forward_options o = options(&f, 2);
		o.dense = FORWARD_OPENBLAS;
		o.kv = PAGES_F32;
		if (f.kv != PAGES_F32) {
			free(want);
			f.kv = PAGES_F32;
			want = feed(&x, &f, kernels_select(NULL), 1, PROMPT, ids, PROMPT);
		}
		lab_init(&l, &x.model, kernels_select(NULL), o);
		struct lab_session *s = lab_session_new(&l);
		lab_feed(&l, s, ids, PROMPT, 33, got);
		for (size_t j = 0; j < PROMPT * VOCAB; j++)
			if (!(fabsf(got[j] - want[j]) < 1e-4f))
				fail_msg("%s: logit %zu is %g by OpenBLAS, %g by the exact kernels", f.name, j, (double)got[j],
					 (double)want[j]);
		free(got);
		free(want);
		lab_session_free(s);
		lab_done(&l);
		close_fixture(&x);
	}
}

static void a_context_beyond_the_rotary_table_is_refused(void **state)
{
	(void)state;
	struct fixture x;
	struct err e = {0};
	struct forward *f = NULL;
	open_fixture(&x, &families[0]);
	struct forward_options o = options(&families[0], 1);
	o.max_context = CONTEXT + 1;
	assert_int_equal(forward_new(&x.model, kernels_select(NULL), &o, &f, &e), -EINVAL);
	assert_null(f);
	assert_non_null(strstr(e.hint, "1120"));
	close_fixture(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chunks_and_threads_change_no_bit),
		cmocka_unit_test(every_instruction_set_gives_the_bytes_of_plain_c),
		cmocka_unit_test(neighbours_change_no_bit),
		cmocka_unit_test(a_long_context_changes_no_bit),
		cmocka_unit_test(the_last_row_alone_is_that_of_all),
		cmocka_unit_test(hidden_states_are_what_the_head_multiplies_however_they_are_computed),
		cmocka_unit_test(a_number_that_is_not_finite_fails_its_session_alone),
		cmocka_unit_test(openblas_agrees_with_the_exact_kernels),
		cmocka_unit_test(a_context_beyond_the_rotary_table_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
