/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector topic: accuracy of the plain-C twin against the C library in double, and every other version that this CPU runs
 * against the twin, bit by bit, over odd lengths, unaligned rows and extreme values.
 */
#include "tests/kernels/compare.h"

#include "kernels/kernels.h"
#include "tests/kernels/roofline.h"

enum { LONGEST = 1100 };

static const struct kernels *plain; /* the plain-C twin */

/* Largest error in ulps over floats spread evenly over the bits of [low, high]. */
static double worst(float (*function)(float), double (*exact)(double), float low, float high)
{
	double most = 0;
	for (int i = 0; i <= 200000; i++) {
		float x = (float)(low + (high - low) * (i / 200000.0));
		double ulps = compare_ulps(function(x), exact((double)x));
		most = ulps > most ? ulps : most;
	}
	return most;
}

static void exp_is_within_one_ulp(void **state)
{
	(void)state;
	assert_true(worst(kernels_exp, exp, -87.3f, 88.7f) < 1.0);
	assert_true(worst(kernels_exp, exp, -1.0f, 1.0f) < 1.0);
	assert_true(worst(kernels_exp, exp, -104.5f, -87.3f) < 1.0);
	assert_true(kernels_exp(0.0f) == 1.0f && kernels_exp(-0.0f) == 1.0f);
	assert_true(kernels_exp(-INFINITY) == 0.0f && kernels_exp(-200.0f) == 0.0f);
	assert_true(isinf(kernels_exp(INFINITY)) && isinf(kernels_exp(88.8f)));
	assert_true(isnan(kernels_exp(NAN)));
}

static void log_is_within_one_ulp(void **state)
{
	(void)state;
	assert_true(worst(kernels_log, log, 0.5f, 2.0f) < 1.0);
	assert_true(worst(kernels_log, log, 2.0f, 200000.0f) < 1.0);
	assert_true(worst(kernels_log, log, 0x1p-149f, 0x1p-120f) < 1.0);
	assert_true(worst(kernels_log, log, 1e30f, 3e38f) < 1.0);
	assert_true(kernels_log(1.0f) == 0.0f);
	assert_true(kernels_log(0.0f) == -INFINITY && kernels_log(INFINITY) == INFINITY);
	assert_true(isnan(kernels_log(-1.0f)) && isnan(kernels_log(NAN)));
}

static double exact_gelu(double x)
{
	return x / 2 * (1 + erf(x * 0.70710678118654752440));
}

static void gelu_is_within_its_bound(void **state)
{
	(void)state;
	for (int i = -200000; i <= 200000; i++) {
		float x = (float)(i * 6e-5), y = x;
		plain->gelu(&y, 1);
		double exact = exact_gelu((double)x), error = fabs((double)y - exact);
		assert_true(error < 1e-6);
		if (x > 0)
			assert_true(compare_ulps(y, exact) < 4.0);
	}
	float far[] = {100.0f, -100.0f, 3e38f, -3e38f, 0.0f};
	plain->gelu(far, 5);
	assert_true(far[0] == 100.0f && far[1] == 0.0f && far[2] == 3e38f && far[3] == 0.0f && far[4] == 0.0f);
}

static void norms_agree_with_double(void **state)
{
	(void)state;
	float x[LONGEST], w[LONGEST], b[LONGEST], layer[LONGEST], rms[LONGEST];
	size_t n = 1000;
	double mean = 0, square = 0, variance = 0;
	for (size_t i = 0; i < n; i++) {
		x[i] = 1.5f + random_float(2.0f);
		w[i] = random_float(2.0f);
		b[i] = random_float(2.0f);
		mean += (double)x[i] / (double)n;
		square += (double)x[i] * (double)x[i] / (double)n;
	}
	for (size_t i = 0; i < n; i++)
		variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
	plain->layer_norm(x, w, b, 1e-5f, n, layer);
	plain->rms_norm(x, w, 1e-5f, n, rms);
	for (size_t i = 0; i < n; i++) {
		double exact = ((double)x[i] - mean) / sqrt(variance + 1e-5) * (double)w[i] + (double)b[i];
		assert_true(fabs((double)layer[i] - exact) < 2e-6);
		assert_true(fabs((double)rms[i] - (double)x[i] / sqrt(square + 1e-5) * (double)w[i]) < 2e-6);
	}
}

static void rope_turns_each_pair_by_its_angle(void **state)
{
	(void)state;
	float x[6] = {1.0f, 2.0f, 9.0f, 3.0f, 4.0f, 9.0f}, table[6] = {0.0f, 1.0f, -1.0f, 1.0f, 0.0f, 0.0f};
	plain->rope(x, table, 1, 6); /* by a quarter, by nothing, by a half */
	const float turned[6] = {-3.0f, 2.0f, -9.0f, 1.0f, 4.0f, -9.0f};
	assert_memory_equal(x, turned, sizeof x);
}

