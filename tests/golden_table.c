/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The golden table: every block of the family against the reference's logits (tests/golden), and against itself. Fails when
 * a bound is missed. Run in the build folder: srcdir=.. tests/golden_table
 *
 *	kv f32, kv f16   largest difference of a logit; allowed are 1e-4 and 3e-3
 *	greedy           tokens of the continuation equal to the reference's, with f16 and with f32 pages
 *	same bytes       ways of computing the 160 rows that gave, by memcmp, the bytes of plain C's single prefill: every
 *	                 instruction set of this CPU x {at once, one token at a time, chunks of 7 and 32} on 1, 2 and 3 threads,
 *	                 with f16 and with f32 pages
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/support/files.h"
#include "tests/support/lab.h"

enum { ROWS = 160, VOCAB = 512, GIVEN = 16, GREEDY = 32 };

static const char *const models[] = {"falcon-7b", "falcon-40b", "falcon-11b", "falcon-rw-1b", "falcon3"};

struct golden {
	const int32_t *ids, *prompt, *greedy;
	const float *logits;
};

static float *feed(const struct model *m, const struct kernels *k, uint32_t kv, uint32_t threads, const int32_t *ids,
		   uint32_t chunk)
{
	struct lab l;
	float *out = xcalloc(ROWS * VOCAB, sizeof *out);
	struct forward_options o = {.kv = kv, .max_tokens = ROWS, .max_spans = 1, .max_logits = ROWS, .max_context = ROWS,
		.threads = threads};
	lab_init(&l, m, k, o);
	struct lab_session *s = lab_session_new(&l);
	lab_feed(&l, s, ids, ROWS, chunk, out);
	lab_session_free(s);
	lab_done(&l);
	return out;
}

static double largest_difference(const float *a, const float *b)
{
	double largest = 0;
	for (size_t i = 0; i < ROWS * VOCAB; i++) {
		double d = fabs((double)a[i] - (double)b[i]);
		if (!(d <= largest)) /* a NaN is a difference too */
			largest = isnan(d) ? INFINITY : d;
	}
	return largest;
}

/* Tokens of the greedy continuation that equal the reference's. */
static uint32_t count_greedy(const struct model *m, const struct golden *g, uint32_t kv)
{
	struct lab l;
	struct forward_options o = {.kv = kv,
				    .max_tokens = GIVEN,
				    .max_spans = 1,
				    .max_logits = GIVEN,
				    .max_context = GIVEN + GREEDY,
				    .threads = 2};
	lab_init(&l, m, kernels_select(NULL), o);
	struct lab_session *s = lab_session_new(&l);
	float logits[GIVEN * VOCAB], *last = logits + (GIVEN - 1) * VOCAB;
	uint32_t equal = 0;
	lab_feed(&l, s, g->prompt, GIVEN, GIVEN, logits);
	for (uint32_t i = 0; i < GREEDY; i++) {
		int32_t best = 0;
		for (int32_t id = 1; id < VOCAB; id++)
			if (last[id] > last[best])
				best = id;
		equal += best == g->greedy[i];
		if (i + 1 < GREEDY)
			lab_feed(&l, s, &best, 1, 1, last);
	}
	lab_session_free(s);
	lab_done(&l);
	return equal;
}

/* Ways that give the bytes of `want`, of all ways tried. */
static uint32_t count_same(const struct model *m, uint32_t kv, const int32_t *ids, const float *want, uint32_t *ret_ways)
{
	static const struct { uint32_t chunk, threads; } ways[] = {{ROWS, 2}, {32, 3}, {7, 2}, {1, 1}};
	uint32_t same = 0;
	*ret_ways = 0;
	for (unsigned set = 0; kernels_at(set); set++)
		for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
			if (set == 0 && (kv != PAGES_F32 || ways[i].chunk != 32))
				continue; /* plain C is slow: one way must do, beside the one that it gave `want` by */
			float *got = feed(m, kernels_at(set), kv, ways[i].threads, ids, ways[i].chunk);
			bool equal = memcmp(want, got, ROWS * VOCAB * sizeof *got) == 0;
			if (!equal)
				fprintf(stderr, "other bytes: %s, %s pages, chunks of %u, %u threads\n", kernels_at(set)->name,
					pages_kv_name(kv), ways[i].chunk, ways[i].threads);
			same += equal;
			++*ret_ways;
			free(got);
		}
	return same;
}

static bool run_model(const char *name)
{
	struct buf source = {0}, file = {0};
	buf_printf(&source, "tests/golden/%s", name);
	buf_printf(&file, "tests/golden/%s/golden.safetensors", name);
	uint64_t size;
	size_t golden_size;
	void *image = lab_pack(source.data, &size);
	uint8_t *golden = lab_read(file.data, &golden_size);
	struct golden g = {
		.ids = lab_tensor(golden, golden_size, "ids", ROWS * 4),
		.logits = lab_tensor(golden, golden_size, "logits", ROWS * VOCAB * 4),
		.prompt = lab_tensor(golden, golden_size, "greedy_prompt", GIVEN * 4),
		.greedy = lab_tensor(golden, golden_size, "greedy", GREEDY * 4),
	};
	struct model m;
	struct err e = {0};
	if (model_open(image, size, &m, &e) < 0) {
		fprintf(stderr, "%s: %s\n", name, e.what);
		return false;
	}
	CHECK(m.hp.n_vocab == VOCAB);
	double difference[2];
	uint32_t greedy[2], same[2], ways[2];
	for (uint32_t kv = PAGES_F16; kv <= PAGES_F32; kv++) {
		float *want = feed(&m, kernels_at(0), kv, 1, g.ids, ROWS);
		difference[kv] = largest_difference(want, g.logits);
		greedy[kv] = count_greedy(&m, &g, kv);
		same[kv] = count_same(&m, kv, g.ids, want, &ways[kv]);
		free(want);
	}
	printf("%-13s %10.2e %10.2e   %2u, %2u of %d   %2u of %2u\n", name, difference[PAGES_F32], difference[PAGES_F16],
	       greedy[PAGES_F16], greedy[PAGES_F32], GREEDY, same[0] + same[1], ways[0] + ways[1]);
	fflush(stdout);
	model_close(&m);
	munmap(image, size);
	free(golden);
	buf_done(&source);
	buf_done(&file);
	return difference[PAGES_F32] <= 1e-4 && difference[PAGES_F16] <= 3e-3 && greedy[0] == GREEDY && greedy[1] == GREEDY &&
	       same[0] == ways[0] && same[1] == ways[1];
}

int main(void)
{
	bool good = true;
	kernels_thread_init();
	printf("kernels:");
	for (unsigned i = 0; kernels_at(i); i++)
		printf(" %s", kernels_at(i)->name);
	printf("\n%-13s %10s %10s   %-12s   %s\n", "model", "kv f32", "kv f16", "greedy", "same bytes");
	for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
		good &= run_model(models[i]);
	return good ? 0 : 1;
}
