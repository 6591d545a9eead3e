/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every version of the matrix kernels that this CPU runs, and the AMX kernel over modelled instructions, against the plain-C
 * twin, by bits, over odd shapes and extreme values. `matmul_test --bench` measures each version instead, a line a type and
 * number of rows, against what binds it.
 */
#include "config.h"

#include "tests/kernels/compare.h"

#include "base/mem.h"
#include "kernels/kernels.h"
#include "tests/kernels/roofline.h"

enum { MOST_TOKENS = 40 };

static const char *const type_names[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"};

#ifdef FALCON_X86
void matmul_amx_modelled(const struct kernels_matrix *m, uint32_t strip, uint32_t n_strips, const struct kernels_activations *a,
			 float *out, size_t ldo, bool more, void *scratch); /* amx_model.c */
#endif

/*
 * The tables that this CPU runs, as kernels_at(), then the AMX kernel over modelled instructions, which needs AVX-512 alone: so
 * it is held to the same bytes on CPUs without AMX.
 */
static const struct kernels *version_at(unsigned i)
{
	if (kernels_at(i) != NULL)
		return kernels_at(i);
#ifdef FALCON_X86
	static struct kernels modelled;
	const struct kernels *last = i > 0 ? kernels_at(i - 1) : NULL;
	if (last != NULL && (strcmp(last->name, "avx512") == 0 || strcmp(last->name, "amx") == 0)) {
		modelled = *last;
		modelled.name = "amx, modelled";
		modelled.matmul = matmul_amx_modelled;
		return &modelled;
	}
#endif
	return NULL;
}

/* A matrix of random bytes, its halves finite (scales and minima of blocks, F16 and BF16 weights). */
static struct kernels_matrix random_matrix(uint32_t type, uint32_t rows, uint32_t cols)
{
	uint64_t bytes = weights_bytes(type, rows, cols), block = type < WEIGHTS_Q8_0 ? 0 : weights_strip_bytes(type, 32);
	bool minima = type == WEIGHTS_Q4_1 || type == WEIGHTS_Q5_1;
	uint8_t *data = xaligned(64, bytes);
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = random_below(16) ? (uint8_t)random_bits() : (uint8_t)(random_below(2) * 255);
	for (uint64_t i = 0; block && i < bytes; i += block)
		for (uint32_t h = 0; h < (minima ? 32u : 16u); h++) {
			uint16_t half = f16_from_f32(random_float(random_below(8) ? 0.01f : 60000.0f));
			memcpy(data + i + h * 2, &half, sizeof half);
		}
	for (uint64_t i = 0; type == WEIGHTS_F32 && i < bytes / 4; i++) {
		float f = random_below(8) ? random_float(1.0f) : random_extreme() * 0x1p-20f;
		memcpy(data + i * 4, &f, sizeof f);
	}
	for (uint64_t i = 0; (type == WEIGHTS_F16 || type == WEIGHTS_BF16) && i < bytes / 2; i++) {
		float f = random_float(random_below(8) ? 1.0f : 60000.0f);
		uint16_t half = type == WEIGHTS_F16 ? f16_from_f32(f) : bf16_from_f32(f);
		memcpy(data + i * 2, &half, sizeof half);
	}
	return (struct kernels_matrix){data, type, rows, cols};
}

static struct kernels_activations new_activations(uint32_t n, uint32_t cols, void **ret_memory)
{
	struct kernels_activations a;
	size_t bytes = kernels_activation_bytes(n, cols);
	*ret_memory = xaligned(64, bytes);
	memset(*ret_memory, 0xa5, bytes); /* what quantise does not write shows */
	kernels_place(&a, *ret_memory, n, cols);
	return a;
}

/* Rows of many magnitudes; some blocks are tiny, some hold one large value, some are all extremes, some any finite floats. */
static void random_tokens(float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 32) {
		uint32_t kind = random_below(6);
		if (random_below(16) == 0) {
			for (size_t j = i; j < n && j < i + 32; j++)
				x[j] = random_extreme();
			continue;
		}
		float range = kind == 0 ? 0x1p-110f : kind == 1 ? 1e30f : 3.0f;
		for (size_t j = i; j < n && j < i + 32; j++)
			x[j] = kind == 2 ? (random_below(2) ? 1.0f : -1.0f) : random_float(range);
		if (kind == 3)
			x[i] = 1e6f;
	}
}

