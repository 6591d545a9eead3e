/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sampling without sorting the vocabulary. A candidate is one 64-bit key: the logit's bits in an order that integers
 * compare by, above the complement of its id. So every comparison is strict, a tie goes to the lower id, and any algorithm
 * that orders keys gives the same list. Only the front of the list is ever sorted: the k best for top-k; for top-p as many
 * as its sum needs, found in growing steps.
 *
 * Sums run over candidates in the order in which they stand: by id while nothing was cut, by falling logit afterwards.
 * docs/ARITHMETIC.md, section "Sampling", has every operation.
 */
#include "model/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/f16.h"
#include "base/mem.h"

struct sampler {
	uint32_t n_vocab;
	uint32_t *counts; /* [n_vocab] zero between calls */
	uint64_t *keys;   /* [n_vocab] candidates */
	float *values;    /* [n_vocab] what is summed */
	float *sums;      /* [n_vocab / CHUNK, rounded up] */
	float *raw;       /* [n_vocab] a copy of the logits; NULL until it is needed */
};
enum { CHUNK = 1024, PIECE = 256 };

struct sampler *sampler_new(uint32_t n_vocab)
{
	struct sampler *s = xcalloc(1, sizeof *s);
	s->n_vocab = n_vocab;
	s->counts = xcalloc(n_vocab, sizeof *s->counts);
	s->keys = xcalloc(n_vocab, sizeof *s->keys);
	s->values = xcalloc(n_vocab, sizeof *s->values);
	s->sums = xcalloc(n_vocab / CHUNK + 1, sizeof *s->sums);
	return s;
}

void sampler_free(struct sampler *s)
{
	if (s == NULL)
		return;
	free(s->counts);
	free(s->keys);
	free(s->values);
	free(s->sums);
	free(s->raw);
	free(s);
}

/* Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011): word 0. */
static uint32_t philox(uint64_t key, uint64_t counter)
{
	uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0}, k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
	for (int round = 0; round < 10; round++) {
		uint64_t a = UINT64_C(0xd2511f53) * c[0], b = UINT64_C(0xcd9e8d57) * c[2];
		uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
		for (int i = 0; i < 4; i++)
			c[i] = next[i];
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
	return c[0];
}

float sampler_uniform(uint64_t seed, uint64_t position)
{
	return (float)(philox(seed, position) >> 8) * 0x1p-24f;
}

/* Bits that compare as unsigned integers like the floats that they stand for; +0 and -0 are one. */
static uint64_t make_key(float logit, uint32_t id)
{
	uint32_t bits = f32_bits(logit + 0.0f);
	bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
	return (uint64_t)bits << 32 | (0xffffffffu - id);
}

