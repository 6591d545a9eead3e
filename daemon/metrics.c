/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/metrics.h"

#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/server.h"

static uint64_t prefill(const struct server *s)
{
	return atomic_load_explicit(&s->store->board.header->tokens_prefill, memory_order_relaxed);
}

static uint64_t steps(const struct server *s)
{
	return atomic_load_explicit(&s->store->board.header->step, memory_order_relaxed) / 2;
}

static uint64_t batch_max(const struct server *s)
{
	return atomic_load_explicit(&s->store->board.header->batch_max, memory_order_relaxed);
}

static uint64_t generated(const struct server *s) { return s->sessions.generated; }
static uint64_t cached(const struct server *s) { return s->sessions.cached; }
static uint64_t begun(const struct server *s) { return s->sessions.begun; }
static uint64_t begun_cached(const struct server *s) { return s->sessions.begun_cached; }
static uint64_t restarts(const struct server *s) { return s->supervisor->restarts; }
static uint64_t crashes(const struct server *s) { return s->supervisor->crashes; }
static uint64_t guilties(const struct server *s) { return s->supervisor->guilties; }
static uint64_t ready(const struct server *s) { return s->supervisor->is_ready; }
static uint64_t sessions(const struct server *s) { return s->sessions.n_sessions; }
static uint64_t waiting(const struct server *s) { return s->sessions.n_waiting + s->sessions.n_following; }
static uint64_t spilled(const struct server *s) { return s->spill.written; }
static uint64_t restored(const struct server *s) { return s->spill.read; }
static uint64_t spill_failures(const struct server *s) { return s->spill.failed; }
static uint64_t pages(const struct server *s) { return s->arena.n_pages; }
static uint64_t pages_free(const struct server *s) { return s->arena.n_free; }
static uint64_t pages_kept(const struct server *s) { return s->arena.n_kept; }
static uint64_t pages_shared(const struct server *s) { return s->arena.n_shared; }
static uint64_t pages_used(const struct server *s) { return s->arena.n_pages - s->arena.n_free; }
static uint64_t page_bytes(const struct server *s) { return s->store->arena.stride; }
static uint64_t weights_size(const struct server *s) { return s->store->weights_size; }
static uint64_t context(const struct server *s) { return s->store->board.n_context; }
static uint64_t asked(const struct server *s) { return s->metrics.requests; }

static uint64_t count_state(const struct server *s, enum session_state state)
{
	const struct session *at;
	uint64_t n = 0;
	TAILQ_FOREACH (at, &s->sessions.active, active)
		n += at->state == state;
	return n;
}

static uint64_t running(const struct server *s) { return count_state(s, SESSION_RUNNING); }
static uint64_t paused(const struct server *s) { return count_state(s, SESSION_PAUSED); }

static uint64_t requests(const struct server *s)
{
	const struct request *q;
	uint64_t n = 0;
	TAILQ_FOREACH (q, &s->open, open)
		n++;
	return n;
}

enum kind { COUNTER, CODES, GAUGE, HISTOGRAM };
static const char *const kinds[] = {[COUNTER] = "counter", [CODES] = "counter", [GAUGE] = "gauge", [HISTOGRAM] = "histogram"};

static const struct metric {
	const char *name;
	enum kind kind;
	const char *help;
	uint64_t (*value)(const struct server *s); /* of a counter or gauge */
	size_t at;                                 /* of the others, in struct metrics: a histogram, or a number a code */
} table[] = {
#define AT(field) NULL, offsetof(struct metrics, field)
	{"falcond_ready", GAUGE, "1 while an engine computes", ready, 0},
	{"falcond_engine_restarts_total", COUNTER, "engines started after the first", restarts, 0},
	{"falcond_engine_crashes_total", COUNTER, "of these, after crashes that counted against sessions", crashes, 0},
	{"falcond_sessions_failed_total", COUNTER, "sessions that were ended since the engine always crashed on them", guilties, 0},
	{"falcond_steps_total", COUNTER, "passes of the engine over the weights", steps, 0},
	{"falcond_prefill_tokens_total", COUNTER, "tokens of prompts that were computed", prefill, 0},
	{"falcond_cached_tokens_total", COUNTER, "tokens of prompts that needed no computing", cached, 0},
	{"falcond_generated_tokens_total", COUNTER, "tokens that were generated", generated, 0},
	{"falcond_prompts_total", COUNTER, "sessions that began with a prompt", begun, 0},
	{"falcond_prompts_cached_total", COUNTER, "of these, sessions that found a part of it computed", begun_cached, 0},
	{"falcond_sessions", GAUGE, "sessions that there are", sessions, 0},
	{"falcond_sessions_running", GAUGE, "sessions that generate or read their prompt", running, 0},
	{"falcond_sessions_waiting", GAUGE, "sessions that wait for pages, or for what another one computes for both", waiting, 0},
	{"falcond_sessions_paused", GAUGE, "sessions in mid-run that nobody reads", paused, 0},
	{"falcond_sessions_spilled_total", COUNTER, "sessions written to the state folder", spilled, 0},
	{"falcond_sessions_restored_total", COUNTER, "sessions whose keys and values were read from there", restored, 0},
	{"falcond_spill_failures_total", COUNTER, "sessions that could not be written or read", spill_failures, 0},
	{"falcond_requests_total", COUNTER, "operations that were asked for, over HTTP too", asked, 0},
	{"falcond_requests_refused_total", CODES, "of these, those answered with an error, by its `code`", AT(refused)},
	{"falcond_requests_open", GAUGE, "requests that wait for their reply", requests, 0},
	{"falcond_pages", GAUGE, "pages of keys and values, 32 tokens each, that fit the memory", pages, 0},
	{"falcond_pages_used", GAUGE, "pages that sessions hold", pages_used, 0},
	{"falcond_pages_shared", GAUGE, "of these, pages that more than one session holds", pages_shared, 0},
	{"falcond_pages_free", GAUGE, "pages that nobody holds", pages_free, 0},
	{"falcond_pages_kept", GAUGE, "of these, pages whose content can be found again", pages_kept, 0},
	{"falcond_page_bytes", GAUGE, "bytes of a page", page_bytes, 0},
	{"falcond_weights_bytes", GAUGE, "bytes of the weights' segment", weights_size, 0},
	{"falcond_context_tokens", GAUGE, "tokens that a session may have", context, 0},
	{"falcond_batch_sessions_max", GAUGE, "sessions that were in one step at most", batch_max, 0},
	{"falcond_time_to_first_token_seconds", HISTOGRAM, "from the acceptance of a run to its first token", AT(first_token)},
	{"falcond_time_between_tokens_seconds", HISTOGRAM, "between two tokens of one run", AT(between_tokens)},
	{"falcond_queue_wait_seconds", HISTOGRAM, "from the acceptance of a run until the first piece of it is computed", AT(queue_wait)},
	{"falcond_batch_sessions", HISTOGRAM, "sessions in one step", AT(batch)},
#undef AT
};