static void every_version_quantises_alike(void **state)
{
	(void)state;
	for (int round = 0; round < 60; round++) {
		uint32_t n = 1 + random_below(11), cols = 32 * (1 + random_below(9));
		float *x = xaligned(64, (size_t)n * cols * sizeof *x);
		random_tokens(x, (size_t)n * cols);
		void *expected, *actual;
		struct kernels_activations e = new_activations(n, cols, &expected);
		assert_true(version_at(0)->quantise(x, cols, 0, n, &e));
		for (unsigned i = 1; version_at(i) != NULL; i++) {
			struct kernels_activations a = new_activations(n, cols, &actual);
			uint32_t cut = n > 4 ? 4 : n; /* in two pieces, as two threads would */
			assert_true(version_at(i)->quantise(x, cols, 0, cut, &a));
			if (cut < n)
				assert_true(version_at(i)->quantise(x, cols, cut, n - cut, &a));
			uint32_t padded = n == 1 ? 1 : (n + 3) / 4 * 4;
			assert_memory_equal(a.q, e.q, (size_t)padded * cols);
			assert_memory_equal(a.d, e.d, (size_t)padded * cols / 32 * sizeof(float));
			assert_memory_equal(a.sum, e.sum, (size_t)padded * cols / 32 * 2 * sizeof(int16_t));
			assert_memory_equal(a.dsum, e.dsum, (size_t)padded * cols / 32 * sizeof(float));
			free(actual);
		}
		free(expected);
		free(x);
	}
}

static void a_value_that_is_not_finite_is_told(void **state)
{
	(void)state;
	const float bad[] = {INFINITY, -INFINITY, NAN};
	for (unsigned i = 0; version_at(i) != NULL; i++) {
		for (int b = 0; b < 3; b++) {
			float x[2 * 64] = {0};
			x[64 + 33] = bad[b];
			void *memory;
			struct kernels_activations a = new_activations(2, 64, &memory);
			assert_true(version_at(i)->quantise(x, 64, 0, 1, &a));
			assert_false(version_at(i)->quantise(x, 64, 0, 2, &a));
			free(memory);
		}
	}
}

struct product {
	struct kernels_matrix m;
	struct kernels_activations a;
	const float *x;
	uint32_t n, ldo;
	void *scratch;
};

static void run(const struct kernels *k, const struct product *p, uint32_t strip, uint32_t strips, float *out, bool more)
{
	if (p->m.type >= WEIGHTS_Q8_0)
		k->matmul(&p->m, strip, strips, &p->a, out, p->ldo, more, p->scratch);
	else
		k->matmul_dense(&p->m, strip, strips, p->x, p->m.cols, p->n, out, p->ldo, more, p->scratch);
}

