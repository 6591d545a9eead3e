/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vector topic: accuracy of the plain-C twin against the C library in double, and every other version that this CPU runs
 * against the twin, bit by bit, over odd lengths, unaligned rows and extreme values.
 */
#include "tests/kernels/compare.h"

#include "kernels/kernels.h"

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

/* Floats a cycle of each operation over one row of a 7B's MLP, from L2. */
static int bench(void)
{
	enum { N = 18176, REPEATS = 50 };
	static float x[N], y[N], w[N], out[N];
	double hertz = bench_hertz();
	fill(w, N, 0), fill(y, N, 0);
	printf("%-8s %10s %10s %10s %10s %10s %10s %10s   elements a cycle at %.2f GHz, %d elements\n", "", "layer_norm",
	       "rms_norm", "gelu", "swiglu", "add", "max", "sum_exp", hertz * 1e-9, N);
	for (unsigned v = 0; kernels_at(v); v++) {
		const struct kernels *k = kernels_at(v);
		double best[7];
		for (int op = 0; op < 7; op++)
			best[op] = INFINITY;
		for (int repeat = 0; repeat < REPEATS; repeat++) {
			fill(x, N, 0);
			for (int op = 0; op < 7; op++) {
				double start = bench_seconds();
				switch (op) {
				case 0:
					k->layer_norm(x, w, y, 1e-5f, N, out);
					break;
				case 1:
					k->rms_norm(x, w, 1e-5f, N, out);
					break;
				case 2:
					k->gelu(x, N);
					break;
				case 3:
					k->swiglu(x, y, N, out);
					break;
				case 4:
					k->add(out, y, N);
					break;
				case 5:
					out[0] = k->max(x, N);
					break;
				case 6:
					out[1] = k->sum_exp(x, 4.0f, N);
					break;
				}
				double time = bench_seconds() - start;
				best[op] = time < best[op] ? time : best[op];
			}
		}
		printf("%-8s", k->name);
		for (int op = 0; op < 7; op++)
			printf(" %10.2f", N / (best[op] * hertz));
		printf("\n");
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