void metrics_init(struct metrics *m)
{
	*m = (struct metrics){.first_token.first = 0.005, .between_tokens.first = 0.001, .queue_wait.first = 0.001, .batch.first = 1};
}

void histogram_add(struct histogram *h, double value, uint64_t n)
{
	double bound = h->first;
	h->n += n;
	h->sum += value * (double)n;
	for (int i = 0; i < METRICS_BUCKETS; i++, bound *= 2)
		if (value <= bound) {
			h->at_most[i] += n;
			return;
		}
}

void metrics_run_begins(struct session *s)
{
	s->metered = (struct session_metered){.asked_at = clock_ns(), .n_tokens = s->n_tokens, .waits = true};
}

static double seconds(uint64_t ns)
{
	return (double)ns * 1e-9;
}

void metrics_progress(struct metrics *m, struct session *s)
{
	struct session_metered *at = &s->metered;
	uint64_t now = clock_ns();
	if (at->asked_at == 0 || (s->flags & BOARD_SCORE))
		return;
	if (at->waits)
		histogram_add(&m->queue_wait, seconds(now - at->asked_at), 1);
	at->waits = false;
	if (s->n_tokens <= at->n_tokens)
		return;
	uint64_t n = s->n_tokens - at->n_tokens;
	if (at->told_at == 0) {
		histogram_add(&m->first_token, seconds(now - at->asked_at), 1);
		n--;
	}
	if (n > 0)
		histogram_add(&m->between_tokens, seconds(now - (at->told_at ? at->told_at : at->asked_at)) / (double)n, n);
	at->n_tokens = s->n_tokens;
	at->told_at = now;
}

void metrics_steps(struct metrics *m, const struct board_header *h)
{
	uint64_t step = atomic_load_explicit(&h->step, memory_order_relaxed) / 2;
	uint32_t n = atomic_load_explicit(&h->n_suspects, memory_order_relaxed);
	if (step > m->step && n > 0 && n <= BOARD_BATCH)
		histogram_add(&m->batch, n, step - m->step);
	m->step = step;
}

static void write_histogram(const struct metric *t, const struct histogram *h, struct buf *out)
{
	double bound = h->first;
	uint64_t n = 0;
	for (int i = 0; i < METRICS_BUCKETS; i++, bound *= 2) {
		n += h->at_most[i];
		buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", t->name, bound, (unsigned long long)n);
	}
	buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", t->name, (unsigned long long)h->n, t->name, h->sum,
		   t->name, (unsigned long long)h->n);
}

static void write_codes(const struct metric *t, const uint64_t *n, struct buf *out)
{
	for (int i = 0; i < IPC_CODES; i++)
		buf_printf(out, "%s{code=\"%s\"} %llu\n", t->name, ipc_code_name((enum ipc_code)i), (unsigned long long)n[i]);
}

void metrics_write(const struct server *s, struct buf *out)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		const struct metric *t = &table[i];
		const void *at = (const char *)&s->metrics + t->at;
		buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", t->name, t->help, t->name, kinds[t->kind]);
		if (t->kind == HISTOGRAM)
			write_histogram(t, at, out);
		else if (t->kind == CODES)
			write_codes(t, at, out);
		else
			buf_printf(out, "%s %llu\n", t->name, (unsigned long long)t->value(s));
	}
}

void metrics_describe(FILE *out)
{
	fprintf(out, "\n| name | kind | what it counts |\n|---|---|---|\n");
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		fprintf(out, "| `%s` | %s | %s |\n", table[i].name, kinds[table[i].kind], table[i].help);
}