static float key_logit(uint64_t key)
{
	uint32_t bits = (uint32_t)(key >> 32);
	return f32_from_bits(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

static int32_t key_id(uint64_t key)
{
	return (int32_t)(0xffffffffu - (uint32_t)key);
}

static void swap(uint64_t *a, uint64_t *b)
{
	uint64_t t = *a;
	*a = *b;
	*b = t;
}

/*
 * Brings the k largest of n keys to the front, in falling order: quicksort that leaves alone what lies wholly beyond k.
 * The pivot's place comes from a fixed generator, so that no order of logits is a bad one by construction.
 */
static void sort_front(uint64_t *keys, size_t n, size_t k)
{
	uint32_t random = 1;
	while (n > 1 && k > 0) {
		random = random * 1664525u + 1013904223u;
		swap(&keys[0], &keys[(uint64_t)random * n >> 32]);
		size_t at = 0;
		for (size_t i = 1; i < n; i++)
			if (keys[i] > keys[0])
				swap(&keys[i], &keys[++at]);
		swap(&keys[0], &keys[at]);
		/* keys[0, at) are larger than keys[at], keys(at, n) smaller: recurse into the smaller side. */
		size_t right = n - at - 1, k_right = k > at + 1 ? k - at - 1 : 0;
		if (k_right == 0) {
			n = at;
		} else if (at < right) {
			sort_front(keys, at, at);
			keys += at + 1;
			n = right;
			k = k_right;
		} else {
			sort_front(keys + at + 1, right, k_right);
			n = k = at;
		}
	}
}

/* A finite logit stays finite: a bias or penalty that overflows saturates. */
static float saturate(float x)
{
	return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

static bool in_vocabulary(const struct sampler *s, int32_t id)
{
	return id >= 0 && (uint32_t)id < s->n_vocab;
}

static void add_biases(struct sampler *s, float *logits, const struct board_record *r)
{
	for (uint32_t i = 0; i < r->n_biases; i++)
		if (in_vocabulary(s, r->biases[i].id) && isfinite(logits[r->biases[i].id]))
			logits[r->biases[i].id] = saturate(logits[r->biases[i].id] + r->biases[i].bias);
}

/* Each id once, however often it was said: the count marks what is done. */
static void penalise_repeats(struct sampler *s, float *logits, const struct board_params *p, const int32_t *log, uint32_t n)
{
	uint32_t first = n > p->repeat_last_n ? n - p->repeat_last_n : 0;
	if (p->repeat_penalty == 1)
		return;
	for (uint32_t i = first; i < n; i++) {
		if (!in_vocabulary(s, log[i]) || s->counts[log[i]]++)
			continue;
		float *l = &logits[log[i]];
		if (isfinite(*l))
			*l = saturate(*l > 0 ? *l / p->repeat_penalty : *l * p->repeat_penalty);
	}
	for (uint32_t i = first; i < n; i++)
		if (in_vocabulary(s, log[i]))
			s->counts[log[i]] = 0;
}

static void penalise_presence(struct sampler *s, float *logits, const struct board_params *p, const int32_t *log,
			      uint32_t first, uint32_t n)
{
	if (p->presence_penalty == 0 && p->frequency_penalty == 0)
		return;
	for (uint32_t i = first; i < n; i++)
		if (in_vocabulary(s, log[i]))
			s->counts[log[i]]++;
	for (uint32_t i = first; i < n; i++) {
		if (!in_vocabulary(s, log[i]) || s->counts[log[i]] == 0)
			continue;
		float *l = &logits[log[i]];
		if (isfinite(*l))
			*l = saturate(saturate(*l - (float)s->counts[log[i]] * p->frequency_penalty) - p->presence_penalty);
		s->counts[log[i]] = 0;
	}
}

static bool finite_above(float x, float least)
{
	return x > least && x <= FLT_MAX;
}

/*
 * Scans go by pieces of 256 logits, of which the kernel finds the largest: one that cannot change the outcome is passed over.
 * Returns the end of the piece at `first`, or `first` itself if nothing in it is above least.
 */
static uint32_t piece_above(const struct sampler *s, const struct kernels *k, const float *logits, uint32_t first, float least,
			    uint32_t *ret_next)
{
	uint32_t n = s->n_vocab - first < PIECE ? s->n_vocab - first : PIECE;
	*ret_next = first + n;
	return k->max(logits + first, n) > least ? first + n : first;
}

static int32_t greedy(const struct sampler *s, const struct kernels *k, const float *logits)
{
	float largest = -INFINITY;
	int32_t best = -1;
	for (uint32_t i = 0, next; i < s->n_vocab; i = next)
		for (uint32_t end = piece_above(s, k, logits, i, largest, &next); i < end; i++)
			if (finite_above(logits[i], largest)) {
				largest = logits[i];
				best = (int32_t)i;
			}
	CHECK(best >= 0);
	return best;
}

static uint32_t take_all(struct sampler *s, const float *logits)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->n_vocab; i++)
		if (finite_above(logits[i], -INFINITY))
			s->keys[n++] = make_key(logits[i], i);
	return n;
}

/* The best `wanted` (above 0, below n_vocab), sorted. The worst of the best so far is what the others are compared with. */
static uint32_t take_best(struct sampler *s, const struct kernels *k, const float *logits, uint32_t wanted)
{
	uint32_t n = 0, room = wanted < s->n_vocab / 8 ? 4 * wanted + 64 : s->n_vocab;
	float least = -INFINITY;
	room = room < s->n_vocab ? room : s->n_vocab;
	for (uint32_t i = 0, next; i < s->n_vocab; i = next)
		for (uint32_t end = piece_above(s, k, logits, i, least, &next); i < end; i++) {
			if (!finite_above(logits[i], least))
				continue; /* an equal one has the higher id */
			s->keys[n++] = make_key(logits[i], i);
			if (n == room) {
				sort_front(s->keys, n, wanted);
				n = wanted;
				least = key_logit(s->keys[n - 1]);
			}
		}
	wanted = wanted < n ? wanted : n;
	sort_front(s->keys, n, wanted);
	return wanted;
}

/* Cuts sorted or unsorted candidates to the fewest whose probabilities reach top_p; those stand sorted afterwards. */
static uint32_t cut_top_p(struct sampler *s, const struct kernels *k, float top_p, float max, uint32_t n, uint32_t sorted)
{
	for (uint32_t i = 0; i < n; i++)
		s->values[i] = key_logit(s->keys[i]);
	float target = top_p * k->sum_exp(s->values, max, n), sum = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (i == sorted) {
			uint32_t step = i < 64 ? 64 : 3 * i;
			step = n - i < step ? n - i : step;
			sort_front(s->keys + i, n - i, step);
			sorted += step;
		}
		sum += kernels_exp(key_logit(s->keys[i]) - max);
		if (sum >= target)
			return i + 1;
	}
	return n;
}

