/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a run's text ends. One function, used by the engine after each token to find the end and by falcond to cut the text
 * that it sends, so that they never disagree. It is a pure function of the tokens.
 *
 * The text of a run is the bytes of its tokens from n_given on, without end-of-text tokens and other control tokens. It ends
 * before the first stop string that becomes complete; if one token completes several, before the lowest place. Text(c) is the
 * longest prefix of the text of tokens [n_given, c) that is whole UTF-8 and cannot turn out to be the start of a stop string.
 */
#ifndef FALCON_TEXT_ENDING_H
#define FALCON_TEXT_ENDING_H

#include "base/mem.h"
#include "shm/board.h"
#include "text/tokenizer.h"

/* The text of a run, built up token by token. Zero-initialise; rebuildable from the log at any time. */
struct ending {
	struct buf text;     /* bytes of tokens [n_given, position), stop string and what follows included */
	uint32_t position;   /* tokens taken so far end here */
	size_t end;          /* text ends here: SIZE_MAX while no stop string is complete */
	bool eos;            /* an end-of-text token was taken (and the record does not ignore it) */
};

void ending_start(struct ending *e, uint32_t n_given);
void ending_done(struct ending *e);

/* Takes the token at e->position. t may be NULL (a model without a tokenizer): then there is no text and no end. */
void ending_take(struct ending *e, const struct tokenizer *t, const struct board_record *r, int32_t id);

/*
 * Why the run is over after the tokens taken so far: BOARD_STOP, BOARD_EOS, BOARD_LENGTH, BOARD_CONTEXT (in this order of
 * precedence), or 0 while it goes on.
 */
enum board_reason ending_reason(const struct ending *e, const struct board_record *r, uint32_t n_context);

/*
 * Length of the part of e->text that may be sent: Text(position); with `final` all that is left (invalid UTF-8 included), cut
 * at a stop string.
 */
size_t ending_visible(const struct ending *e, const struct board_record *r, bool final);

#endif
