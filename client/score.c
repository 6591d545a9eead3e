/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl score: how likely the model finds a text. nll is minus the sum of ln p(token i | all before it) over tokens
 * 2 .. n; with --chunk N, over tokens N/2+2 .. N of every whole chunk of N tokens, each chunk by itself, which is the figure
 * that llama-perplexity prints.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/command.h"
#include "client/console.h"
#include "ipc/protocol.h"

static const struct option_info options[] = {
	{"ids", NULL, OPTION_NO_FIELD, "standard input is a JSON array of token ids"},
	{"chunk", "N", OPTION_NO_FIELD, "score whole chunks of N tokens, the second half of each"},
	{"logits", "FILE", OPTION_NO_FIELD, "write what the model says after each token: rows of float32, little endian"},
};

enum { NEXT_MS = 30000 };

struct scoring {
	struct falcon *f;
	FILE *logits; /* or NULL */
	uint64_t tokens, scored;
	double nll;
};

/* What one reply says: tokens at positions above `skip` count. */
static int take_scores(struct scoring *s, const struct falcon_piece *p, uint32_t skip, uint32_t n_tokens)
{
	for (size_t i = 0; i < p->n_logprobs; i++) {
		uint64_t position = (uint64_t)p->first + i + 1; /* of the token whose probability this is */
		if (position <= skip || position >= n_tokens)
			continue;
		if (!isfinite(p->logprobs[i])) {
			console_say("the daemon gave no probability for token %llu", (unsigned long long)position + 1);
			return -1;
		}
		s->nll -= p->logprobs[i];
		s->scored++;
	}
	size_t values = p->n_rows * falcon_hello(s->f)->vocab;
	if (s->logits != NULL && fwrite(p->rows, sizeof *p->rows, values, s->logits) != values) {
		console_say("cannot write the logits: %s", strerror(errno));
		return -1;
	}
	return 0;
}

/* Scores one request; tokens up to position `skip` are context alone. An enum command_exit. */
static int score_request(struct scoring *s, struct falcon_request *r, uint32_t skip, uint32_t *ret_n_tokens)
{
	struct falcon_error e;
	struct falcon_run run;
	struct falcon_piece piece = {0};
	uint32_t cursor = 0, n_tokens;
	if (s->logits != NULL)
		falcon_set_bool(r, "rows", true, NULL);
	if (falcon_score(s->f, r, &run, &n_tokens, &e) < 0)
		return command_fail(&e);
	int rc = COMMAND_OK;
	while (rc == COMMAND_OK && !piece.done) {
		if (falcon_next(s->f, run.session, &cursor, NEXT_MS, &piece, &e) < 0)
			rc = console_signal() ? COMMAND_SIGNAL + console_signal() : command_fail(&e);
		else if (take_scores(s, &piece, skip, n_tokens) < 0)
			rc = COMMAND_FAILED;
	}
	if (rc == COMMAND_OK && strcmp(piece.finish, "error") == 0) {
		console_say("scoring failed in the daemon");
		rc = COMMAND_FAILED;
	}
	falcon_watch(s->f, -1, 0);
	falcon_drop(s->f, run.session, NULL, NULL);
	*ret_n_tokens = n_tokens;
	return rc;
}

/* ids: instead of the text, or NULL. */
static int score_whole(struct scoring *s, const struct buf *text, const struct ids *ids)
{
	struct falcon_request *r = falcon_request_new();
	struct falcon_error e;
	uint32_t n_tokens = 0;
	int rc = COMMAND_OK;
	if (ids != NULL)
		falcon_set_ids(r, "ids", ids->data, ids->length, NULL);
	else if (falcon_set_text(r, "prompt", text->data, text->length, &e) < 0)
		rc = command_fail(&e);
	console_watch(s->f);
	if (rc == COMMAND_OK)
		rc = score_request(s, r, 0, &n_tokens);
	s->tokens = n_tokens;
	falcon_request_free(r);
	return rc;
}

