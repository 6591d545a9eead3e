/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promise of docs/ARITHMETIC.md, in bytes: the logits of a session's prompt are those that plain C gives it alone, in one
 * piece, on one thread, whatever of the following changes.
 *
 *	others           0, 1, 7 or 31 other sessions in the batch
 *	chunk            the prompt in pieces of 1, 7 or 32 tokens, or at once (up to 512)
 *	instruction set  every one that the CPU has
 *	threads          1, 2 or 3
 *	arrival          the others there from the start, or joining and leaving while it runs; the prompt's first pages
 *	                 its own, or filled by another session on another instruction set
 *
 * All combinations would be several hundred a model. Circumstances that spoil each other do so in pairs, so 16 ways are taken,
 * rows of the orthogonal array of strength 2 over the field of four elements: any two values of two circumstances meet in one
 * of them. tests/unit/daemon_invariance_test.c asks the same of whole programs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/support/files.h"
#include "tests/support/lab.h"

enum {
	WAYS = 16,
	OTHERS = 31,
	LIFE = 24,  /* tokens after which another session leaves */
	GULP = 3,   /* most tokens of another session in one batch */
	POOL = 1024 /* token ids to take from */
};

/*
 * What is computed: a model of the source tree as it is, or random weights of some types in its shape, with fewer layers and a
 * smaller MLP, because plain C takes its time.
 */
struct subject {
	const char *name, *source;
	uint32_t n;        /* tokens of the prompt */
	uint32_t kv;       /* enum pages_kv */
	uint32_t n_layer;  /* of random weights; 0: the source's own */
	uint32_t types[4]; /* of random weights: the matrix roles take them in turn */
};

#define THE "the same bytes in all ways: "
static const struct subject subjects[] = {
	{THE "the bundled model in Q8_0", "models/falcon-tales.Q8_0.gguf", 48, PAGES_F16, 0, {0}},
	{THE "7B's block in BF16", "tests/golden/falcon-7b", 48, PAGES_F32, 0, {0}},
	{THE "7B's block in Q4_0, two spans of attention", "tests/golden/falcon-7b", 520, PAGES_F16, 1,
	 {WEIGHTS_Q4_0, WEIGHTS_Q4_0, WEIGHTS_Q4_0, WEIGHTS_Q4_0}},
	{THE "RW's block, dense", "tests/golden/falcon-rw-1b", 48, PAGES_F16, 1,
	 {WEIGHTS_BF16, WEIGHTS_F16, WEIGHTS_BF16, WEIGHTS_F32}},
	{THE "40B's block in mixed types, q8 pages", "tests/golden/falcon-40b", 48, PAGES_Q8, 1,
	 {WEIGHTS_Q5_0, WEIGHTS_Q4_1, WEIGHTS_Q8_0, WEIGHTS_Q5_1}},
	{THE "Falcon3's block in mixed types", "tests/golden/falcon3", 48, PAGES_F16, 2,
	 {WEIGHTS_Q4_1, WEIGHTS_Q5_1, WEIGHTS_F16, WEIGHTS_Q5_0}},
};

/* A model in memory. */
struct fixture {
	const struct subject *subject;
	void *packed;
	uint64_t packed_size;
	struct lab_image image;
	struct model model;
	int32_t ids[POOL];
};

static void open_fixture(struct fixture *x, const struct subject *s)
{
	struct err e = {0};
	*x = (struct fixture){.subject = s};
	x->packed = lab_pack(s->source, &x->packed_size);
	if (s->n_layer) {
		struct weights_hparams hp = ((const struct weights_header *)x->packed)->hparams;
		uint32_t types[WEIGHTS_ROLES];
		hp.n_layer = s->n_layer;
		hp.n_ff /= 4;
		hp.n_context = s->n + LIFE; /* a short rotary table */
		for (uint32_t role = 0; role < WEIGHTS_ROLES; role++)
			types[role] = s->types[role % 4];
		x->image = lab_image_new(&hp, types, 11);
	}
	int r = x->image.data ? model_open(x->image.data, x->image.size, &x->model, &e)
			      : model_open(x->packed, x->packed_size, &x->model, &e);
	if (r < 0)
		fail_msg("%s: %s", s->name, e.what);
	uint32_t seed = 5;
	for (uint32_t i = 0; i < POOL; i++) {
		seed = seed * 1664525u + 1013904223u;
		x->ids[i] = (int32_t)((seed >> 8) % x->model.hp.n_vocab);
	}
}

