/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates that are built in, by name: "plain", "chatml". Text put into a template is never parsed for special tokens. */
#ifndef FALCON_TEXT_TEMPLATE_H
#define FALCON_TEXT_TEMPLATE_H

#include "text/tokenizer.h"

/*
 * Appends the ids of one user message in this template, ready for the assistant's answer. `first`: nothing stands before it in
 * the session (chatml then puts a default system message in front, as SmolLM2's own template does); otherwise an answer does
 * that ended with its end-of-text token. No BOS is added. 0 (list is as it was in other cases), -ENOENT for an
 * unknown template, -ENOTSUP if the vocabulary lacks its special tokens.
 */
int template_user(const struct tokenizer *t, const char *name, bool first, const char *text, size_t length, struct ids *list,
	struct err *e);

#endif