static int score_chunks(struct scoring *s, const struct ids *ids, uint32_t chunk)
{
	int rc = COMMAND_OK;
	s->tokens = ids->length;
	for (size_t at = 0; rc == COMMAND_OK && ids->length - at >= chunk; at += chunk) {
		uint32_t n_tokens;
		struct falcon_request *r = falcon_request_new();
		falcon_set_ids(r, "ids", ids->data + at, chunk, NULL);
		console_watch(s->f);
		rc = score_request(s, r, chunk / 2, &n_tokens);
		falcon_request_free(r);
	}
	return rc;
}

/* The ids of the text, for --chunk without --ids. */
static int tokenize(struct falcon *f, const struct buf *text, struct ids *ret)
{
	struct falcon_error e;
	const int32_t *ids;
	size_t n;
	if (falcon_tokenize(f, text->data, text->length, true, &ids, &n, &e) < 0)
		return command_fail(&e);
	for (size_t i = 0; i < n; i++)
		ids_add(ret, ids[i]);
	return COMMAND_OK;
}

static int report(const struct scoring *s)
{
	if (s->scored == 0) {
		console_say("nothing to score in %llu tokens", (unsigned long long)s->tokens);
		return COMMAND_FAILED;
	}
	struct buf out = {0};
	ipc_encode(json_pack("{s:I,s:f,s:I,s:f}", "tokens", (json_int_t)s->tokens, "nll", s->nll, "scored", (json_int_t)s->scored, "ppl",
			     exp(s->nll / (double)s->scored)),
		   &out);
	buf_add(&out, "\n", 1);
	int rc = console_write(out.data, out.length);
	buf_done(&out);
	return rc == 0 || console_broken() ? COMMAND_OK : COMMAND_FAILED;
}

static int score_input(struct scoring *s, const struct arguments *a, const struct buf *text, struct ids *ids, uint32_t chunk)
{
	const char *file = options_value(a, "logits");
	if (options_has(a, "ids") && console_ids(text->data, text->length, ids) < 0)
		return COMMAND_FAILED;
	if ((s->f = command_connect(a)) == NULL)
		return COMMAND_NO_DAEMON;
	if (file != NULL && (s->logits = fopen(file, "wbe")) == NULL) {
		console_say("cannot write %s: %s", file, strerror(errno));
		return COMMAND_FAILED;
	}
	bool given = options_has(a, "ids");
	int rc = chunk > 0 && !given ? tokenize(s->f, text, ids) : COMMAND_OK;
	if (rc == COMMAND_OK)
		rc = chunk > 0 ? score_chunks(s, ids, chunk) : score_whole(s, text, given ? ids : NULL);
	if (s->logits != NULL && fclose(s->logits) != 0 && rc == COMMAND_OK) {
		console_say("cannot write %s: %s", file, strerror(errno));
		rc = COMMAND_FAILED;
	}
	return rc == COMMAND_OK ? report(s) : rc;
}

static int score(const struct arguments *a)
{
	struct scoring s = {0};
	struct buf text = {0};
	struct ids ids = {0};
	uint32_t chunk = 0;
	int rc = options_count(a, "chunk", 4, 1u << 30, &chunk);
	if (rc == COMMAND_OK && console_read(&text) < 0)
		rc = COMMAND_FAILED;
	if (rc == COMMAND_OK)
		rc = score_input(&s, a, &text, &ids, chunk);
	falcon_close(s.f);
	ids_done(&ids);
	buf_done(&text);
	return rc;
}

const struct command command_score = {
	.name = "score",
	.synopsis = "",
	.help = "Prints how likely the model finds the text on standard input, and its perplexity",
	.details = "Prints {tokens, nll, scored, ppl}: nll is minus the sum of ln p(token | all before it), over `scored` tokens, and ppl\n"
		   "is exp(nll / scored). The bytes are taken as they are; no token is put in front.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.run = score,
};