static void sums_run_in_sixteen_lanes(void **state)
{
	(void)state;
	/* exp of these is 1 or 2^-24: a lane that holds 1 loses each small one, a lane of small ones keeps them all. */
	float x[64];
	for (int i = 0; i < 64; i++)
		x[i] = i == 0 ? 0.0f : -16.63553233f;
	float small = kernels_exp(-16.63553233f), u[8];
	for (int j = 0; j < 8; j++) {
		float low = j == 0 ? 1.0f : small, high = small;
		for (int k = 1; k < 4; k++)
			low += small, high += small;
		u[j] = low + high;
	}
	assert_true(plain->sum_exp(x, 0.0f, 64) == ((u[0] + u[4]) + (u[2] + u[6])) + ((u[1] + u[5]) + (u[3] + u[7])));
}

static void max_finds_the_largest_and_knows_one_zero(void **state)
{
	(void)state;
	float x[40];
	for (size_t n = 1; n <= 40; n++) {
		for (size_t at = 0; at < n; at++) {
			for (size_t i = 0; i < n; i++)
				x[i] = i == at ? -0.0f : -1.0f - (float)i;
			for (unsigned v = 0; kernels_at(v); v++)
				assert_int_equal(f32_bits(kernels_at(v)->max(x, n)), 0);
		}
	}
}

static void fill(float *x, size_t n, int kind)
{
	for (size_t i = 0; i < n; i++)
		x[i] = kind == 0 ? random_float(4.0f) : kind == 1 ? random_float(100.0f) : random_extreme();
}

struct inputs {
	float x[LONGEST], y[LONGEST], w[LONGEST], b[LONGEST];
};

static void run_elementwise(const struct kernels *k, const struct inputs *in, size_t n, float *out)
{
	float *at = out;
	k->layer_norm(in->x, in->w, in->b, 1e-5f, n, at), at += n;
	k->rms_norm(in->x, in->w, 1e-6f, n, at), at += n;
	memcpy(at, in->x, n * sizeof *at), k->layer_norm(at, in->w, in->b, 1e-5f, n, at), at += n;
	memcpy(at, in->x, n * sizeof *at), k->gelu(at, n), at += n;
	k->swiglu(in->x, in->y, n, at), at += n;
	memcpy(at, in->x, n * sizeof *at), k->swiglu(at, in->y, n, at), at += n;
	memcpy(at, in->x, n * sizeof *at), k->add(at, in->y, n), at += n;
	k->scale(in->x, 0.18033688f, n, at), at += n;
	*at++ = k->max(in->x, n);
	*at++ = k->sum_exp(in->x, k->max(in->x, n), n);
}

static void every_version_gives_the_bytes_of_plain_c(void **state)
{
	(void)state;
	static struct inputs in;
	static float expected[8 * LONGEST + 2], actual[8 * LONGEST + 2];
	for (int round = 0; round < 600; round++) {
		size_t n = round < 80 ? (size_t)round + 1 : 1 + random_below(LONGEST);
		int kind = round % 3;
		fill(in.x, n, kind), fill(in.y, n, kind), fill(in.w, n, kind), fill(in.b, n, kind);
		run_elementwise(plain, &in, n, expected);
		for (unsigned v = 1; kernels_at(v); v++) {
			run_elementwise(kernels_at(v), &in, n, actual);
			compare_floats("elementwise", kernels_at(v)->name, expected, actual, 8 * n + 2);
		}
	}
}

static void every_version_rotates_alike(void **state)
{
	(void)state;
	static float x[LONGEST], expected[LONGEST], actual[LONGEST], table[LONGEST];
	for (int round = 0; round < 300; round++) {
		uint32_t head_dim = 2 * (1 + random_below(130)), heads = 1 + random_below(4);
		fill(x, (size_t)heads * head_dim, round % 3), fill(table, head_dim, 0);
		memcpy(expected, x, sizeof x);
		plain->rope(expected, table, heads, head_dim);
		for (unsigned v = 1; kernels_at(v); v++) {
			memcpy(actual, x, sizeof x);
			kernels_at(v)->rope(actual, table, heads, head_dim);
			compare_floats("rope", kernels_at(v)->name, expected, actual, (size_t)heads * head_dim);
		}
	}
}

