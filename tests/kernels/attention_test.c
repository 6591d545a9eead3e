/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention: the plain-C twin against softmax in double, that a row's bits depend on nothing but the row, and every other
 * version that this CPU runs against the twin, bit by bit. Tokens that no row sees hold NaN: touching one shows.
 */
#include "tests/kernels/compare.h"

#include "base/mem.h"
#include "kernels/attention.h"
#include "tests/kernels/roofline.h"

enum { MAX_ROWS = 128, MAX_DIM = 256, MAX_SPANS = 3, MAX_PAGES = MAX_SPANS * KERNELS_SPAN / PAGE_TOKENS };

static const struct kernels *plain; /* the plain-C twin */

/* A cache of `n` tokens, rows that look at it, and where results go. */
struct scene {
	struct kernels_cache cache;
	const void *keys[MAX_PAGES], *values[MAX_PAGES];
	uint32_t n, rows, spans;
	uint32_t length[MAX_ROWS];
	float slope[MAX_ROWS];
	bool alibi;
	float *q;           /* [rows][dim] */
	float *key, *value; /* [n][dim], before they are narrowed */
	void *pages, *scratch;
	size_t scratch_bytes;
};

/* Memory aligned as pages and scratch are, all NaN. */
static void *nans(size_t bytes)
{
	void *p = NULL;
	assert_int_equal(posix_memalign(&p, 64, bytes), 0);
	memset(p, 0xff, bytes);
	return p;
}

static void scene_init(struct scene *s, uint32_t n, uint32_t rows, uint32_t dim, uint32_t kv, float range)
{
	*s = (struct scene){.n = n, .rows = rows, .cache = {.kv = kv, .head_dim = dim}};
	s->spans = (n + KERNELS_SPAN - 1) / KERNELS_SPAN;
	struct weights_hparams hp = {.head_dim = dim};
	size_t half = pages_half(&hp, kv), n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
	s->pages = nans(2 * half * n_pages);
	for (size_t p = 0; p < n_pages; p++) {
		s->keys[p] = (char *)s->pages + 2 * half * p;
		s->values[p] = (char *)s->pages + 2 * half * p + half;
	}
	s->cache.keys = s->keys;
	s->cache.values = s->values;
	s->q = nans((size_t)rows * dim * sizeof(float));
	s->key = nans((size_t)n * dim * sizeof(float));
	s->value = nans((size_t)n * dim * sizeof(float));
	s->scratch_bytes = attention_scratch_bytes(dim, rows);
	s->scratch = nans(s->scratch_bytes);
	for (size_t i = 0; i < (size_t)rows * dim; i++)
		s->q[i] = random_float(range);
	for (size_t i = 0; i < (size_t)n * dim; i++)
		s->key[i] = random_float(range), s->value[i] = random_float(range);
	for (uint32_t t = 0; t < n; t++)
		plain->store_kv(s->key + (size_t)t * dim, s->value + (size_t)t * dim, kv, dim, t % PAGE_TOKENS,
				(void *)(uintptr_t)s->keys[t / PAGE_TOKENS], (void *)(uintptr_t)s->values[t / PAGE_TOKENS]);
	for (uint32_t r = 0; r < rows; r++) {
		s->length[r] = n;
		s->slope[r] = f32_from_bf16(bf16_from_f32(exp2f(-8.0f * (float)(r + 1) / (float)rows)));
	}
}

static void scene_done(struct scene *s)
{
	free(s->pages);
	free(s->scratch);
	free(s->q);
	free(s->key);
	free(s->value);
}

struct result {
	float m[MAX_SPANS][MAX_ROWS], l[MAX_SPANS][MAX_ROWS], o[MAX_SPANS][MAX_ROWS * MAX_DIM];
	float out[MAX_ROWS * MAX_DIM];
};

/* Rows [row, row + rows) of the scene; results of row r stand at index r - row. */
static void run_rows(const struct kernels *k, const struct scene *s, uint32_t row, uint32_t rows, struct result *ret)
{
	uint32_t dim = s->cache.head_dim;
	struct kernels_partial parts[MAX_SPANS];
	for (uint32_t i = 0; i < s->spans; i++) {
		parts[i] = (struct kernels_partial){ret->m[i], ret->l[i], ret->o[i]};
		memset(s->scratch, 0xff, s->scratch_bytes);
		k->attend(&s->cache, i * KERNELS_SPAN, s->q + (size_t)row * dim, s->length + row,
			  s->alibi ? s->slope + row : NULL, rows, parts[i], s->scratch);
	}
	k->merge(parts, s->spans, rows, dim, ret->out, dim);
}

