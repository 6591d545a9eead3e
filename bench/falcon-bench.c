/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the engine alone is: the step of engine/ over segments of its own, in this process, with no daemon, no speculation
 * and no prefix found. The benchmark writes the board as falcond does; what it times is what a session waits for, from the
 * published run to its last token, sampling and publication included. Each figure is the median of some repetitions after
 * one that does not count.
 *
 * Decoding one session can be no faster than its weights are read, and on a shared machine that changes from one moment to the
 * next by more than half. So between the repetitions of decode the same threads read the weights plainly, and each repetition is
 * held against the reads around it.
 *
 * Weights come from falcon-engine --pack beside this program, into a segment that is mapped here and nowhere else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/spawn.h"
#include "bench/plain_read.h"
#include "engine/step.h"
#include "engine/threads.h"
#include "model/forward.h"
#include "shm/segment.h"

#define SET_ID "00000000000000000000000000000000"

struct options {
	const char *model;
	uint32_t threads, prompt, gen, depth, batch, kv, reps, dense;
	bool json;
};

struct bench {
	struct options o;
	const struct kernels *kernels;
	struct segments segments;
	struct step *step;
	uint64_t streamed;       /* bytes of all matrices that a token is multiplied with: not the embedding table */
	uint32_t run;            /* number of the last run published */
};

struct result {
	double prefill, decode; /* tokens a second, all sessions together */
	double read;            /* GB/s (10^9 bytes) that the threads read plainly between the repetitions of decode */
	double share;           /* of that, what a step of decode streams */
};

/* Descriptors as falcond has them: weights sealed and read-only, pages and board sparse --------------------------------- */

/* Passes on what the packer says was wrong. */
static void read_status(int fd, struct err *e)
{
	FILE *f = fdopen(fd, "r");
	char line[1024];
	while (f != NULL && fgets(line, sizeof line, f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "error ", 6) != 0)
			continue;
		char *hint = strchr(line, '\t');
		if (hint != NULL)
			*hint++ = '\0';
		err_set(e, -EINVAL, "%s", line + 6);
		if (hint != NULL)
			err_hint(e, "%s", hint);
	}
	if (f != NULL)
		fclose(f);
}

static int run_packer(const char *model, int image, struct err *e)
{
	char path[PATH_MAX];
	int status[2], code, r = spawn_sibling("falcon-engine", path, sizeof path, e);
	if (r < 0)
		return r;
	if (pipe2(status, O_CLOEXEC) < 0)
		return err_set(e, -errno, "cannot make a pipe: %s", strerror(errno));
	const char *argv[] = {path, "--pack", model, "--set-id", SET_ID, NULL};
	pid_t pid;
	r = spawn(path, argv, (int[]){image, status[1]}, 2, &pid, e);
	close(status[1]);
	if (r < 0) {
		close(status[0]);
		return r;
	}
	e->code = 0;
	read_status(status[0], e);
	if (waitpid(pid, &code, 0) < 0 || !WIFEXITED(code) || WEXITSTATUS(code) != 0)
		return e->code ? e->code : err_set(e, -EIO, "packing %s ended with status %#x", model, (unsigned)code);
	return 0;
}

static int pack(const char *model, struct err *e)
{
	int image = segment_create("weights", 0, e);
	if (image < 0)
		return image;
	int r = run_packer(model, image, e);
	if (r == 0)
		r = segment_seal(image, true, e);
	if (r == 0)
		r = segment_reopen_readonly(image, e);
	close(image);
	return r;
}

static int make_segment(const char *name, const void *header, size_t header_size, uint64_t size, struct err *e)
{
	int fd = segment_create(name, size, e);
	if (fd >= 0 && pwrite(fd, header, header_size, 0) != (ssize_t)header_size) {
		int code = -errno;
		close(fd);
		return err_set(e, code, "cannot write the %s segment: %s", name, strerror(-code));
	}
	return fd;
}

/* Positions that a session needs at most. */
static uint32_t context_of(const struct options *o)
{
	uint32_t prefill = o->prompt ? o->prompt + 1 : 0, decode = o->gen ? o->gen + 1 : 0;
	return o->depth + (prefill > decode ? prefill : decode);
}

