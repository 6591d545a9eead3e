/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log-probabilities in the shapes that OpenAI gives them: of a chat {"content":[{token, logprob, bytes, top_logprobs}], "refusal":null},
 * of a completion {tokens, token_logprobs, top_logprobs, text_offset}. Made of `next`'s ids, logprobs and top_logprobs.
 *
 * Tokens that are no text, such as the one that ends it, are told as alternatives alone.
 *
 * A token's text is its bytes if they are UTF-8. A part of a character is told as bytes:\xe2\x80, so that nothing is lost of it.
 */
#ifndef FALCON_HTTP_LOGPROBS_H
#define FALCON_HTTP_LOGPROBS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct logprobs_shape {
	bool chat;
	bool all;  /* tokens that are no text are told as well: of a prompt, where every one counts */
	/* A token's bytes, and whether they are part of a text; NULL: the model has no tokenizer. */
	const char *(*token)(void *arg, int32_t id, size_t *ret_length, bool *ret_is_text);
	void *arg;
};

/*
 * What a reply to `next` says, as an object of its own; NULL if it says nothing. *offset: characters of the answer before it, which
 * is moved behind it.
 */
json_t *logprobs_piece(const struct logprobs_shape *s, const json_t *reply, uint64_t *offset);

/* Puts a piece behind what is there, which is NULL at first; takes both references. */
json_t *logprobs_join(json_t *all, json_t *piece);

#endif
