/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/step.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hooks.h"
#include "engine/pace.h"
#include "engine/rows.h"
#include "engine/schedule.h"
#include "engine/slots.h"
#include "engine/threads.h"
#include "model/forward.h"
#include "model/sampler.h"
#include "shm/probs.h"

enum {
	STEP_TOKENS = 256, /* of one step: enough to read the weights from memory seldom, few enough to keep buffers small */
	STEP_ROWS = STEP_TOKENS, /* rows of logits */
};

/* What a drafted row counts as at least, in tokens: where measured times say that it costs nothing, they err. */
static const float DRAFT_LEAST = 1.0f / 32;

/* One row of logits and what is made of it: the next token, or what the model says of the next position. */
struct row {
	struct session *session;
	uint32_t span;     /* of the batch */
	uint32_t position; /* the row is what follows this position */
	float *logits;
	int32_t token;     /* drawn */
	float logprob;     /* scored: ln p(token at position + 1), 0 after the last */
	struct prob *probs; /* the drawn token's entry, or NULL: nobody asked */
};

struct step {
	const struct segments *segments;
	const struct kernels *kernels;
	struct tokenizer *tokenizer;
	struct slots slots;
	struct schedule schedule;
	struct threads *threads;
	struct forward *forward;
	struct sampler **samplers; /* one a thread */
	float *logits;             /* [STEP_ROWS][n_vocab] */
	float *hidden;             /* [STEP_TOKENS][n_embd] of sessions that want hidden states; n_hidden in this step */
	uint32_t n_hidden;
	int wake;

	struct schedule_item *items; /* [n_items], of sessions[] */
	struct session **sessions;   /* those that could be computed now */
	uint32_t n_items, capacity;

	struct forward_span spans[BOARD_BATCH];
	struct session *batch[BOARD_BATCH]; /* whose span it is */
	struct draft { uint32_t n; float cost; } drafts[BOARD_BATCH]; /* tokens of span i that are drafted, and their price in tokens */
	uint32_t first_row[BOARD_BATCH + 1]; /* rows of span i: [first_row[i], first_row[i + 1]) */
	uint32_t n_spans;
	struct row rows[STEP_ROWS];
	uint32_t n_rows;
	struct prob probs[STEP_ROWS * PROBS_MOST]; /* [n_probs] entries, a span's one after the other */
	uint32_t n_probs;
};

static int open_tokenizer(struct step *s, struct err *e)
{
	const struct weights_header *h = s->segments->model.image;
	const uint8_t *blob = (const uint8_t *)(const void *)h + h->tokenizer_offset;
	if (((const struct weights_tokenizer *)(const void *)blob)->pre == WEIGHTS_PRE_NONE)
		return 0;
	return tokenizer_new_words(blob, h->tokenizer_size, &s->tokenizer, e);
}

int step_new(const struct segments *segments, const struct kernels *kernels, const struct step_options *o, struct step **ret,
	     struct err *e)
{
	struct step *s = xcalloc(1, sizeof *s);
	s->segments = segments;
	s->kernels = kernels;
	s->wake = o->wake;
	struct forward_options options = {.kv = segments->arena.kv, .max_tokens = STEP_TOKENS, .max_spans = BOARD_BATCH,
		.max_logits = STEP_ROWS, .max_context = segments->board.n_context, .threads = o->threads,
		.dense = o->dense};
	int r = open_tokenizer(s, e);
	if (r == 0)
		r = threads_new(o->threads, &s->threads, e);
	if (r == 0)
		r = forward_new(&segments->model, kernels, &options, &s->forward, e);
	if (r < 0) {
		step_free(s);
		return r;
	}
	uint32_t n_vocab = segments->model.hp.n_vocab;
	s->samplers = xcalloc(o->threads, sizeof *s->samplers);
	for (uint32_t i = 0; i < o->threads; i++)
		s->samplers[i] = sampler_new(n_vocab);
	s->logits = xcalloc(STEP_ROWS, n_vocab * sizeof *s->logits); /* rows that are never used stay untouched */
	s->hidden = xcalloc(STEP_TOKENS, segments->model.hp.n_embd * sizeof *s->hidden);
	slots_init(&s->slots, segments, s->tokenizer);
	schedule_init(&s->schedule, &segments->model.hp, segments->weights_size);
	struct board_header *h = segments->board.header;
	h->step += h->step & 1; /* an engine that died within a step left it odd */
	stopping_place("engine.start.step");
	*ret = s;
	return 0;
}