/* One shape: whole, then continued, then strip by strip; what lies beyond the rows stays untouched. */
static void compare_shape(uint32_t type, uint32_t rows, uint32_t cols, uint32_t n)
{
	struct product p = {.m = random_matrix(type, rows, cols), .n = n, .ldo = rows + 21};
	float *x = xaligned(64, (size_t)n * cols * sizeof *x);
	random_tokens(x, (size_t)n * cols);
	p.x = x;
	void *memory = NULL;
	if (type >= WEIGHTS_Q8_0) {
		p.a = new_activations(n, cols, &memory);
		assert_true(version_at(0)->quantise(x, cols, 0, n, &p.a));
	}
	p.scratch = xaligned(64, kernels_scratch_bytes(cols, 2, 1));
	uint32_t strips = (rows + 15) / 16;
	size_t size = (size_t)n * p.ldo;
	float *expected = xcalloc(size, sizeof *expected), *actual = xcalloc(size, sizeof *actual);
	for (unsigned i = 1; version_at(i) != NULL; i++) {
		const struct kernels *k = version_at(i);
		for (size_t j = 0; j < size; j++)
			expected[j] = actual[j] = 77.5f;
		run(version_at(0), &p, 0, strips, expected, false);
		run(k, &p, 0, strips, actual, false);
		compare_floats(type_names[type], k->name, expected, actual, size);
		run(version_at(0), &p, 0, strips, expected, true);
		for (uint32_t s = 0; s < strips; s++)
			run(k, &p, s, 1, actual, true);
		compare_floats(type_names[type], k->name, expected, actual, size);
	}
	free(expected);
	free(actual);
	free(p.scratch);
	free(memory);
	free(x);
	free((void *)(uintptr_t)p.m.data);
}

static void every_version_multiplies_alike(void **state)
{
	(void)state;
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		for (uint32_t n = 1; n <= 13; n++)
			compare_shape(type, 16, 64, n);
		for (int round = 0; round < 24; round++) {
			uint32_t cols = type >= WEIGHTS_Q8_0 ? 32 * (1 + random_below(40)) : 1 + random_below(600);
			compare_shape(type, 1 + random_below(70), cols, 1 + random_below(MOST_TOKENS));
		}
	}
}

/* Columns enough for several panels. */
static void panels_change_no_bit(void **state)
{
	(void)state;
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		compare_shape(type, 40, 4544, 37);
		compare_shape(type, 16, 18176, 64);
		compare_shape(type, 35, 1120, 150);
	}
}

/* The specification itself, against weights and activations as numbers: a sum of 32-column blocks in double. */
static void the_plain_product_agrees_with_double(void **state)
{
	(void)state;
	enum { COLS = 160, ROWS = 20, N = 5 };
	const struct kernels *k = version_at(0);
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		struct product p = {.m = random_matrix(type, ROWS, COLS), .n = N, .ldo = ROWS};
		static float x[N * COLS], w[COLS], out[N * ROWS];
		void *memory = NULL;
		for (size_t i = 0; i < N * COLS; i++)
			x[i] = random_float(3.0f);
		p.x = x;
		if (type >= WEIGHTS_Q8_0) {
			p.a = new_activations(N, COLS, &memory);
			assert_true(k->quantise(x, COLS, 0, N, &p.a));
		}
		run(k, &p, 0, (ROWS + 15) / 16, out, false);
		for (uint32_t r = 0; r < ROWS; r++) {
			k->row(&p.m, r, w);
			for (uint32_t t = 0; t < N; t++) {
				double sum = 0, size = 0, coarse = 0;
				for (uint32_t c = 0; c < COLS; c++) {
					double term = (double)w[c] * (double)x[t * COLS + c];
					sum += term;
					size += fabs(term);
					coarse += fabs((double)w[c]) * 3.0 / 127 / 2; /* half a step of a code */
				}
				double bound = size * 1e-5 + (type >= WEIGHTS_Q8_0 ? coarse * 1.01 : 0.0);
				assert_true(fabs((double)out[t * ROWS + r] - sum) <= bound);
			}
		}
		free(memory);
		free((void *)(uintptr_t)p.m.data);
	}
}

static void no_tokens_write_nothing(void **state)
{
	(void)state;
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++)
		for (unsigned i = 0; version_at(i) != NULL; i++) {
			struct product p = {.m = random_matrix(type, 32, 64), .ldo = 32};
			float out[4 * 32] = {0}, untouched[4 * 32] = {0};
			kernels_place(&p.a, NULL, 0, 64);
			p.scratch = xaligned(64, kernels_scratch_bytes(64, 2, 1));
			run(version_at(i), &p, 0, 2, out, false);
			assert_memory_equal(out, untouched, sizeof out);
			free(p.scratch);
			free((void *)(uintptr_t)p.m.data);
		}
}

