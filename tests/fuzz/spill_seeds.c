/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spill_seeds [FOLDER]: what tests/fuzz/corpus/spill has in it, made by the code that makes session files, so that the fuzzer begins
 * behind the checksum and the record's checks and not in front of them. Each seed is a sound file but for one change, sealed after it,
 * since a client can compute checksums too, and is parsed here: accepted, or refused with the words that stand beside it.
 *
 * With a folder the seeds are written there. Without one, as `make check` calls it, they are compared with the corpus: a layout that
 * changes makes the corpus one of files that are refused early, and nothing else would say so.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mem.h"
#include "shm/probs.h"
#include "tests/fuzz/spill_shape.h"

enum { TOKENS = 70, TOLD = 6, TOP = 2 };

struct file {
	struct spill_header h;
	struct board_record r;
	int32_t log[CONTEXT + 1];
	struct prob probs[CONTEXT * PROBS_MOST];
	size_t cut;  /* bytes that are left away at the end */
	size_t flip; /* not 0: the bit that is turned in so many-th byte from the end */
};

static void whole(struct file *f) { (void)f; }
static void log_alone(struct file *f) { f->h.n_kv = 0; }
static void cut_head(struct file *f) { f->h.n_kv = 0; f->cut = 600; }
static void cut_page(struct file *f) { f->cut = PAGE / 2; }
static void bad_page(struct file *f) { f->flip = PAGE + SPILL_CHECKSUM + 1; }
static void huge_page(struct file *f) { f->h.page_bytes = UINT64_C(1) << 40; }
static void other_pages(struct file *f) { f->h.fingerprint[3] = 1; }
static void other_model(struct file *f) { f->h.source[3] = 1; }
static void other_version(struct file *f) { f->h.version++; }
static void unknown_feature(struct file *f) { f->h.features = 1u << 7; }
static void too_many_tokens(struct file *f) { f->h.n_tokens = CONTEXT + 1; }
static void computed_beyond(struct file *f) { f->h.n_kv = TOKENS + 1; }
static void unknown_finish(struct file *f) { f->h.finish = BOARD_ERROR + 1; }
static void bad_temperature(struct file *f) { f->r.params.temp = NAN; }
static void bad_name(struct file *f) { f->r.name[0] = '/'; }
static void long_stop(struct file *f) { f->r.stop_length[1] = BOARD_STOP_BYTES + 1; }
static void bias_beyond(struct file *f) { f->r.biases[0].id = VOCAB; }
static void scored(struct file *f) { f->r.flags |= BOARD_SCORE; }
static void token_beyond(struct file *f) { f->log[TOKENS - 1] = VOCAB; }

static void empty_log(struct file *f)
{
	f->h.n_tokens = f->h.n_kv = f->h.first_given = f->h.first_cursor = 0;
	f->r.n_given = f->r.n_from = f->r.n_tokens = 0;
}

static void unfinished(struct file *f)
{
	f->h.unfinished = 1;
	f->h.finish = 0;
}

static void told(struct file *f)
{
	f->h.features = SPILL_PROBS;
	f->r.flags |= board_logprobs(TOP);
	f->r.n_given = TOKENS - TOLD;
	f->h.probs_bytes = probs_bytes(f->r.flags, TOLD);
}

static void told_and_cut(struct file *f)
{
	told(f);
	f->h.n_kv = 0;
	f->cut = 60;
}

static void told_by_no_flag(struct file *f)
{
	told(f);
	f->r.flags &= ~(uint32_t)(BOARD_LOGPROBS | BOARD_TOPS);
}

static void told_too_much(struct file *f)
{
	told(f);
	f->h.probs_bytes = probs_bytes(board_logprobs(BOARD_TOP), CONTEXT) + sizeof(struct prob);
	f->cut = (size_t)f->h.probs_bytes; /* a claim alone */
}

static const struct seed {
	const char *name;
	void (*change)(struct file *f);
	const char *says; /* NULL: it is accepted */
} seeds[] = {
	{"whole", whole, NULL},
	{"log-alone", log_alone, NULL},
	{"empty-log", empty_log, NULL},
	{"unfinished", unfinished, NULL},
	{"log-probabilities", told, NULL},
	{"bad-page", bad_page, NULL},
	{"cut-page", cut_page, NULL},
	{"pages-of-another-arithmetic", other_pages, NULL},
	{"huge-page", huge_page, NULL},
	{"cut-head", cut_head, "cut off"},
	{"another-model", other_model, "another model"},
	{"another-version", other_version, "version 2"},
	{"unknown-feature", unknown_feature, "features 0x80"},
	{"too-many-tokens", too_many_tokens, "a session may have 256"},
	{"computed-beyond-its-tokens", computed_beyond, "71 computed of 70"},
	{"unknown-finish", unknown_finish, "finish 7"},
	{"temperature-that-is-no-number", bad_temperature, "a sampling parameter"},
	{"name-of-a-path", bad_name, "its name"},
	{"stop-string-too-long", long_stop, "stop string 1"},
	{"bias-beyond-the-vocabulary", bias_beyond, "logit bias 0"},
	{"score-run", scored, "flags"},
	{"token-beyond-the-vocabulary", token_beyond, "token 69"},
	{"log-probabilities-cut", told_and_cut, "cut off"},
	{"log-probabilities-that-no-flag-asked-for", told_by_no_flag, "bytes of log-probabilities of 6 tokens"},
	{"log-probabilities-too-many", told_too_much, "bytes of log-probabilities"},
};