void step_free(struct step *s)
{
	if (s == NULL)
		return;
	slots_done(&s->slots);
	schedule_done(&s->schedule);
	for (uint32_t i = 0; s->samplers != NULL && i < threads_count(s->threads); i++)
		sampler_free(s->samplers[i]);
	free(s->samplers);
	free(s->logits);
	free(s->hidden);
	free(s->items);
	free(s->sessions);
	forward_free(s->forward);
	threads_free(s->threads);
	tokenizer_free(s->tokenizer);
	free(s);
}

/* Writes falcond's eventfd if something was published. A full counter is as good as one more. */
static void tell(struct step *s)
{
	const uint64_t one = 1;
	if (s->slots.told && s->wake >= 0)
		CHECK(write(s->wake, &one, sizeof one) == sizeof one || errno == EAGAIN || errno == EINTR);
	s->slots.told = false;
}

void step_scan(struct step *s)
{
	slots_scan(&s->slots);
	tell(s);
}

struct threads *step_threads(const struct step *s)
{
	return s->threads;
}

bool step_refused(struct step *s, struct err *ret)
{
	if (s->slots.refused.code == 0)
		return false;
	*ret = s->slots.refused;
	s->slots.refused.code = 0;
	return true;
}

static uint32_t count_scoring(const struct slots *s)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->n_running; i++)
		n += (s->running[i]->record.flags & BOARD_SCORE) != 0;
	return n;
}

static void grow_items(struct step *s)
{
	if (s->capacity >= s->slots.n_running)
		return;
	s->capacity = s->slots.capacity;
	s->items = xreallocarray(s->items, s->capacity, sizeof *s->items);
	s->sessions = xreallocarray(s->sessions, s->capacity, sizeof *s->sessions);
}

/* Whether falcond lets the session be computed now: while it looks for one that ends the engine, only those on trial. */
static bool admitted(const struct step *s, const struct session *o)
{
	const struct board *b = &s->segments->board;
	uint32_t trial = atomic_load_explicit(&b->header->trial, memory_order_acquire);
	return trial == 0 || atomic_load_explicit(&b->words[o->slot].trial, memory_order_relaxed) == trial;
}

/* How many positions of a score run one entry of the rows ring surely holds. */
static uint32_t positions_in_entry(const struct step *s, const struct session *o)
{
	return o->record.flags & BOARD_HIDDEN ? rows_of_hidden(&s->segments->board, s->segments->model.hp.n_embd) : 1;
}

/* Lists the sessions that can go on now. Score runs share the room of the rows ring. */
static void gather(struct step *s)
{
	struct slots *slots = &s->slots;
	uint32_t scoring = count_scoring(slots), room = rows_free(&s->segments->board);
	grow_items(s);
	s->n_items = 0;
	for (uint32_t i = slots->n_running; i-- > 0;) { /* downwards: an ended run's place is taken by the last */
		struct session *o = slots->running[i];
		bool score = o->record.flags & BOARD_SCORE;
		uint32_t limit;
		if (!admitted(s, o) || !slots_limit(slots, o, &limit))
			continue;
		uint32_t ready = limit > o->n_kv ? limit - o->n_kv : 0;
		if (score) {
			uint32_t part = (room + scoring - 1) / scoring, in_entry = positions_in_entry(s, o);
			scoring--;
			ready = ready < part * in_entry ? ready : part * in_entry;
			room -= (ready + in_entry - 1) / in_entry;
		}
		if (ready == 0)
			continue;
		bool decode = slots_decoding(o);
		s->sessions[s->n_items] = o;
		s->items[s->n_items++] = (struct schedule_item){.owner = o->record.owner, .ready = ready, .first = o->n_kv,
			.decode = decode, .batch = o->record.priority == BOARD_BATCHED,
			.rank = decode ? o->served : o->n_tokens - o->n_kv};
	}
}

/* Rows of logits that a session needs of a span that ends at `end`, its last tokens drafted. */
static uint32_t rows_wanted(const struct session *o, uint32_t end, uint32_t drafted)
{
	if (o->record.flags & BOARD_HIDDEN)
		return FORWARD_HIDDEN;
	if (drafted > 0 || o->record.flags & BOARD_SCORE)
		return FORWARD_ALL;
	return end == o->n_tokens && o->n_tokens < o->record.n_end ? FORWARD_LAST : FORWARD_NONE;
}