static void compare_results(const struct kernels *k, const struct scene *s, const struct result *expected, uint32_t row,
			    const struct result *actual, uint32_t rows)
{
	uint32_t dim = s->cache.head_dim;
	for (uint32_t i = 0; i < s->spans; i++) {
		compare_floats("m", k->name, expected->m[i] + row, actual->m[i], rows);
		compare_floats("l", k->name, expected->l[i] + row, actual->l[i], rows);
		compare_floats("o", k->name, expected->o[i] + (size_t)row * dim, actual->o[i], (size_t)rows * dim);
	}
	compare_floats("merged", k->name, expected->out + (size_t)row * dim, actual->out, (size_t)rows * dim);
}

static struct result expected, actual;

static void plain_c_agrees_with_softmax_in_double(void **state)
{
	(void)state;
	enum { N = 700, ROWS = 3, DIM = 64 };
	for (int alibi = 0; alibi < 2; alibi++) {
		struct scene s;
		scene_init(&s, N, ROWS, DIM, PAGES_F32, 1.0f);
		s.alibi = alibi;
		s.length[1] = 513;
		s.length[2] = 1;
		run_rows(plain, &s, 0, ROWS, &expected);
		for (uint32_t r = 0; r < ROWS; r++) {
			double sum = 0, o[DIM] = {0};
			for (uint32_t t = 0; t < s.length[r]; t++) {
				/* q carries log2(e)/sqrt(dim) already; the bias of the reference is bfloat16. */
				double score = 0;
				for (uint32_t d = 0; d < DIM; d++)
					score += (double)s.q[r * DIM + d] * (double)s.key[t * DIM + d];
				float position = f32_from_bf16(bf16_from_f32((float)t));
				if (alibi)
					score += (double)f32_from_bf16(bf16_from_f32(s.slope[r] * position)) * M_LOG2E /
						 sqrt(DIM);
				sum += exp2(score);
				for (uint32_t d = 0; d < DIM; d++)
					o[d] += exp2(score) * (double)s.value[t * DIM + d];
			}
			for (uint32_t d = 0; d < DIM; d++)
				assert_true(fabs((double)expected.out[r * DIM + d] - o[d] / sum) < 2e-6);
		}
		scene_done(&s);
	}
}

/* Codes of 8 bits: keys and values within 1/254 of a token's largest, which random ones average out. */
static void eight_bit_pages_stay_close_to_exact_ones(void **state)
{
	(void)state;
	enum { N = 300, ROWS = 4, DIM = 64 };
	struct scene exact, coded;
	scene_init(&exact, N, ROWS, DIM, PAGES_F32, 1.0f);
	scene_init(&coded, N, ROWS, DIM, PAGES_Q8, 1.0f);
	memcpy(coded.q, exact.q, ROWS * DIM * sizeof *coded.q);
	for (uint32_t t = 0; t < N; t++)
		plain->store_kv(exact.key + t * DIM, exact.value + t * DIM, PAGES_Q8, DIM, t % PAGE_TOKENS,
				(void *)(uintptr_t)coded.keys[t / PAGE_TOKENS],
				(void *)(uintptr_t)coded.values[t / PAGE_TOKENS]);
	run_rows(plain, &exact, 0, ROWS, &expected);
	run_rows(plain, &coded, 0, ROWS, &actual);
	double worst = 0, largest = 0;
	for (uint32_t i = 0; i < ROWS * DIM; i++) {
		worst = fmax(worst, fabs((double)actual.out[i] - (double)expected.out[i]));
		largest = fmax(largest, fabs((double)expected.out[i]));
	}
	assert_true(worst > 0 && worst < 0.02 * largest);
	scene_done(&exact);
	scene_done(&coded);
}

/* A value that no code holds must not pass silently. */
static void eight_bit_pages_keep_what_is_not_finite_visible(void **state)
{
	(void)state;
	enum { DIM = 64 };
	const float bad[] = {NAN, INFINITY, -INFINITY};
	for (int i = 0; i < 6; i++) {
		struct scene s;
		scene_init(&s, 40, 1, DIM, PAGES_Q8, 1.0f);
		(i % 2 ? s.key : s.value)[33 * DIM + 5] = bad[i / 2];
		plain->store_kv(s.key + 33 * DIM, s.value + 33 * DIM, PAGES_Q8, DIM, 1, (void *)(uintptr_t)s.keys[1],
				(void *)(uintptr_t)s.values[1]);
		for (unsigned v = 0; kernels_at(v); v++) {
			run_rows(kernels_at(v), &s, 0, 1, &actual);
			assert_true(isnan(actual.out[0]));
		}
		scene_done(&s);
	}
}