static void close_fixture(struct fixture *x)
{
	model_close(&x->model);
	lab_image_free(&x->image);
	munmap(x->packed, x->packed_size);
}

struct way {
	unsigned set; /* of kernels_at() */
	uint32_t others, chunk, threads;
	bool joining; /* the others come one by one while the session runs */
	bool cached;  /* the prompt's first pages are another session's */
};

enum { FACTORS = 5 };

/* Row i of the array: + is xor, twice and thrice are the products by the field's other two elements. */
static void levels(uint32_t i, uint32_t level[FACTORS])
{
	static const uint32_t twice[4] = {0, 2, 3, 1}, thrice[4] = {0, 3, 1, 2};
	uint32_t a = i / 4, b = i % 4;
	level[0] = a;
	level[1] = b;
	level[2] = a ^ b;
	level[3] = a ^ twice[b];
	level[4] = a ^ thrice[b];
}

static struct way way_at(uint32_t i)
{
	static const uint32_t others[4] = {0, 1, 7, OTHERS}, chunks[4] = {1, 7, 32, 512}, threads[4] = {1, 2, 3, 2};
	uint32_t level[FACTORS];
	unsigned sets = 0;
	levels(i, level);
	while (kernels_at(sets))
		sets++;
	return (struct way){.others = others[level[0]], .chunk = chunks[level[1]],
			    .set = level[2] < sets ? level[2] : sets - 1, .threads = threads[level[3]],
			    .joining = level[4] & 1, .cached = level[4] & 2};
}

static struct forward_options options(const struct fixture *x, uint32_t threads)
{
	uint32_t n = x->subject->n;
	return (struct forward_options){.kv = x->subject->kv, .max_tokens = n + OTHERS * GULP, .max_spans = OTHERS + 1,
		.max_logits = n + OTHERS, .max_context = n + LIFE, .threads = threads};
}

/* Some other conversation: tokens from a place of its own, a few in each batch from its arrival to its end. */
struct other {
	struct lab_session *session;
	const int32_t *ids;
	uint32_t arrives, left; /* a step; tokens */
};

struct batch {
	struct forward_span spans[OTHERS + 1];
	uint32_t n;
	float *spare; /* a row of logits for each of the others */
};

static void add_other(struct batch *b, struct other *o, uint32_t number, uint32_t step, uint32_t vocab)
{
	uint32_t take = 1 + (number + step) % GULP;
	take = take < o->left ? take : o->left;
	if (step < o->arrives || take == 0)
		return;
	struct lab_session *s = o->session;
	b->spans[b->n++] = lab_span(s, o->ids + s->n_kv, take, number % 4 ? FORWARD_NONE : FORWARD_LAST,
				    b->spare + (size_t)number * vocab);
	s->n_kv += take;
	o->left -= take;
}

/* Batches until the session has its prompt; its place among the others moves. */
static void run_batches(struct lab *l, const struct fixture *x, const struct way *w, struct lab_session *mine,
			struct other others[OTHERS], float *out)
{
	uint32_t vocab = x->model.hp.n_vocab, n = x->subject->n;
	struct batch b = {.spare = xcalloc((size_t)OTHERS * vocab, sizeof(float))};
	for (uint32_t step = 0; mine->n_kv < n; step++) {
		uint32_t take = n - mine->n_kv < w->chunk ? n - mine->n_kv : w->chunk;
		b.n = 0;
		for (uint32_t j = 0; j <= w->others; j++) {
			if (j == step % (w->others + 1))
				b.spans[b.n++] = lab_span(mine, x->ids + mine->n_kv, take, FORWARD_ALL,
							  out + (size_t)mine->n_kv * vocab);
			if (j < w->others)
				add_other(&b, &others[j], j, step, vocab);
		}
		lab_run(l, b.spans, b.n);
		for (uint32_t j = 0; j < b.n; j++)
			CHECK(!b.spans[j].failed);
		mine->n_kv += take;
	}
	free(b.spare);
}