static void add_span(struct step *s, struct session *o, uint32_t n, struct draft draft)
{
	uint32_t first = o->n_kv, wanted = rows_wanted(o, first + n, draft.n), n_vocab = s->segments->model.hp.n_vocab;
	n += draft.n;
	uint32_t n_rows = wanted == FORWARD_ALL ? n : wanted == FORWARD_LAST ? 1 : 0;
	CHECK(s->n_spans < BOARD_BATCH && s->n_rows + n_rows <= STEP_ROWS);
	uint32_t per_token = probs_per_token(o->record.flags);
	float *logits = s->logits + (size_t)s->n_rows * n_vocab;
	for (uint32_t i = 0; i < n_rows; i++, s->n_probs += per_token)
		s->rows[s->n_rows++] = (struct row){.session = o, .span = s->n_spans, .position = first + n - n_rows + i,
			.logits = logits + (size_t)i * n_vocab, .probs = per_token ? s->probs + s->n_probs : NULL};
	float *hidden = wanted == FORWARD_HIDDEN ? s->hidden + (size_t)s->n_hidden * s->segments->model.hp.n_embd : NULL;
	s->n_hidden += hidden ? n : 0;
	s->batch[s->n_spans] = o;
	s->drafts[s->n_spans] = draft;
	s->spans[s->n_spans++] = (struct forward_span){.ids = board_log(&s->segments->board, o->slot) + first, .first = first,
		.n = n, .pages = o->pages, .logits = wanted, .logits_out = logits, .hidden_out = hidden};
	s->first_row[s->n_spans] = s->n_rows;
}

/* What the step may still be lengthened by for drafts. */
struct drafting {
	uint32_t mode;   /* enum board_speculate */
	uint32_t tokens;
	float ns;        /* time that is left for them: of chunk_ms, unless a session is alone */
	float token_ns;  /* what a session's next token costs without drafts */
};

static struct drafting plan_drafts(const struct step *s, float chunk_ns)
{
	const struct schedule *c = &s->schedule;
	struct drafting d = {.mode = s->segments->board.header->speculate, .tokens = STEP_TOKENS - c->decoding - c->prompt};
	if (c->decoding > 0)
		d.token_ns = pace_ns(&c->pace, c->rows) / (float)c->decoding;
	if (s->n_items == 1)
		d.ns = SPECULATE_CREDIT * d.token_ns;
	else if (c->prompt == 0)
		d.ns = chunk_ns;
	return d;
}

/* How many tokens session o can pay for, at `row` rows a token, and the step has time for. */
static uint32_t draft_most(const struct step *s, const struct session *o, const struct drafting *d, float row)
{
	if (d->mode == BOARD_SPECULATE_ALWAYS)
		return SPECULATE_MOST;
	float budget = o->speculate.credit * d->token_ns;
	budget = budget < d->ns ? budget : d->ns;
	float fit = budget > 0 ? pace_room(&s->schedule.pace, s->schedule.rows, budget) / row : 0;
	return fit < (float)o->speculate.length ? (uint32_t)fit : o->speculate.length;
}

/* Drafts for session o, which generates, and adds that to the step's rows. */
static struct draft draft(struct step *s, struct session *o, struct drafting *d)
{
	const struct pace *pace = &s->schedule.pace;
	if (d->mode == BOARD_PLAIN)
		return (struct draft){0};
	float row = pace_row(pace, o->n_tokens), before = s->schedule.rows;
	uint32_t most = draft_most(s, o, d, row), room = slots_draft_room(&s->slots, o);
	most = most < room ? most : room;
	most = most < d->tokens ? most : d->tokens;
	uint32_t n = most > 0 ? speculate_draft(&o->speculate, board_log(&s->segments->board, o->slot), o->n_tokens, most) : 0;
	if (n == 0)
		return (struct draft){0};
	s->schedule.rows += (float)n * row;
	float ns = pace_ns(pace, s->schedule.rows) - pace_ns(pace, before), least = (float)n * DRAFT_LEAST * d->token_ns;
	ns = ns > least ? ns : least;
	d->ns -= ns;
	d->tokens -= n;
	return (struct draft){.n = n, .cost = d->token_ns > 0 ? ns / d->token_ns : 0};
}