static void a_row_that_sees_nothing_of_a_span_leaves_an_empty_part(void **state)
{
	(void)state;
	struct scene s;
	scene_init(&s, 600, 4, 64, PAGES_F16, 1.0f);
	s.length[0] = 512;
	s.length[2] = 10;
	for (unsigned v = 0; kernels_at(v); v++) {
		run_rows(kernels_at(v), &s, 0, 4, &actual);
		for (uint32_t r = 0; r < 4; r += 2) {
			assert_true(actual.m[1][r] == -INFINITY && actual.l[1][r] == 0.0f);
			for (uint32_t d = 0; d < 64; d++) {
				assert_int_equal(f32_bits(actual.o[1][r * 64 + d]), 0);
				assert_true(actual.out[r * 64 + d] == actual.o[0][r * 64 + d] / actual.l[0][r]);
			}
		}
		assert_true(actual.l[1][1] > 0.0f && actual.l[1][3] > 0.0f);
	}
	scene_done(&s);
}

static void a_part_that_saw_nothing_changes_no_bit_of_a_merge(void **state)
{
	(void)state;
	enum { DIM = 70 };
	float m[3] = {-INFINITY, 3.0f, 1.0f}, l[3] = {0.0f, 2.0f, 5.0f}, o[3][DIM] = {{0}}, with[DIM], without[DIM];
	for (uint32_t d = 0; d < DIM; d++) {
		o[1][d] = d % 5 ? random_float(1.0f) : -0.0f;
		o[2][d] = d % 7 ? random_float(1.0f) : -0.0f;
	}
	struct kernels_partial all[] = {
		{&m[0], &l[0], o[0]}, {&m[1], &l[1], o[1]}, {&m[0], &l[0], o[0]}, {&m[2], &l[2], o[2]}, {&m[0], &l[0], o[0]}};
	struct kernels_partial some[] = {all[1], all[3]};
	for (unsigned v = 0; kernels_at(v); v++) {
		kernels_at(v)->merge(all, 5, 1, DIM, with, DIM);
		kernels_at(v)->merge(some, 2, 1, DIM, without, DIM);
		assert_memory_equal(with, without, sizeof with);
		kernels_at(v)->merge(all, 1, 1, DIM, with, DIM);
		for (uint32_t d = 0; d < DIM; d++)
			assert_int_equal(f32_bits(with[d]), 0);
	}
}

static void scene_random(struct scene *s)
{
	static const uint32_t dims[] = {64, 128, 256, 80, 96, 2, 6, 32, 36, 100, 66};
	uint32_t n = random_below(4) ? 1 + random_below(200) : 1 + random_below(MAX_SPANS * KERNELS_SPAN);
	uint32_t rows = 1 + random_below(random_below(2) ? 9 : 40), dim = dims[random_below(sizeof dims / sizeof *dims)];
	scene_init(s, n, rows, dim, random_below(3), random_below(3) ? 1.0f : 20.0f);
	s->alibi = random_below(3) == 0;
	uint32_t shape = random_below(3);
	for (uint32_t r = 0; r < rows; r++) {
		if (shape == 1) /* a prompt: each row sees one token more */
			s->length[r] = n > rows - r ? n - (rows - 1 - r) : 1;
		else if (shape == 2)
			s->length[r] = random_below(n + 1);
	}
}

static void every_version_gives_the_bytes_of_plain_c(void **state)
{
	(void)state;
	for (int round = 0; round < 150; round++) {
		struct scene s;
		scene_random(&s);
		run_rows(plain, &s, 0, s.rows, &expected);
		for (unsigned v = 1; kernels_at(v); v++) {
			run_rows(kernels_at(v), &s, 0, s.rows, &actual);
			compare_results(kernels_at(v), &s, &expected, 0, &actual, s.rows);
		}
		scene_done(&s);
	}
}

static void a_row_does_not_depend_on_the_rows_beside_it(void **state)
{
	(void)state;
	for (int round = 0; round < 60; round++) {
		struct scene s;
		scene_random(&s);
		for (unsigned v = 0; kernels_at(v); v++) {
			run_rows(kernels_at(v), &s, 0, s.rows, &expected);
			for (uint32_t row = 0, n; row < s.rows; row += n) {
				n = 1 + random_below(s.rows - row);
				run_rows(kernels_at(v), &s, row, n, &actual);
				compare_results(kernels_at(v), &s, &expected, row, &actual, n);
			}
		}
		scene_done(&s);
	}
}