static void fill(struct file *f)
{
	*f = (struct file){.h = {.magic = SPILL_MAGIC, .version = SPILL_VERSION, .n_tokens = TOKENS, .n_kv = TOKENS, .page_bytes = PAGE,
				 .salt = 7, .finish = BOARD_LENGTH, .first_given = 40, .first_cursor = 40, .first_seed = 11},
			   .r = {.magic = BOARD_RECORD_MAGIC, .version = BOARD_RECORD_VERSION, .capacity = CONTEXT, .owner = 1000,
				 .generation = 3, .name_length = 5, .name = "tales", .request_length = 3, .request = "r-1", .ready = 1,
				 .run = 1, .flags = BOARD_IGNORE_EOS, .n_given = 40, .n_from = TOKENS, .n_tokens = TOKENS, .n_end = 90,
				 .params = {.temp = 0.8f, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1, .top_k = 40, .seed = 11},
				 .n_stops = 2, .n_biases = 1, .stop_length = {4, 2}, .stops = {"king", "\n\n"}, .biases = {{9, 1}}}};
	for (int32_t i = 0; i <= CONTEXT; i++)
		f->log[i] = i * 7 % VOCAB;
	for (int32_t i = 0; i < TOLD * (1 + TOP); i++)
		f->probs[i] = (struct prob){.id = i, .logprob = -1};
}

static void write_bytes(const struct file *f, struct buf *out)
{
	size_t bytes;
	uint8_t *head = spill_compose(&f->h, &f->r, f->log, f->probs, &bytes), sum[SPILL_CHECKSUM], payload[PAGE];
	spill_seal(head, bytes, f->h.n_kv);
	buf_add(out, head, bytes);
	for (uint32_t page = 0; page * PAGE_TOKENS < f->h.n_kv; page++) {
		memset(payload, (int)page + 1, sizeof payload);
		spill_page_checksum(f->h.salt, page, payload, sizeof payload, sum);
		buf_add(out, sum, sizeof sum);
		buf_add(out, payload, sizeof payload);
	}
	if (f->flip > 0)
		out->data[out->length - f->flip] ^= 1;
	out->length -= f->cut;
	free(head);
}

/* 1 if the parser does not say what it should. */
static int expect(const struct seed *seed, const struct buf *bytes)
{
	struct err e = {0};
	struct spill_head head;
	int r = spill_parse((const uint8_t *)bytes->data, bytes->length, &model, &head, &e);
	if (seed->says == NULL ? r == 0 : r < 0 && strstr(e.what, seed->says) != NULL)
		return 0;
	fprintf(stderr, "%s: expected \"%s\", the parser says \"%s\"\n", seed->name, seed->says ? seed->says : "", e.what);
	return 1;
}

/* 1 if the corpus has something else. */
static int compare(const char *path, const struct buf *bytes)
{
	struct buf there = {0};
	FILE *file = fopen(path, "rb");
	if (file != NULL) {
		there.length = fread(buf_reserve(&there, bytes->length + 1), 1, bytes->length + 1, file);
		fclose(file);
	}
	bool same = there.length == bytes->length && memcmp(there.data, bytes->data, there.length) == 0;
	buf_done(&there);
	if (!same)
		fprintf(stderr, "%s is not what is written today: spill_seeds tests/fuzz/corpus/spill makes it anew\n", path);
	return !same;
}

static int save(const char *path, const struct buf *bytes)
{
	FILE *file = fopen(path, "wb");
	bool good = file != NULL && fwrite(bytes->data, 1, bytes->length, file) == bytes->length;
	if (file == NULL || fclose(file) != 0 || !good) {
		perror(path);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *source = getenv("srcdir");
	struct file *f = xmalloc(sizeof *f);
	int failed = 0;
	for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
		struct buf bytes = {0}, path = {0};
		fill(f);
		seeds[i].change(f);
		write_bytes(f, &bytes);
		failed |= expect(&seeds[i], &bytes);
		if (argc > 1) {
			buf_printf(&path, "%s/%s", argv[1], seeds[i].name);
			failed |= save(path.data, &bytes);
		} else {
			buf_printf(&path, "%s/tests/fuzz/corpus/spill/%s", source ? source : ".", seeds[i].name);
			failed |= compare(path.data, &bytes);
		}
		buf_done(&bytes);
		buf_done(&path);
	}
	free(f);
	return failed;
}