/* Makes the step's batch of what the schedule gives to whom, and of drafts. */
static void batch(struct step *s)
{
	float chunk_ns = (float)s->segments->board.header->chunk_ms * 1e6f;
	schedule_share(&s->schedule, s->items, s->n_items,
		       (struct schedule_limits){.spans = BOARD_BATCH, .tokens = STEP_TOKENS, .chunk_ns = chunk_ns});
	struct drafting drafting = plan_drafts(s, chunk_ns);
	s->n_spans = s->n_rows = s->n_probs = s->n_hidden = 0;
	uint64_t turn = s->segments->board.header->step / 2; /* whoever comes first may draft most */
	for (uint32_t i = 0; i < s->n_items; i++) {
		uint32_t at = (uint32_t)((turn + i) % s->n_items);
		const struct schedule_item *item = &s->items[at];
		bool drafts = item->decode && !(item->batch && s->schedule.yielding);
		if (item->n > 0)
			add_span(s, s->sessions[at], item->n, drafts ? draft(s, s->sessions[at], &drafting) : (struct draft){0});
	}
}

/* Says on the board who is about to be computed, and how long that may take: the suspects if the engine dies of it. */
static void begin(struct step *s, uint64_t now)
{
	struct board_header *h = s->segments->board.header;
	for (uint32_t i = 0; i < s->n_spans; i++)
		h->suspects[i] = s->batch[i]->slot;
	stopping_place("engine.begin.suspects");
	atomic_store_explicit(&h->n_suspects, s->n_spans, memory_order_relaxed);
	atomic_store_explicit(&h->step_started, now, memory_order_relaxed);
	atomic_store_explicit(&h->step_expected, pace_expect(&s->schedule.pace, s->schedule.rows), memory_order_relaxed);
	stopping_place("engine.begin.counts");
	atomic_store_explicit(&h->step, h->step + 1, memory_order_release);
	stopping_place("engine.begin.step");
	for (uint32_t i = 0; i < s->n_spans; i++) {
		s->batch[i]->served = h->step;
		hooks_compute(s->batch[i]->record.name, s->batch[i]->record.name_length, s->spans[i].first, s->spans[i].n);
	}
}

static void finish_row(struct step *s, struct row *row, struct sampler *sampler)
{
	struct session *o = row->session;
	const int32_t *log = board_log(&s->segments->board, o->slot);
	uint32_t next = row->position + 1, n_vocab = s->segments->model.hp.n_vocab;
	if (o->record.flags & BOARD_SCORE) {
		row->logprob = 0;
		if (next < o->n_tokens && row->probs != NULL) {
			sampler_probs(sampler, s->kernels, row->logits, log[next], board_top(o->record.flags), row->probs);
			row->logprob = row->probs[0].logprob;
		} else if (next < o->n_tokens) {
			row->logprob = sampler_logprob(s->kernels, row->logits, n_vocab, log[next]);
		}
	} else if (row->probs != NULL) {
		row->token = sampler_draw_probs(sampler, s->kernels, row->logits, &o->record, log, next, row->probs);
	} else {
		row->token = sampler_draw(sampler, s->kernels, row->logits, &o->record, log, next);
	}
}

/* What every thread does in a step: its part of the forward pass, which ends with a barrier, then rows of logits one by one. */
static void work(void *arg, struct team *team, uint32_t member)
{
	struct step *s = arg;
	forward_run(s->forward, team, member, s->spans, s->n_spans);
	for (uint32_t i = team_take(team); i < s->n_rows; i = team_take(team))
		if (!s->spans[s->rows[i].span].failed)
			finish_row(s, &s->rows[i], s->samplers[member]);
}

/* Publishes what a score run's span says: one entry a row with its logits, or the logprobs together. */
static void publish_scores(const struct step *s, const struct session *o, const struct row *rows, uint32_t n)
{
	const struct board *b = &s->segments->board;
	float logprobs[BOARD_RING];
	uint32_t said = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (o->record.flags & BOARD_ROWS)
			rows_publish_logits(b, o->slot, o->run, rows[i].position, rows[i].logits, s->segments->model.hp.n_vocab,
					    rows[i].logprob);
		else if (rows[i].position + 1 < o->n_tokens) /* nothing is said after the last token */
			logprobs[said++] = rows[i].logprob;
	}
	if (said > 0)
		rows_publish_logprobs(b, o->slot, o->run, rows[0].position, logprobs, said);
}

