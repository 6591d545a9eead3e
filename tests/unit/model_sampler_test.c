/* SPDX-License-Identifier: Apache-2.0 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "model/sampler.h"

enum { VOCAB = 5000 };

/* Parameters that change nothing: sampling from the model's distribution. */
static const struct board_params plain = {.temp = 1, .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64, .seed = 9};

/* Draws the token of position n from a copy of the logits. */
static int32_t draw_after(const struct board_params *p, const float *logits, uint32_t n_vocab, const int32_t *log,
			  uint32_t given, uint32_t n)
{
	struct sampler *s = sampler_new(n_vocab);
	float *copy = xcalloc(n_vocab, sizeof *copy);
	struct board_record r = {.params = *p, .n_given = given};
	memcpy(copy, logits, n_vocab * sizeof *copy);
	int32_t id = sampler_draw(s, kernels_select(NULL), copy, &r, log, n);
	free(copy);
	sampler_free(s);
	return id;
}

/* How often each id comes at positions [0, draws), with nothing said before. */
static uint32_t *histogram(const struct board_params *p, const float *logits, uint32_t n_vocab, uint32_t draws)
{
	struct sampler *s = sampler_new(n_vocab);
	uint32_t *count = xcalloc(n_vocab, sizeof *count);
	int32_t *log = xcalloc(draws, sizeof *log);
	float *copy = xcalloc(n_vocab, sizeof *copy);
	struct board_record r = {.params = *p, .n_given = draws};
	for (uint32_t i = 0; i < draws; i++) {
		memcpy(copy, logits, n_vocab * sizeof *copy);
		int32_t id = sampler_draw(s, kernels_select(NULL), copy, &r, log, i);
		assert_true(id >= 0 && (uint32_t)id < n_vocab);
		count[id]++;
	}
	free(copy);
	free(log);
	sampler_free(s);
	return count;
}

static void random_logits(float *logits, uint32_t n, uint64_t seed)
{
	for (uint32_t i = 0; i < n; i++)
		logits[i] = 8 * sampler_uniform(seed, i) - 4;
}

/*
 * First words of Philox 4x32-10, with the counter's upper half zero: the first is the known answer that its authors publish,
 * the others come from a transcription in Python that gives all three of their known answers.
 */
static void random_numbers_are_those_of_philox(void **state)
{
	(void)state;
	assert_true(sampler_uniform(0, 0) == (float)(0x6627e8d5 >> 8) * 0x1p-24f);
	assert_true(sampler_uniform(UINT64_C(0x299f31d0a4093822), UINT64_C(0x85a308d3243f6a88)) ==
		    (float)(0xe69c9c31 >> 8) * 0x1p-24f);
	assert_true(sampler_uniform(UINT64_MAX, UINT64_MAX) == (float)(0x4d18d7d2 >> 8) * 0x1p-24f);
}

static void the_same_seed_and_position_give_the_same_token(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 1);
	struct board_params p = plain;
	int32_t log[64] = {0};
	uint32_t changed = 0;
	for (uint32_t n = 0; n < 64; n++) {
		int32_t first = draw_after(&p, logits, VOCAB, log, 64, n);
		assert_int_equal(draw_after(&p, logits, VOCAB, log, 64, n), first);
		struct board_params other = p;
		other.seed++;
		changed += draw_after(&other, logits, VOCAB, log, 64, n) != first;
	}
	assert_true(changed > 32);
}

/* Chi-square of 20,000 draws over 8 outcomes: 24.3 is passed once in a thousand by a fair sampler; the seed is fixed. */
static void tokens_are_drawn_as_often_as_their_probability_says(void **state)
{
	(void)state;
	const float logits[8] = {0, 1, -1, 0.5f, 2, -3, 0, 1.5f}, temps[] = {1, 0.5f, 2};
	for (int t = 0; t < 3; t++) {
		struct board_params p = plain;
		p.temp = temps[t];
		double expected[8], sum = 0, chi = 0;
		for (int i = 0; i < 8; i++)
			sum += expected[i] = exp((double)logits[i] / (double)p.temp);
		uint32_t *count = histogram(&p, logits, 8, 20000);
		for (int i = 0; i < 8; i++) {
			double e = 20000 * expected[i] / sum;
			chi += (count[i] - e) * (count[i] - e) / e;
		}
		free(count);
		assert_true(chi < 24.3);
	}
}

