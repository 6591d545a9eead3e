/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: what stands around the messages of a conversation. They are built in and chosen by name, or recognised from
 * the Jinja text that a model's files carry; falcond runs no templates that come with a file. Text of a message is never
 * parsed for special tokens, so that nobody can end his own message and speak as the system.
 */
#ifndef FALCON_TEXT_TEMPLATE_H
#define FALCON_TEXT_TEMPLATE_H

#include "text/tokenizer.h"

enum template_role { TEMPLATE_SYSTEM, TEMPLATE_USER, TEMPLATE_ASSISTANT, TEMPLATE_ROLES };

struct template_message {
	enum template_role role;
	const char *text; /* UTF-8 */
	size_t length;
};

struct template {
	const char *name;
	const char *head[TEMPLATE_ROLES]; /* what stands before a message of this role */
	const char *end;                  /* and behind every message */
	const char *prompt;               /* before the answer that is to come */
	const char *fallback;             /* the system message of a conversation that brings none, or NULL */
	const char *needs;                /* a token without which the template cannot be used, or NULL */
	const char *stop;                 /* a stop string that ends an answer, where no token does; or NULL */
	bool trims;                       /* blanks at both ends of a message are dropped */
};

/* "system", "user", "assistant"; -1 for another role. */
int template_role(const char *name, size_t length);

/* The template of this name, or NULL and e says which there are. */
const struct template *template_find(const char *name, struct err *e);

/*
 * The template that a model's own Jinja text [jinja, jinja + length) amounts to, by the words that stand around its messages; of
 * a model without one, by the tokens of its vocabulary. t may be NULL. `plain` where nothing is recognised.
 */
const struct template *template_recognise(const char *jinja, size_t length, const struct tokenizer *t);

enum { TEMPLATE_BEFORE = 16 }; /* tokens before that matter */

/*
 * Appends the ids of these messages, ready for the assistant's answer. before: the tokens that they follow in a session, its last
 * TEMPLATE_BEFORE at least; empty if they begin a conversation. An answer that was cut off is ended first; of one that ended at
 * `stop`, whose tokens stay in the session, the user's message takes up the words. No BOS is added. 0, or -ENOTSUP if the
 * vocabulary lacks a token that the template needs, or what tokenizer_encode() says; list is as it was then.
 */
int template_chat(const struct template *p, const struct tokenizer *t, const struct ids *before,
		  const struct template_message *messages, size_t n, struct ids *list, struct err *e);

#endif