/*
 * Publishes what a span of generated tokens brought: drafted tokens are right up to the first that differs from the token drawn
 * in its place, and that one counts too. Returns how many tokens that are.
 */
static uint32_t publish_tokens(struct step *s, struct session *o, const struct row *rows, uint32_t n_rows, struct draft draft)
{
	const int32_t *log = board_log(&s->segments->board, o->slot) + o->n_tokens;
	int32_t tokens[SPECULATE_MOST + 1];
	uint32_t right = 0;
	CHECK(n_rows == draft.n + 1 && draft.n <= SPECULATE_MOST);
	for (uint32_t i = 0; i < n_rows; i++)
		tokens[i] = rows[i].token;
	while (right < draft.n && log[right] == tokens[right])
		right++;
	speculate_learn(&o->speculate, draft.n, right, draft.cost);
	if (rows[0].probs != NULL)
		slots_say(&s->slots, o, o->n_tokens - o->record.n_given, rows[0].probs, right + 1);
	return slots_advance(&s->slots, o, rows[right].position + 1, tokens, right + 1);
}

/* Of the rows of a score run those that a token follows: nothing is said after the last one. */
static uint32_t said_by(const struct session *o, const struct row *rows, uint32_t n_rows)
{
	return rows[n_rows - 1].position + 1 < o->n_tokens ? n_rows : n_rows - 1;
}

/* Publishes what became of span i. Returns tokens generated. */
static uint32_t publish(struct step *s, uint32_t i)
{
	struct session *o = s->batch[i];
	const struct forward_span *span = &s->spans[i];
	const struct row *rows = &s->rows[s->first_row[i]];
	uint32_t n_rows = s->first_row[i + 1] - s->first_row[i];
	if (span->failed && s->drafts[i].n > 0) {
		speculate_done(&o->speculate); /* the tokens that are its own may be sound: the next step computes those alone */
		return 0;
	}
	if (span->failed) {
		slots_end(&s->slots, o, BOARD_ERROR);
		return 0;
	}
	if (o->record.flags & BOARD_SCORE) {
		if (n_rows > 0 && rows[0].probs != NULL)
			slots_say(&s->slots, o, rows[0].position, rows[0].probs, said_by(o, rows, n_rows));
		if (span->hidden_out != NULL)
			rows_publish_hidden(&s->segments->board, o->slot, o->run, span->first, span->hidden_out,
					    s->segments->model.hp.n_embd, span->n);
		else
			publish_scores(s, o, rows, n_rows);
		return slots_advance(&s->slots, o, span->first + span->n, NULL, 0);
	}
	return n_rows > 0 ? publish_tokens(s, o, rows, n_rows, s->drafts[i])
			  : slots_advance(&s->slots, o, span->first + span->n, NULL, 0);
}

/* Ends the step: its work is on the board, `step` is even again, the counters have grown. */
static void end(struct step *s, uint32_t prompt, uint32_t decoded)
{
	struct board_header *h = s->segments->board.header;
	atomic_fetch_add_explicit(&h->tokens_prefill, prompt, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->tokens_decode, decoded, memory_order_relaxed);
	if (s->n_spans > atomic_load_explicit(&h->batch_max, memory_order_relaxed))
		atomic_store_explicit(&h->batch_max, s->n_spans, memory_order_relaxed);
	stopping_place("engine.end.counters");
	atomic_store_explicit(&h->step, h->step + 1, memory_order_release);
	stopping_place("engine.end.step");
}

bool step_run(struct step *s)
{
	gather(s);
	if (s->n_items == 0) {
		tell(s);
		return false;
	}
	uint64_t start = clock_ns();
	uint32_t decoded = 0;
	batch(s);
	begin(s, start);
	threads_run(s->threads, work, s);
	stopping_place("engine.step.computed");
	for (uint32_t i = 0; i < s->n_spans; i++) {
		decoded += publish(s, i);
		stopping_place("engine.step.published");
	}
	end(s, s->schedule.prompt, decoded);
	schedule_measure(&s->schedule, clock_ns() - start);
	tell(s);
	return true;
}