/* More than one chunk of the running sum: each eighth of a flat vocabulary comes an eighth of the time. */
static void a_flat_vocabulary_is_covered_evenly(void **state)
{
	(void)state;
	float logits[VOCAB] = {0};
	uint32_t *count = histogram(&plain, logits, VOCAB, 16000), eighth[8] = {0};
	double chi = 0;
	for (uint32_t i = 0; i < VOCAB; i++)
		eighth[i * 8 / VOCAB] += count[i];
	for (int i = 0; i < 8; i++)
		chi += (eighth[i] - 2000.0) * (eighth[i] - 2000.0) / 2000.0;
	free(count);
	assert_true(chi < 24.3);
}

static void greedy_takes_the_lower_id_of_a_tie(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 2);
	logits[777] = logits[4000] = 20;
	struct board_params p = plain;
	p.temp = 0;
	assert_int_equal(draw_after(&p, logits, VOCAB, NULL, 0, 0), 777);
	logits[3] = 0.0f, logits[2] = -0.0f;
	for (uint32_t i = 4; i < VOCAB; i++)
		logits[i] = -1;
	logits[0] = logits[1] = -1;
	assert_int_equal(draw_after(&p, logits, VOCAB, NULL, 0, 0), 2);
	p.temp = 1, p.top_k = 1;
	assert_int_equal(draw_after(&p, logits, VOCAB, NULL, 0, 0), 2);
}

/* A stable sort of everything is the definition of what the partial selections find. */
struct ranked {
	float logit;
	int32_t id;
};

static int by_rank(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static struct ranked *rank_all(const float *logits, uint32_t n)
{
	struct ranked *r = xcalloc(n, sizeof *r);
	for (uint32_t i = 0; i < n; i++)
		r[i] = (struct ranked){logits[i], (int32_t)i};
	qsort(r, n, sizeof *r, by_rank);
	return r;
}

/* Every id that comes is among the first `most` ranked, and each of the first `least` comes at a high temperature. */
static void expect_support(struct board_params p, const float *logits, uint32_t least, uint32_t most)
{
	p.temp = 1000; /* so flat that each candidate is drawn often */
	struct ranked *rank = rank_all(logits, VOCAB);
	uint32_t *count = histogram(&p, logits, VOCAB, 40 * most), total = 0;
	for (uint32_t i = 0; i < most; i++) {
		total += count[rank[i].id];
		if (i < least)
			assert_true(count[rank[i].id] > 0);
	}
	assert_int_equal(total, 40 * most);
	free(count);
	free(rank);
}

static void top_k_keeps_the_k_best_with_ties_to_the_lower_id(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 3);
	for (uint32_t i = 0; i < VOCAB; i++)
		logits[i] = roundf(logits[i] * 4) / 4; /* many ties */
	const uint32_t ks[] = {2, 3, 40, 64, 65, 300};
	for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++) {
		struct board_params p = plain;
		p.top_k = ks[i];
		expect_support(p, logits, ks[i], ks[i]);
	}
}

/* The fewest best ranked whose probabilities reach p; one more or less is allowed where rounding decides. */
static uint32_t nucleus(const float *logits, uint32_t n, double p)
{
	struct ranked *rank = rank_all(logits, VOCAB);
	double sum = 0, reached = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)rank[i].logit);
	uint32_t kept = 0;
	while (kept < n && reached < p * sum)
		reached += exp((double)rank[kept++].logit);
	free(rank);
	return kept;
}

static void top_p_keeps_the_nucleus_with_and_without_top_k(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 4);
	logits[123] = 9;
	const struct {
		float p;
		uint32_t k;
	} cases[] = {{0.5f, 0}, {0.2f, 0}, {0.05f, 0}, {0.9f, 40}, {0.3f, 100}, {0, 0}, {0, 7}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct board_params p = plain;
		p.top_p = cases[i].p;
		p.top_k = cases[i].k;
		uint32_t kept = nucleus(logits, cases[i].k ? cases[i].k : VOCAB, (double)cases[i].p);
		if (cases[i].p == 0)
			expect_support(p, logits, 1, 1);
		else
			expect_support(p, logits, kept - 1, kept + 1);
	}
}