/* Those whose probability is at least min_p times the best one's; their order stays. */
static uint32_t cut_min_p(struct sampler *s, float min_p, float max, uint32_t n)
{
	float least = kernels_log(min_p);
	uint32_t kept = 0;
	for (uint32_t i = 0; i < n; i++)
		if (key_logit(s->keys[i]) - max >= least)
			s->keys[kept++] = s->keys[i];
	return kept;
}

/*
 * The candidate at which the running sum of exp((logit - max) / temp) passes u times the whole. The sum runs over chunks
 * first, so that one exp a candidate of a single chunk is all that is not done by the kernel.
 */
static int32_t draw(struct sampler *s, const struct kernels *k, float temp, int32_t best, float max, uint32_t n, float u)
{
	uint32_t n_chunks = (n + CHUNK - 1) / CHUNK, chunk = 0;
	float total = 0, sum = 0;
	for (uint32_t i = 0; i < n; i++)
		s->values[i] = (key_logit(s->keys[i]) - max) / temp;
	for (uint32_t c = 0; c < n_chunks; c++) {
		s->sums[c] = k->sum_exp(s->values + c * CHUNK, 0, c + 1 < n_chunks ? CHUNK : n - c * CHUNK);
		total += s->sums[c];
	}
	float target = u * total;
	while (chunk + 1 < n_chunks && sum + s->sums[chunk] <= target)
		sum += s->sums[chunk++];
	uint32_t end = chunk + 1 < n_chunks ? (chunk + 1) * CHUNK : n;
	int32_t last = best;
	for (uint32_t i = chunk * CHUNK; i < end; i++) {
		float e = kernels_exp(s->values[i]);
		if (e > 0)
			last = key_id(s->keys[i]);
		sum += e;
		if (sum > target)
			return key_id(s->keys[i]);
	}
	return last; /* u is so near to 1 that rounding took the difference */
}

int32_t sampler_draw(struct sampler *s, const struct kernels *k, float *logits, const struct board_record *r,
		     const int32_t *log, uint32_t n_tokens)
{
	const struct board_params *p = &r->params;
	add_biases(s, logits, r);
	penalise_repeats(s, logits, p, log, n_tokens);
	penalise_presence(s, logits, p, log, r->n_given, n_tokens);
	int32_t best = greedy(s, k, logits);
	if (p->temp == 0 || p->top_k == 1)
		return best;
	float max = logits[best];
	bool top_k = p->top_k > 0 && p->top_k < s->n_vocab;
	uint32_t n = top_k ? take_best(s, k, logits, p->top_k) : take_all(s, logits), sorted = top_k ? n : 0;
	if (p->top_p < 1)
		n = cut_top_p(s, k, p->top_p, max, n, sorted);
	if (p->min_p > 0)
		n = cut_min_p(s, p->min_p, max, n);
	return draw(s, k, p->temp, best, max, n, sampler_uniform(r->params.seed, n_tokens));
}

void sampler_probs(struct sampler *s, const struct kernels *k, const float *logits, int32_t token, uint32_t top, struct prob *ret)
{
	float max = k->max(logits, s->n_vocab), log_sum = kernels_log(k->sum_exp(logits, max, s->n_vocab));
	uint32_t n = top > 0 ? take_best(s, k, logits, top < s->n_vocab ? top : s->n_vocab) : 0;
	ret[0] = (struct prob){.id = token, .logprob = (logits[token] - max) - log_sum};
	for (uint32_t i = 0; i < top; i++) {
		int32_t id = i < n ? key_id(s->keys[i]) : -1;
		ret[1 + i] = (struct prob){.id = id, .logprob = id >= 0 ? (logits[id] - max) - log_sum : 0};
	}
}

int32_t sampler_draw_probs(struct sampler *s, const struct kernels *k, float *logits, const struct board_record *r,
			   const int32_t *log, uint32_t n_tokens, struct prob *ret)
{
	if (s->raw == NULL)
		s->raw = xcalloc(s->n_vocab, sizeof *s->raw);
	memcpy(s->raw, logits, s->n_vocab * sizeof *s->raw);
	int32_t token = sampler_draw(s, k, logits, r, log, n_tokens);
	sampler_probs(s, k, s->raw, token, board_top(r->flags), ret);
	return token;
}

float sampler_logprob(const struct kernels *k, const float *logits, uint32_t n_vocab, int32_t token)
{
	float max = k->max(logits, n_vocab);
	return (logits[token] - max) - kernels_log(k->sum_exp(logits, max, n_vocab));
}
