/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates that are built in, by name: "plain", "chatml". Text put into a template is never parsed for special tokens. */
#ifndef FALCON_TEXT_TEMPLATE_H
#define FALCON_TEXT_TEMPLATE_H

#include "text/tokenizer.h"

/*
 * Appends the ids of one user message in this template, ready for the assistant's answer. `before`: the session's last token, -1 if
 * nothing stands before the message. chatml then puts a default system message in front, as SmolLM2's own template does; an answer
 * that did not come to its <|im_end|> is given one. No BOS is added. 0 (list is as it was in other cases), -ENOENT for an unknown
 * template, -ENOTSUP if the vocabulary lacks its special tokens.
 */
int template_user(const struct tokenizer *t, const char *name, int32_t before, const char *text, size_t length, struct ids *list,
	struct err *e);

#endif