static void min_p_keeps_what_is_near_the_best(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 5);
	struct board_params p = plain;
	p.min_p = 0.8f;
	struct ranked *rank = rank_all(logits, VOCAB);
	uint32_t near = 0;
	while (exp((double)(rank[near].logit - rank[0].logit)) >= 0.8)
		near++;
	free(rank);
	assert_true(near > 5);
	expect_support(p, logits, near, near);
	p.min_p = 1;
	expect_support(p, logits, 1, 1);
}

/* Temperature comes after the cuts: at any temperature the nucleus is that of temperature 1. */
static void temperature_does_not_widen_the_nucleus(void **state)
{
	(void)state;
	const float logits[4] = {3, 0, 0, 0};
	struct board_params p = plain;
	p.temp = 100;
	p.top_p = 0.8f; /* the first has 0.87 */
	uint32_t *count = histogram(&p, logits, 4, 500);
	assert_int_equal(count[0], 500);
	free(count);
}

/* Repeat penalty looks at the prompt too, presence and frequency at generated tokens alone. */
static void penalties_read_the_log(void **state)
{
	(void)state;
	struct board_params p = plain;
	p.temp = 0;
	const float logits[4] = {2, 1.9f, 1.5f, -0.1f};
	const int32_t log[6] = {0, 0, 3, 1, 1, 1};
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 0);
	p.repeat_penalty = 2; /* 1, 0.95, 1.5, -0.2 */
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 2);
	p.repeat_last_n = 3; /* 2, 0.95, 1.5 */
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 0);
	p.repeat_last_n = 0;
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 0);
	p.repeat_penalty = 1;
	p.presence_penalty = 1; /* 0 is given, not generated: 2, 0.9, 1.5, -1.1 */
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 0);
	assert_int_equal(draw_after(&p, logits, 4, log, 0, 6), 2); /* 1, 0.9, 1.5, -1.1 */
	p.presence_penalty = 0;
	p.frequency_penalty = -0.2f; /* three times: 2, 2.5, 1.5, 0.1 */
	assert_int_equal(draw_after(&p, logits, 4, log, 2, 6), 1);
}

/* A negative logit is multiplied: dividing would reward what was said. */
static void a_repeated_token_below_zero_sinks(void **state)
{
	(void)state;
	struct board_params p = plain;
	p.temp = 0;
	p.repeat_penalty = 4;
	const float logits[2] = {-1, -2};
	const int32_t log[1] = {0};
	assert_int_equal(draw_after(&p, logits, 2, log, 1, 1), 1);
}

/* The bias comes before the penalties: 1 + 3 = 4 is divided by 4, where 1/4 + 3 would have won. */
static void biases_come_before_penalties(void **state)
{
	(void)state;
	struct sampler *s = sampler_new(3);
	struct board_record r = {.params = plain, .n_given = 1, .n_biases = 1, .biases = {{.id = 1, .bias = 3}}};
	r.params.temp = 0;
	float logits[3] = {2, 1, 0}, again[3] = {2, 1, 0};
	const int32_t log[1] = {1};
	assert_int_equal(sampler_draw(s, kernels_select(NULL), logits, &r, log, 1), 1);
	r.params.repeat_penalty = 4;
	assert_int_equal(sampler_draw(s, kernels_select(NULL), again, &r, log, 1), 0);
	sampler_free(s);
}

static void a_logit_that_is_not_finite_is_never_chosen(void **state)
{
	(void)state;
	float logits[64];
	for (int i = 0; i < 64; i++)
		logits[i] = i % 2 ? (float)i / 64 : i % 4 ? NAN : i % 8 ? INFINITY : -INFINITY;
	struct board_params cases[4] = {plain, plain, plain, plain};
	cases[1].top_p = 0.7f;
	cases[2].top_k = 5;
	cases[3].min_p = 0.1f;
	for (int c = 0; c < 4; c++) {
		uint32_t *count = histogram(&cases[c], logits, 64, 2000);
		for (int i = 0; i < 64; i += 2)
			assert_int_equal(count[i], 0);
		free(count);
	}
	cases[0].temp = 0;
	assert_int_equal(draw_after(&cases[0], logits, 64, NULL, 0, 0), 63);
}

