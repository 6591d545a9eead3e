/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenAI's completions and chat completions, in and out: what a body asks for as requests of the protocol, and the objects that
 * answers are told in. Shapes: platform.openai.com/docs/api-reference, completions and chat. Nothing is asked or sent here.
 */
#ifndef FALCON_HTTP_OPENAI_H
#define FALCON_HTTP_OPENAI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
	OPENAI_CHOICES = 128, /* answers to one request */
	OPENAI_TOP = 20,      /* alternatives to a token */
};

/* What a body asks for. */
struct openai {
	bool chat, stream, include_usage, echo;
	bool prompt_alone;       /* no token is generated: the prompt's log-probabilities are all that is asked for */
	unsigned n;              /* answers to each prompt */
	json_t *prompts;         /* array of strings or arrays of ids; of chat: one array of messages */
	json_t *sampling;        /* fields of a `generate`, `logprobs` among them */
	bool has_seed;
	uint64_t seed;           /* of the first answer; each next one has one more */
};

/*
 * Reads a body. context: tokens that an answer may have where no limit is given, as chat has none. Fields that nothing here
 * depends on (user, metadata, store ...) are passed over; one that would change the answer and cannot be served is an error.
 * 0, or -EINVAL with e; ret is ended by openai_done() in both cases.
 */
int openai_read(const json_t *body, bool chat, uint32_t context, struct openai *ret, struct err *e);
void openai_done(struct openai *o);

/* The `generate` of answer i of n * prompts. request_id must be new. */
json_t *openai_generate(const struct openai *o, unsigned i, const char *request_id);

/* The field that an error's text is about, as all texts here name it ("field `stop`: ..."); NULL: about none. */
const char *openai_error_field(const char *message, size_t *ret_length);

/*
 * An error of the protocol's (a new reference) with its field under the name that the body has it by. text: what the body calls the
 * protocol's `prompt`, `ids` or `text`.
 */
json_t *openai_error(const json_t *reply, const char *text);

/* "stop" or "length" for the protocol's `finish`. */
const char *openai_finish(const char *finish);

struct openai_head {
	const char *id, *model;
	int64_t created; /* Unix seconds */
};

/*
 * A chunk of a stream with one choice: text (NULL: none), logprobs (NULL: none; the reference is taken) and finish (NULL: it goes on).
 * first: chat tells the role.
 */
json_t *openai_chunk(const struct openai *o, const struct openai_head *head, unsigned index, bool first, const char *text,
		     size_t length, json_t *logprobs, const char *finish);

/* A choice of a whole answer. logprobs as above. */
json_t *openai_choice(const struct openai *o, unsigned index, const char *text, size_t length, json_t *logprobs,
		      const char *finish);

/* The whole answer, or with choices NULL the last chunk of a stream, which tells the usage. Takes the references. */
json_t *openai_answer(const struct openai *o, const struct openai_head *head, json_t *choices, json_t *usage);
json_t *openai_usage(uint64_t prompt, uint64_t cached, uint64_t generated);

#endif