/* A session that has computed the first pages of the prompt by a neighbouring instruction set; their logits go to out too. */
static struct lab_session *make_donor(const struct fixture *x, const struct way *w, uint32_t tokens, float *out)
{
	const struct kernels *next = kernels_at(w->set + 1), *before = kernels_at(w->set > 0 ? w->set - 1 : 0);
	struct lab l;
	lab_init(&l, &x->model, next ? next : before, options(x, w->threads));
	struct lab_session *s = lab_session_new(&l);
	lab_feed(&l, s, x->ids, tokens, tokens, out);
	lab_done(&l);
	return s;
}

/* Logits of every position of the prompt. */
static float *compute(const struct fixture *x, const struct way *w)
{
	uint32_t n = x->subject->n, pages = w->cached ? n * 2 / 3 / PAGE_TOKENS : 0;
	uint32_t steps = (n - pages * PAGE_TOKENS + w->chunk - 1) / w->chunk;
	float *out = xcalloc((size_t)n * x->model.hp.n_vocab, sizeof *out);
	struct lab l;
	struct other others[OTHERS];
	lab_init(&l, &x->model, kernels_at(w->set), options(x, w->threads));
	struct lab_session *mine = lab_session_new(&l), *donor = NULL;
	for (uint32_t j = 0; j < w->others; j++)
		others[j] = (struct other){.session = lab_session_new(&l), .ids = x->ids + 13 * j, .left = LIFE,
					   .arrives = w->joining ? j * steps / w->others : 0};
	if (pages) {
		donor = make_donor(x, w, pages * PAGE_TOKENS, out);
		lab_borrow(mine, donor, pages);
		if (w->others) /* one of the others reads the same pages */
			lab_borrow(others[0].session, donor, pages);
	}
	run_batches(&l, x, w, mine, others, out);
	for (uint32_t j = 0; j < w->others; j++)
		lab_session_free(others[j].session);
	lab_session_free(mine);
	if (donor)
		lab_session_free(donor);
	lab_done(&l);
	return out;
}

static void compare(const struct fixture *x, const struct way *w, const float *want, const float *got)
{
	uint32_t vocab = x->model.hp.n_vocab;
	for (size_t i = 0; i < (size_t)x->subject->n * vocab; i++)
		if (memcmp(&want[i], &got[i], sizeof *got) != 0)
			fail_msg("%s, %s, %u threads, chunks of %u, %u others%s%s: logit %zu of row %zu is %a, not %a",
				 x->subject->name, kernels_at(w->set)->name, w->threads, w->chunk, w->others,
				 w->joining ? " that join and leave" : "", w->cached ? ", borrowed pages" : "", i % vocab,
				 i / vocab, (double)got[i], (double)want[i]);
}

static void any_two_circumstances_meet(void **state)
{
	(void)state;
	for (int f = 0; f < FACTORS; f++)
		for (int g = 0; g < f; g++) {
			uint32_t met = 0, level[FACTORS];
			for (uint32_t i = 0; i < WAYS; i++) {
				levels(i, level);
				met |= 1u << (level[f] * 4 + level[g]);
			}
			assert_int_equal(met, 0xffff);
		}
}

static void logits_depend_on_the_session_alone(void **state)
{
	const struct subject *s = *state;
	const struct way plain = {.set = 0, .threads = 1, .chunk = 512 + PAGE_TOKENS};
	struct fixture x;
	open_fixture(&x, s);
	float *want = compute(&x, &plain);
	for (uint32_t i = 0; i < WAYS; i++) {
		struct way w = way_at(i);
		float *got = compute(&x, &w);
		compare(&x, &w, want, got);
		free(got);
	}
	free(want);
	close_fixture(&x);
}

int main(void)
{
	enum { SUBJECTS = sizeof subjects / sizeof subjects[0] };
	struct CMUnitTest tests[SUBJECTS + 1] = {cmocka_unit_test(any_two_circumstances_meet)};
	for (int i = 0; i < SUBJECTS; i++)
		tests[i + 1] = (struct CMUnitTest){.name = subjects[i].name, .test_func = logits_depend_on_the_session_alone,
						   .initial_state = (void *)(uintptr_t)&subjects[i]};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