/* Whatever a client may ask for, some id of the vocabulary comes out. */
static void extreme_parameters_still_give_a_token(void **state)
{
	(void)state;
	static const float values[] = {FLT_MAX, -FLT_MAX, FLT_MIN, 0x1p-149f, 1e30f, -1e30f, 0, 1};
	enum { N = sizeof values / sizeof values[0] };
	float logits[N * 3];
	int32_t log[N * 3];
	for (int i = 0; i < N * 3; i++) {
		logits[i] = values[i % N];
		log[i] = i;
	}
	static const float positive[] = {0x1p-149f, 1e-38f, 1, 1e38f, FLT_MAX};
	for (int a = 0; a < 5; a++)
		for (int b = 0; b < N; b++)
			for (int c = 0; c < 4; c++) {
				struct board_params p = {.temp = positive[a],
							 .top_p = c & 1 ? 0.5f : 1,
							 .min_p = c & 2 ? 0x1p-149f : 0,
							 .repeat_penalty = positive[4 - a],
							 .repeat_last_n = UINT32_MAX,
							 .presence_penalty = values[b],
							 .frequency_penalty = values[N - 1 - b],
							 .top_k = c == 3 ? UINT32_MAX : 0,
							 .seed = UINT64_MAX};
				int32_t id = draw_after(&p, logits, N * 3, log, 0, N * 3);
				assert_true(id >= 0 && id < N * 3);
			}
}

/* Ids that somebody wrote into the log and that are no tokens are passed over. */
static void a_log_with_ids_out_of_range_is_no_harm(void **state)
{
	(void)state;
	struct board_params p = plain;
	p.repeat_penalty = 2;
	p.presence_penalty = 1;
	const float logits[2] = {0, 1};
	const int32_t log[4] = {-1, INT32_MAX, INT32_MIN, 2};
	int32_t id = draw_after(&p, logits, 2, log, 0, 4);
	assert_true(id == 0 || id == 1);
}

static void every_instruction_set_draws_the_same_token(void **state)
{
	(void)state;
	float logits[VOCAB], copy[VOCAB];
	random_logits(logits, VOCAB, 6);
	struct board_record r = {.params = plain};
	const int32_t log[32] = {1, 2, 3};
	struct sampler *s = sampler_new(VOCAB);
	for (int c = 0; c < 4; c++) {
		r.params.top_p = c & 1 ? 0.9f : 1;
		r.params.min_p = c & 2 ? 0.01f : 0;
		for (uint32_t n = 3; n < 32; n++) {
			memcpy(copy, logits, sizeof copy);
			int32_t want = sampler_draw(s, kernels_at(0), copy, &r, log, n);
			for (unsigned i = 1; kernels_at(i); i++) {
				memcpy(copy, logits, sizeof copy);
				assert_int_equal(sampler_draw(s, kernels_at(i), copy, &r, log, n), want);
			}
		}
	}
	sampler_free(s);
}

static void log_probabilities_add_up_to_one(void **state)
{
	(void)state;
	float logits[VOCAB];
	random_logits(logits, VOCAB, 7);
	double sum = 0;
	for (int32_t i = 0; i < VOCAB; i++)
		sum += exp((double)sampler_logprob(kernels_select(NULL), logits, VOCAB, i));
	assert_true(fabs(sum - 1) < 1e-5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_numbers_are_those_of_philox),
		cmocka_unit_test(the_same_seed_and_position_give_the_same_token),
		cmocka_unit_test(tokens_are_drawn_as_often_as_their_probability_says),
		cmocka_unit_test(a_flat_vocabulary_is_covered_evenly),
		cmocka_unit_test(greedy_takes_the_lower_id_of_a_tie),
		cmocka_unit_test(top_k_keeps_the_k_best_with_ties_to_the_lower_id),
		cmocka_unit_test(top_p_keeps_the_nucleus_with_and_without_top_k),
		cmocka_unit_test(min_p_keeps_what_is_near_the_best),
		cmocka_unit_test(temperature_does_not_widen_the_nucleus),
		cmocka_unit_test(penalties_read_the_log),
		cmocka_unit_test(a_repeated_token_below_zero_sinks),
		cmocka_unit_test(biases_come_before_penalties),
		cmocka_unit_test(a_logit_that_is_not_finite_is_never_chosen),
		cmocka_unit_test(extreme_parameters_still_give_a_token),
		cmocka_unit_test(a_log_with_ids_out_of_range_is_no_harm),
		cmocka_unit_test(every_instruction_set_draws_the_same_token),
		cmocka_unit_test(log_probabilities_add_up_to_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
