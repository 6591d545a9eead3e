/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bundled model: what it says, how well it predicts a text that it has not seen, and that its bytes depend on nothing but
 * the session. Reference figures come from Transformers in float32 (tests/golden/README.md).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/mem.h"
#include "model/sampler.h"
#include "tests/support/files.h"
#include "tests/support/lab.h"
#include "text/tokenizer.h"

enum { TOKENS = 1430, OTHERS = 7, CONTEXT = 1440 };
#define QUANTISED "models/falcon-tales.Q8_0.gguf"
#define BFLOAT16 "tests/golden/falcon-tales"

struct packed {
	void *image;
	uint64_t size;
	struct model model;
	int32_t ids[TOKENS]; /* held-out.txt */
};

static void tokenize(struct packed *p)
{
	const struct weights_header *h = p->image;
	struct tokenizer *t = NULL;
	struct ids list = {0};
	struct err e = {0};
	size_t length;
	char *text = (char *)lab_read(BFLOAT16 "/held-out.txt", &length);
	assert_int_equal(tokenizer_new((uint8_t *)p->image + h->tokenizer_offset, h->tokenizer_size, &t, &e), 0);
	assert_int_equal(tokenizer_encode(t, text, length, false, &list, &e), 0);
	assert_int_equal(list.length, TOKENS);
	memcpy(p->ids, list.data, sizeof p->ids);
	ids_done(&list);
	tokenizer_free(t);
	free(text);
}

static void open_packed(struct packed *p, const char *source)
{
	struct err e = {0};
	p->image = lab_pack(source, &p->size);
	if (model_open(p->image, p->size, &p->model, &e) < 0)
		fail_msg("%s: %s", source, e.what);
	tokenize(p);
}

static void close_packed(struct packed *p)
{
	model_close(&p->model);
	munmap(p->image, p->size);
}

static struct forward_options options(uint32_t kv, uint32_t threads)
{
	return (struct forward_options){.kv = kv, .max_tokens = 512, .max_spans = OTHERS + 1, .max_logits = 512,
		.max_context = CONTEXT, .threads = threads};
}

static float *feed(const struct packed *p, const struct kernels *k, uint32_t kv, uint32_t threads, uint32_t chunk, uint32_t n)
{
	struct lab l;
	float *out = xcalloc((size_t)n * p->model.hp.n_vocab, sizeof *out);
	lab_init(&l, &p->model, k, options(kv, threads));
	struct lab_session *s = lab_session_new(&l);
	lab_feed(&l, s, p->ids, n, chunk, out);
	lab_session_free(s);
	lab_done(&l);
	return out;
}

static double nll(const struct packed *p, const float *logits)
{
	uint32_t vocab = p->model.hp.n_vocab;
	double sum = 0;
	for (uint32_t i = 0; i + 1 < TOKENS; i++)
		sum -= (double)sampler_logprob(kernels_select(NULL), logits + (size_t)i * vocab, vocab, p->ids[i + 1]);
	return sum;
}

static void expect_nll(const char *source, double reference, double tolerance)
{
	struct packed p;
	open_packed(&p, source);
	float *logits = feed(&p, kernels_select(NULL), PAGES_F16, 2, 512, TOKENS);
	double got = nll(&p, logits), ratio = exp((got - reference) / (TOKENS - 1));
	print_message("%s: nll %.3f, reference %.3f, perplexity x %.6f\n", source, got, reference, ratio);
	assert_true(fabs(ratio - 1) <= tolerance);
	free(logits);
	close_packed(&p);
}

static void perplexity_in_bfloat16_is_the_reference_s(void **state)
{
	(void)state;
	expect_nll(BFLOAT16, 4971.675, 0.001);
}

static void perplexity_in_q8_0_is_the_reference_s(void **state)
{
	(void)state;
	expect_nll(QUANTISED, 4972.212, 0.005);
}

static void it_goes_on_as_the_reference_does(void **state)
{
	(void)state;
	static const int32_t prompt[4] = {2053, 729, 270, 512}, want[10] = {444, 980, 270, 429, 392, 343, 270, 720, 25, 210};
	struct packed p;
	struct lab l;
	open_packed(&p, QUANTISED);
	uint32_t vocab = p.model.hp.n_vocab;
	float *logits = xcalloc(4 * (size_t)vocab, sizeof *logits), *last = logits + 3 * (size_t)vocab;
	lab_init(&l, &p.model, kernels_select(NULL), options(PAGES_F16, 2));
	struct lab_session *s = lab_session_new(&l);
	struct sampler *sampler = sampler_new(vocab);
	struct board_record greedy = {.params = {.temp = 0, .top_p = 1, .repeat_penalty = 1}};
	lab_feed(&l, s, prompt, 4, 4, logits);
	for (int i = 0; i < 10; i++) {
		int32_t id = sampler_draw(sampler, kernels_select(NULL), last, &greedy, NULL, 0);
		assert_int_equal(id, want[i]);
		lab_feed(&l, s, &id, 1, 1, last);
	}
	sampler_free(sampler);
	lab_session_free(s);
	lab_done(&l);
	free(logits);
	close_packed(&p);
}