/* Scores and values that overflow, cancel or vanish: infinities in the cache, keys of all zeros, the smallest halves. */
static void every_version_treats_extremes_alike(void **state)
{
	(void)state;
	static const uint16_t corners[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0x3c00};
	for (int round = 0; round < 120; round++) {
		struct scene s;
		scene_random(&s);
		uint32_t kinds = round % 3 == 0 ? 6 : 10; /* the first six are finite */
		for (uint32_t i = 0; i < 1 + s.n / 8; i++) {
			uint32_t t = random_below(s.n), d = random_below(s.cache.head_dim);
			uint16_t x = corners[random_below(kinds)];
			bool key = random_below(2);
			size_t at = key ? d * PAGE_TOKENS + t % PAGE_TOKENS : t % PAGE_TOKENS * s.cache.head_dim + d;
			void *half = (void *)(uintptr_t)(key ? s.keys : s.values)[t / PAGE_TOKENS];
			if (s.cache.kv == PAGES_F16)
				((uint16_t *)half)[at] = x;
			else if (s.cache.kv == PAGES_F32)
				((float *)half)[at] = random_below(2) ? f32_from_f16(x) : random_extreme();
			else if (random_below(2))
				((int8_t *)half)[at] = (int8_t)random_bits();
			else
				((float *)half)[s.cache.head_dim * PAGE_TOKENS / 4 + t % PAGE_TOKENS] = f32_from_f16(x);
		}
		if (round % 4 == 0)
			for (size_t i = 0; i < (size_t)s.rows * s.cache.head_dim; i++)
				s.q[i] = random_below(2) ? -0.0f : random_extreme();
		run_rows(plain, &s, 0, s.rows, &expected);
		for (unsigned v = 1; kernels_at(v); v++) {
			run_rows(kernels_at(v), &s, 0, s.rows, &actual);
			compare_results(kernels_at(v), &s, &expected, 0, &actual, s.rows);
		}
		scene_done(&s);
	}
}

/* A long context that no cache holds: the scene's pages over and over, each copy seen once a run. */
static void bench_shape(struct roofline *r, uint32_t rows, uint32_t dim, uint32_t kv)
{
	struct scene s;
	scene_init(&s, MAX_SPANS * KERNELS_SPAN, rows, dim, kv, 1.0f);
	struct weights_hparams hp = {.head_dim = dim};
	size_t half = pages_half(&hp, kv), bytes = 2 * half * MAX_PAGES, copies = ROOFLINE_MEMORY / bytes;
	char *pool = xaligned(1 << 21, copies * bytes);
	for (size_t i = 0; i < copies; i++)
		memcpy(pool + i * bytes, s.pages, bytes);
	for (unsigned v = 1; kernels_at(v); v++) {
		struct roofline_work w = {.bytes = (double)(copies * bytes), .seconds = INFINITY};
		w.operations[ROOFLINE_FMA] = 4.0 * rows * dim * s.n * (double)copies;
		roofline_use(r, kernels_at(v)->name);
		for (int repeat = 0; repeat < 3; repeat++) {
			double start = bench_seconds();
			for (size_t i = 0; i < copies; i++) {
				for (size_t p = 0; p < MAX_PAGES; p++) {
					s.keys[p] = pool + i * bytes + 2 * half * p;
					s.values[p] = pool + i * bytes + 2 * half * p + half;
				}
				run_rows(kernels_at(v), &s, 0, rows, &actual);
			}
			double time = bench_seconds() - start;
			w.seconds = time < w.seconds ? time : w.seconds;
		}
		printf("%-7s %3u rows of %3u, %-3s pages from memory:", kernels_at(v)->name, rows, dim, pages_kv_name(kv));
		roofline_print(r, &w, r->memory);
		printf("\n");
	}
	free(pool);
	scene_done(&s);
}

static int bench(void)
{
	struct roofline r;
	roofline_open(&r);
	for (uint32_t kv = PAGES_F16; pages_kv_name(kv) != NULL; kv++)
		for (uint32_t dim = 64; dim <= MAX_DIM; dim *= 2)
			for (uint32_t rows = 1; rows <= 128; rows *= rows == 1 ? 8 : 4)
				bench_shape(&r, rows, dim, kv);
	return 0;
}

int main(int argc, char **argv)
{
	compare_start();
	kernels_thread_init();
	plain = kernels_at(0);
	if (argc > 1 && strcmp(argv[1], "--bench") == 0)
		return bench();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_c_agrees_with_softmax_in_double),
		cmocka_unit_test(eight_bit_pages_stay_close_to_exact_ones),
		cmocka_unit_test(eight_bit_pages_keep_what_is_not_finite_visible),
		cmocka_unit_test(a_row_that_sees_nothing_of_a_span_leaves_an_empty_part),
		cmocka_unit_test(a_part_that_saw_nothing_changes_no_bit_of_a_merge),
		cmocka_unit_test(every_version_gives_the_bytes_of_plain_c),
		cmocka_unit_test(a_row_does_not_depend_on_the_rows_beside_it),
		cmocka_unit_test(every_version_treats_extremes_alike),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