static void a_token_is_the_same_alone_and_among_others(void **state)
{
	(void)state;
	enum { COLS = 320, ROWS = 48 };
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		for (unsigned i = 0; version_at(i) != NULL; i++) {
			const struct kernels *k = version_at(i);
			struct product p = {.m = random_matrix(type, ROWS, COLS), .n = 29, .ldo = ROWS};
			static float x[29 * COLS], all[29 * ROWS], alone[ROWS];
			random_tokens(x, 29 * COLS);
			p.scratch = xaligned(64, kernels_scratch_bytes(COLS, 2, 1));
			void *memory = NULL, *one = NULL;
			p.x = x;
			if (type >= WEIGHTS_Q8_0) {
				p.a = new_activations(29, COLS, &memory);
				k->quantise(x, COLS, 0, 29, &p.a);
			}
			run(k, &p, 0, 3, all, false);
			for (uint32_t t = 0; t < 29; t++) {
				struct product q = p;
				q.n = 1;
				q.x = x + t * COLS;
				if (type >= WEIGHTS_Q8_0) {
					q.a = new_activations(1, COLS, &one);
					k->quantise(q.x, COLS, 0, 1, &q.a);
				}
				run(k, &q, 0, 3, alone, false);
				compare_floats("alone", k->name, all + t * ROWS, alone, ROWS);
				free(one);
				one = NULL;
			}
			free(memory);
			free(p.scratch);
			free((void *)(uintptr_t)p.m.data);
		}
	}
}

static void every_version_reads_rows_alike(void **state)
{
	(void)state;
	float expected[96], actual[96];
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		struct kernels_matrix m = random_matrix(type, 35, 96);
		for (uint32_t r = 0; r < 35; r++) {
			version_at(0)->row(&m, r, expected);
			for (unsigned i = 1; version_at(i) != NULL; i++) {
				version_at(i)->row(&m, r, actual);
				compare_floats("row", version_at(i)->name, expected, actual, 96);
			}
		}
		free((void *)(uintptr_t)m.data);
	}
}

static void the_best_is_chosen_within_the_limit(void **state)
{
	(void)state;
	assert_string_equal(kernels_select("portable")->name, "portable");
	assert_null(kernels_select("sse"));
	unsigned n = 0;
	while (kernels_at(n) != NULL)
		n++;
	assert_ptr_equal(kernels_select(NULL), kernels_at(n - 1));
	assert_ptr_equal(kernels_select(""), kernels_at(n - 1)); /* set to nothing in an environment is not set */
	assert_ptr_equal(kernels_select("amx"), kernels_at(n - 1));
}

/* A matrix of about `bytes`: strips of random codes, over and over. */
static struct kernels_matrix bench_matrix(uint32_t type, uint32_t cols, size_t bytes)
{
	enum { STRIPS = 8 };
	struct kernels_matrix few = random_matrix(type, STRIPS * WEIGHTS_STRIP, cols), m = few;
	size_t strips = weights_bytes(type, few.rows, cols);
	uint32_t times = bytes > strips ? (uint32_t)(bytes / strips) : 1;
	uint8_t *data = xaligned(1 << 21, times * strips);
	for (uint32_t i = 0; i < times; i++)
		memcpy(data + i * strips, few.data, strips);
	m.data = data;
	m.rows = times * few.rows;
	free((void *)(uintptr_t)few.data);
	return m;
}