static int open_segments(struct bench *b, int weights, struct err *e)
{
	struct weights_header image;
	if (pread(weights, &image, sizeof image, 0) != (ssize_t)sizeof image)
		return err_set(e, -EIO, "cannot read the weights' header");
	uint32_t context = context_of(&b->o);
	if (context > image.hparams.n_context) {
		err_set(e, -EINVAL, "%u positions a session, the model is made for %u", context, image.hparams.n_context);
		return err_hint(e, "choose a smaller -p, -n or -d");
	}
	struct board_header board;
	struct pages_header pages;
	board_plan(b->o.batch, context, image.hparams.n_vocab, &board);
	board.n_used = b->o.batch;
	board_fingerprint(image.fingerprint, b->o.kv, b->o.dense, board.fingerprint);
	board.chunk_ms = UINT32_MAX; /* nobody else waits */
	pages_plan(&image.hparams, b->o.kv, b->o.batch * board.n_table, &pages);
	memcpy(pages.fingerprint, image.fingerprint, sizeof pages.fingerprint);
	int board_fd = make_segment("board", &board, sizeof board, board.size, e);
	int pages_fd = board_fd < 0 ? board_fd : make_segment("pages", &pages, sizeof pages, pages.size, e);
	int r = pages_fd < 0 ? pages_fd : segments_open(weights, pages_fd, board_fd, b->o.dense, &b->segments, e);
	if (board_fd >= 0)
		close(board_fd);
	if (pages_fd >= 0)
		close(pages_fd);
	return r;
}

static uint64_t streamed_bytes(const void *image)
{
	const struct weights_header *header = image;
	const struct weights_tensor *tensor = (const void *)((const char *)image + header->tensors_offset);
	bool tied = weights_find(image, WEIGHTS_HEAD, 0) == NULL;
	uint64_t sum = 0;
	for (uint32_t i = 0; i < header->n_tensors; i++)
		if (!tensor[i].plain && (tied || tensor[i].role != WEIGHTS_EMBED))
			sum += tensor[i].size;
	return sum;
}

static int bench_open(struct bench *b, struct err *e)
{
	b->kernels = kernels_select(getenv("FALCON_ISA"));
	if (b->kernels == NULL)
		return err_set(e, -EINVAL, "FALCON_ISA is \"%s\"", getenv("FALCON_ISA"));
	int weights = pack(b->o.model, e);
	if (weights < 0)
		return weights;
	int r = open_segments(b, weights, e);
	close(weights);
	if (r < 0)
		return r;
	b->streamed = streamed_bytes(b->segments.weights_base);
	struct step_options options = {.threads = b->o.threads, .dense = b->o.dense, .wake = -1};
	return step_new(&b->segments, b->kernels, &options, &b->step, e);
}

/* Runs, written as falcond writes them ---------------------------------------------------------------------------------- */

/* Every session has pages of its own and a log of ids without any meaning; the same ones each time. */
static void fill_slots(struct bench *b)
{
	const struct board *board = &b->segments.board;
	uint32_t n_table = board->header->n_table, seed = 1;
	for (uint32_t slot = 0; slot < b->o.batch; slot++) {
		for (uint32_t i = 0; i < n_table; i++)
			*board_page(board, slot, i) = slot * n_table + i;
		board->words[slot].n_pages = n_table;
		for (uint32_t i = 0; i < board->header->n_context; i++) {
			seed = seed * 1664525 + 1013904223;
			board_log(board, slot)[i] = (int32_t)((uint64_t)seed * b->segments.model.hp.n_vocab >> 32);
		}
	}
}

/*
 * One run in every slot: of n_from given tokens, the first kv_from computed already, n are generated. Returns the seconds it
 * took, or less than 0 if a session failed.
 */
static double run_all(struct bench *b, uint32_t kv_from, uint32_t n_from, uint32_t n)
{
	const struct board *board = &b->segments.board;
	b->run++;
	for (uint32_t slot = 0; slot < b->o.batch; slot++) {
		*board_record(board, slot) = (struct board_record){.version = BOARD_RECORD_VERSION, .flags = BOARD_IGNORE_EOS,
			.owner = slot, .name_length = 1, .name = "b", .n_given = n_from, .n_from = n_from, .n_end = n_from + n,
			.kv_from = kv_from, .params = {.top_p = 1, .repeat_penalty = 1}};
		atomic_store_explicit(&board->words[slot].want, board_word(b->run, BOARD_RUN), memory_order_release);
	}
	uint64_t start = clock_ns();
	step_scan(b->step);
	while (step_run(b->step))
		;
	uint64_t end = clock_ns();
	for (uint32_t slot = 0; slot < b->o.batch; slot++)
		if (board->words[slot].is != board_word(b->run, BOARD_DONE) || board->words[slot].reason != BOARD_LENGTH)
			return -1;
	return (double)(end - start) * 1e-9;
}