static void every_version_stores_alike_and_touches_nothing_else(void **state)
{
	(void)state;
	static float key[256], value[256];
	static uint8_t expected[2][256 * PAGE_TOKENS * 4], actual[2][256 * PAGE_TOKENS * 4];
	for (int round = 0; round < 200; round++) {
		uint32_t head_dim = 1 + random_below(256), at = random_below(PAGE_TOKENS), kv = random_below(3);
		fill(key, head_dim, round % 3), fill(value, head_dim, round % 3);
		memset(expected, 0x5a, sizeof expected);
		plain->store_kv(key, value, kv, head_dim, at, expected[0], expected[1]);
		for (unsigned v = 1; kernels_at(v); v++) {
			memset(actual, 0x5a, sizeof actual);
			kernels_at(v)->store_kv(key, value, kv, head_dim, at, actual[0], actual[1]);
			assert_memory_equal(actual, expected, sizeof expected);
		}
	}
}

/*
 * What an element takes, by docs/ARITHMETIC.md: operations of the float units (an FMA counts as two, as everywhere), divisions,
 * and bytes read and written where rows stream through. A product that is no FMA takes the unit as long as one does.
 */
static const struct {
	const char *name;
	double instructions, divisions, bytes;
} operations[] = {
	{"layer_norm", 8, 0, 8}, {"rms_norm", 4, 0, 8}, {"gelu", 19, 1, 8}, {"swiglu", 16, 1, 12},
	{"add", 1, 0, 12},       {"max", 1, 0, 4},      {"sum_exp", 16, 0, 4},
};
enum { OPERATIONS = sizeof operations / sizeof operations[0], COLS = 4544 };

/* One operation on each of some rows. Only gelu and add write their input. */
static void run_operation(const struct kernels *k, int op, uint32_t rows, float *x, const float *y, const float *w, float *out)
{
	float least = 0;
	for (float *end = x + (size_t)rows * COLS; x < end; x += COLS, y += COLS, out += COLS)
		switch (op) {
		case 0: k->layer_norm(x, w, w, 1e-5f, COLS, out); break;
		case 1: k->rms_norm(x, w, 1e-5f, COLS, out); break;
		case 2: k->gelu(x, COLS); break;
		case 3: k->swiglu(x, y, COLS, out); break;
		case 4: k->add(x, w, COLS); break;
		case 5: least += k->max(x, COLS); break;
		case 6: least += k->sum_exp(x, 4.0f, COLS); break;
		}
	__asm__ volatile("" : : "m"(least)); /* it is used */
}

/* Rows of a 7B, 18 KB each: one stays in the first-level cache, 128 do not stay in the second. */
static int bench(void)
{
	enum { ROWS = 128 };
	static float x[ROWS * COLS], y[ROWS * COLS], w[COLS], out[ROWS * COLS];
	struct roofline r;
	roofline_open(&r);
	fill(w, COLS, 0), fill(y, ROWS * COLS, 0);
	for (unsigned v = 1; kernels_at(v); v++) {
		roofline_use(&r, kernels_at(v)->name);
		for (int op = 0; op < OPERATIONS; op++)
			for (uint32_t rows = 1; rows <= ROWS; rows *= rows == 1 ? 8 : 4) {
				double elements = (double)rows * COLS;
				uint32_t times = 1 + 16 / rows; /* one row alone is too short to be timed */
				struct roofline_work work = {.bytes = elements * operations[op].bytes, .seconds = INFINITY};
				work.operations[ROOFLINE_FMA] = 2 * elements * operations[op].instructions;
				work.operations[ROOFLINE_DIVIDE] = elements * operations[op].divisions;
				for (int repeat = 0; repeat < 40; repeat++) {
					fill(x, rows * COLS, 0);
					double start = bench_seconds();
					for (uint32_t i = 0; i < times; i++)
						run_operation(kernels_at(v), op, rows, x, y, w, out);
					double time = (bench_seconds() - start) / times;
					work.seconds = time < work.seconds ? time : work.seconds;
				}
				printf("%-7s %-10s %3u rows", kernels_at(v)->name, operations[op].name, rows);
				roofline_print(&r, &work, roofline_reads((size_t)work.bytes));
				printf("\n");
			}
	}
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
		cmocka_unit_test(exp_is_within_one_ulp),
		cmocka_unit_test(log_is_within_one_ulp),
		cmocka_unit_test(gelu_is_within_its_bound),
		cmocka_unit_test(norms_agree_with_double),
		cmocka_unit_test(rope_turns_each_pair_by_its_angle),
		cmocka_unit_test(sums_run_in_sixteen_lanes),
		cmocka_unit_test(max_finds_the_largest_and_knows_one_zero),
		cmocka_unit_test(every_version_gives_the_bytes_of_plain_c),
		cmocka_unit_test(every_version_rotates_alike),
		cmocka_unit_test(every_version_stores_alike_and_touches_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