/* The whole matrix, in pieces as the engine's members take them. The best of many runs, of which some nobody disturbs. */
static double bench_product(const struct kernels *k, const struct product *p, float *out, double seconds)
{
	uint32_t strips = p->m.rows / WEIGHTS_STRIP;
	uint32_t piece = (uint32_t)((512 << 10) / weights_strip_bytes(p->m.type, p->m.cols)) + 1;
	double best = INFINITY;
	for (double first = bench_seconds(), now = first; now < first + seconds || best == INFINITY;) {
		double start = now;
		for (uint32_t s = 0; s < strips; s += piece) {
			struct product part = *p;
			part.m.data += s * weights_strip_bytes(p->m.type, p->m.cols);
			part.m.rows = (strips - s < piece ? strips - s : piece) * WEIGHTS_STRIP;
			run(k, &part, 0, part.m.rows / WEIGHTS_STRIP, out, false);
		}
		now = bench_seconds();
		best = now - start < best ? now - start : best;
	}
	return best;
}

/* One line: weights from the second-level cache, as the kernel alone is fast, then from memory, as a model's are. */
static void bench_line(const struct roofline *r, const struct kernels *k, const struct kernels_matrix m[2], uint32_t n,
		       double cache)
{
	uint32_t cols = m[0].cols;
	enum roofline_mix mix = m->type < WEIGHTS_Q8_0    ? ROOFLINE_FMA
				: m->type == WEIGHTS_Q8_0 ? ROOFLINE_BYTES
							  : ROOFLINE_CODES;
	struct product p = {.n = n, .ldo = 1024 /* more than a piece's rows */};
	float *x = xaligned(64, (size_t)n * cols * sizeof *x), *out = xaligned(64, (size_t)n * p.ldo * sizeof *out);
	for (size_t i = 0; i < (size_t)n * cols; i++)
		x[i] = random_float(1.0f);
	p.x = x;
	void *memory;
	p.a = new_activations(n, cols, &memory);
	k->quantise(x, cols, 0, n, &p.a);
	p.scratch = xaligned(64, kernels_scratch_bytes(cols, 2, 1));
	printf("%-7s %-5s %3u rows", k->name, type_names[m->type], n);
	for (int i = 0; i < 2; i++) {
		p.m = m[i];
		struct roofline_work w = {.bytes = (double)weights_bytes(p.m.type, p.m.rows, cols)};
		w.operations[mix] = 2.0 * p.m.rows * cols * n;
		w.seconds = bench_product(k, &p, out, i == 0 ? 0.1 : 0.3);
		printf(i == 0 ? "  cache:" : "  memory:");
		roofline_print(r, &w, i == 0 ? cache : r->memory);
	}
	printf("\n");
	free(memory);
	free(p.scratch);
	free(x);
	free(out);
}

static int bench(void)
{
	enum { COLS = 4544 };
	struct roofline r;
	roofline_open(&r);
	for (uint32_t type = 0; type < WEIGHTS_TYPES; type++) {
		struct kernels_matrix m[2] = {bench_matrix(type, COLS, 0), bench_matrix(type, COLS, ROOFLINE_MEMORY)};
		double cache = roofline_reads(weights_bytes(type, m[0].rows, COLS));
		for (unsigned i = 1; kernels_at(i) != NULL; i++) {
			roofline_use(&r, kernels_at(i)->name);
			for (uint32_t n = 1; n <= 128; n *= n == 1 ? 8 : 4)
				bench_line(&r, kernels_at(i), m, n, cache);
		}
		free((void *)(uintptr_t)m[0].data);
		free((void *)(uintptr_t)m[1].data);
	}
	return 0;
}

int main(int argc, char **argv)
{
	compare_start();
	if (argc > 1 && strcmp(argv[1], "--bench") == 0)
		return bench();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_version_quantises_alike),
		cmocka_unit_test(a_value_that_is_not_finite_is_told),
		cmocka_unit_test(every_version_multiplies_alike),
		cmocka_unit_test(panels_change_no_bit),
		cmocka_unit_test(the_plain_product_agrees_with_double),
		cmocka_unit_test(no_tokens_write_nothing),
		cmocka_unit_test(a_token_is_the_same_alone_and_among_others),
		cmocka_unit_test(every_version_reads_rows_alike),
		cmocka_unit_test(the_best_is_chosen_within_the_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