static void read_part(void *arg, struct team *team, uint32_t member)
{
	const struct segments *s = arg;
	plain_read(s->weights_base, s->weights_size, member, team->n);
}

/* GB/s of one plain read of the whole image. */
static double read_weights(struct bench *b)
{
	uint64_t start = clock_ns();
	threads_run(step_threads(b->step), read_part, &b->segments);
	return (double)b->segments.weights_size / (double)(clock_ns() - start);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Sorts the values. */
static double median(double *values, uint32_t n)
{
	qsort(values, n, sizeof *values, compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The median rate of o.reps prefills of o.prompt tokens, the run before them not counted; less than 0 if a session failed. */
static double measure_prefill(struct bench *b)
{
	const struct options *o = &b->o;
	double *rates = xcalloc(o->reps, sizeof *rates);
	bool good = run_all(b, o->depth, o->depth + o->prompt, 1) >= 0;
	for (uint32_t i = 0; good && i < o->reps; i++) {
		double seconds = run_all(b, o->depth, o->depth + o->prompt, 1);
		good = seconds > 0;
		rates[i] = o->prompt * (double)o->batch / seconds;
	}
	double rate = median(rates, o->reps);
	free(rates);
	return good ? rate : -1;
}

/* Likewise o.gen tokens decoded, each repetition between two plain reads. */
static bool measure_decode(struct bench *b, struct result *ret)
{
	const struct options *o = &b->o;
	double *rates = xcalloc(3 * (size_t)o->reps, sizeof *rates), *reads = rates + o->reps, *shares = reads + o->reps;
	bool good = run_all(b, o->depth, o->depth + 1, 1) >= 0;
	read_weights(b);
	double before = read_weights(b);
	for (uint32_t i = 0; good && i < o->reps; i++) {
		double seconds = run_all(b, o->depth, o->depth + 1, o->gen), after = read_weights(b);
		good = seconds > 0;
		rates[i] = o->gen * (double)o->batch / seconds;
		reads[i] = (before + after) / 2;
		shares[i] = (double)b->streamed * o->gen / seconds * 1e-9 / reads[i];
		before = after;
	}
	ret->decode = median(rates, o->reps);
	ret->read = median(reads, o->reps);
	ret->share = median(shares, o->reps);
	free(rates);
	return good;
}

static int bench_run(struct bench *b, struct result *ret, struct err *e)
{
	const struct options *o = &b->o;
	*ret = (struct result){0};
	fill_slots(b);
	bool good = o->depth == 0 || run_all(b, 0, o->depth, 0) >= 0;
	if (good && o->prompt > 0)
		good = (ret->prefill = measure_prefill(b)) > 0;
	if (good && o->gen > 0)
		good = measure_decode(b, ret);
	if (!good) {
		err_set(e, -EIO, "its numbers are not finite");
		step_refused(b->step, e);
		return err_prefix(e, "a session failed");
	}
	return 0;
}

/* The command ----------------------------------------------------------------------------------------------------------- */

static json_t *rate_or_null(double rate)
{
	return rate > 0 ? json_real(rate) : json_null();
}

static void print_json(const struct bench *b, const struct result *r)
{
	const struct options *o = &b->o;
	json_t *array = json_pack("[{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o}]", "model", b->segments.model.image->name,
				  "isa", b->kernels->name, "threads", (int)o->threads, "prompt", (int)o->prompt, "gen",
				  (int)o->gen, "depth", (int)o->depth, "batch", (int)o->batch, "prefill_tok_s",
				  rate_or_null(r->prefill), "decode_tok_s", rate_or_null(r->decode), "read_gb_s",
				  rate_or_null(r->read), "read_share", rate_or_null(r->share));
	json_dumpf(array, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(array);
}

static void print_table(const struct bench *b, const struct result *r)
{
	const struct options *o = &b->o;
	char rates[4][32];
	const double values[] = {r->prefill, r->decode, r->read, r->share};
	for (int i = 0; i < 4; i++)
		snprintf(rates[i], sizeof rates[i], values[i] > 0 ? "%.2f" : "-", values[i]);
	printf("%-24s %-9s %7s %5s %7s %6s %6s %6s %14s %14s %10s %6s\n", "model", "isa", "threads", "kv", "prompt", "gen", "depth",
	       "batch", "prefill tok/s", "decode tok/s", "read GB/s", "share");
	printf("%-24s %-9s %7u %5s %7u %6u %6u %6u %14s %14s %10s %6s\n", b->segments.model.image->name, b->kernels->name, o->threads,
	       pages_kv_name(o->kv), o->prompt, o->gen, o->depth, o->batch, rates[0], rates[1], rates[2], rates[3]);
}

static int usage(void)
{
	fputs("usage: falcon-bench -m MODEL [-t THREADS] [-p PROMPT] [-n GEN] [-d DEPTH] [-b BATCH] [-k f32|f16|q8]\n"
	      "                    [-r REPS] [--dense exact|openblas] [--json]\n"
	      "Times the engine alone: PROMPT tokens prefilled, GEN tokens decoded, after DEPTH tokens, in BATCH sessions.\n"
	      "-p 0 or -n 0 leaves that part out. Medians of REPS repetitions. FALCON_ISA holds the kernels to a set.\n"
	      "read: how fast the threads read the weights plainly between the repetitions of decode; share: of that, what a step of\n"
	      "decode streams.\n",
	      stderr);
	return 2;
}

static bool parse_number(const char *text, uint32_t least, uint32_t most, uint32_t *ret)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < least || value > most)
		return false;
	*ret = (uint32_t)value;
	return true;
}

static bool parse_kv(const char *name, uint32_t *ret)
{
	for (uint32_t kv = 0; pages_kv_name(kv) != NULL; kv++)
		if (strcmp(pages_kv_name(kv), name) == 0) {
			*ret = kv;
			return true;
		}
	return false;
}

static bool parse_dense(const char *name, uint32_t *ret)
{
	*ret = strcmp(name, "openblas") == 0 ? FORWARD_OPENBLAS : FORWARD_EXACT;
	return *ret == FORWARD_OPENBLAS || strcmp(name, "exact") == 0;
}

static bool parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {{"json", no_argument, NULL, 'j'}, {"dense", required_argument, NULL, 'D'}, {0}};
	enum { MOST = 1 << 20 };
	bool good = true;
	for (int c; good && (c = getopt_long(argc, argv, "m:t:p:n:d:b:k:r:", names, NULL)) != -1;)
		switch (c) {
		case 'm': o->model = optarg; break;
		case 't': good = parse_number(optarg, 1, THREADS_MAX, &o->threads); break;
		case 'p': good = parse_number(optarg, 0, MOST, &o->prompt); break;
		case 'n': good = parse_number(optarg, 0, MOST, &o->gen); break;
		case 'd': good = parse_number(optarg, 0, MOST, &o->depth); break;
		case 'b': good = parse_number(optarg, 1, BOARD_BATCH, &o->batch); break;
		case 'k': good = parse_kv(optarg, &o->kv); break;
		case 'r': good = parse_number(optarg, 1, 1000, &o->reps); break;
		case 'D': good = parse_dense(optarg, &o->dense); break;
		case 'j': o->json = true; break;
		default: good = false;
		}
	return good && optind == argc && o->model != NULL && o->prompt + o->gen > 0;
}

int main(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct bench b = {.o = {.threads = cpus > THREADS_MAX ? THREADS_MAX : cpus > 0 ? (uint32_t)cpus : 1, .prompt = 512,
		.gen = 128, .batch = 1, .kv = PAGES_F16, .reps = 5}};
	struct result result;
	struct err e = {0};
	if (!parse(argc, argv, &b.o))
		return usage();
	if (bench_open(&b, &e) < 0 || bench_run(&b, &result, &e) < 0) {
		fprintf(stderr, "falcon-bench: %s%s%s\n", e.what, e.hint[0] ? "; " : "", e.hint);
		return 1;
	}
	(b.o.json ? print_json : print_table)(&b, &result);
	step_free(b.step);
	segments_close(&b.segments);
	return 0;
}