static void expect_same(const char *how, const struct packed *p, const float *want, float *got, uint32_t n)
{
	size_t bytes = (size_t)n * p->model.hp.n_vocab * sizeof *got;
	if (memcmp(want, got, bytes))
		fail_msg("other bytes: %s", how);
	free(got);
}

/* The session's prompt in pieces of `chunk`, beside seven others that are at other places of the same text. */
static float *feed_beside_others(const struct packed *p, uint32_t threads, uint32_t chunk, uint32_t n)
{
	struct lab l;
	uint32_t vocab = p->model.hp.n_vocab;
	float *out = xcalloc((size_t)n * vocab, sizeof *out);
	lab_init(&l, &p->model, kernels_select(NULL), options(PAGES_F16, threads));
	struct lab_session *all[OTHERS + 1];
	for (uint32_t i = 0; i <= OTHERS; i++)
		all[i] = lab_session_new(&l);
	struct lab_session *mine = all[3];
	while (mine->n_kv < n) {
		struct forward_span spans[OTHERS + 1];
		uint32_t take[OTHERS + 1];
		for (uint32_t i = 0; i <= OTHERS; i++) {
			take[i] = all[i] == mine ? (n - mine->n_kv < chunk ? n - mine->n_kv : chunk) : 1 + i % 3;
			const int32_t *ids = p->ids + all[i]->n_kv + (all[i] == mine ? 0 : 50 * i);
			spans[i] = lab_span(all[i], ids, take[i], all[i] == mine ? FORWARD_ALL : FORWARD_NONE,
					    out + (size_t)mine->n_kv * vocab);
		}
		lab_run(&l, spans, OTHERS + 1);
		for (uint32_t i = 0; i <= OTHERS; i++)
			all[i]->n_kv += take[i];
	}
	for (uint32_t i = 0; i <= OTHERS; i++)
		lab_session_free(all[i]);
	lab_done(&l);
	return out;
}

/*
 * Checksums (XXH3-64) of the logits below, of KERNELS_ARITHMETIC as it stands: that they come out on every machine that runs
 * this test is what lets a session move between them. A change that moves a bit raises the version and renews both.
 */
enum { CHECKSUMS_OF = 1 };
static const uint64_t checksums[2] = {UINT64_C(0x25eb47ea023c084e), UINT64_C(0xb4eb70786a93f99a)};

static void its_bytes_depend_on_the_session_alone(void **state)
{
	(void)state;
	enum { N = 64 };
	static const char *const sources[] = {QUANTISED, BFLOAT16};
	assert_int_equal(KERNELS_ARITHMETIC, CHECKSUMS_OF);
	for (int i = 0; i < 2; i++) {
		struct packed p;
		open_packed(&p, sources[i]);
		float *want = feed(&p, kernels_at(0), PAGES_F16, 2, N, N);
		uint64_t checksum = hash64(want, (size_t)N * p.model.hp.n_vocab * sizeof *want);
		if (checksum != checksums[i])
			fail_msg("%s: the logits' checksum is %#llx", sources[i], (unsigned long long)checksum);
		for (unsigned set = 1; kernels_at(set); set++)
			expect_same(kernels_at(set)->name, &p, want, feed(&p, kernels_at(set), PAGES_F16, 1, N, N), N);
		const struct kernels *best = kernels_select(NULL);
		expect_same("one at a time", &p, want, feed(&p, best, PAGES_F16, 1, 1, N), N);
		expect_same("chunks of 7, 2 threads", &p, want, feed(&p, best, PAGES_F16, 2, 7, N), N);
		expect_same("chunks of 32, 3 threads", &p, want, feed(&p, best, PAGES_F16, 3, 32, N), N);
		expect_same("beside others", &p, want, feed_beside_others(&p, 1, 7, N), N);
		expect_same("beside others, 3 threads", &p, want, feed_beside_others(&p, 3, 32, N), N);
		free(want);
		close_packed(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_on_as_the_reference_does),
		cmocka_unit_test(its_bytes_depend_on_the_session_alone),
		cmocka_unit_test(perplexity_in_bfloat16_is_the_reference_s),
		cmocka_unit_test(perplexity_in_q8_0_is_the_reference_s),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
