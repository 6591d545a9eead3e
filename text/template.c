/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A template is a row of a table. Its own special tokens are put in by id where the vocabulary has them; all else, messages and
 * the words around them, is gathered and encoded as one piece of ordinary text between two special tokens, because that is how
 * the model saw it in training: cut at the border of a message, the blank before its first word would become a token of its own.
 *
 * Sources: the cards and tokenizer_config.json of tiiuae/falcon-7b-instruct (User, Assistant), tiiuae/falcon-180B-chat and
 * tiiuae/falcon-11B (System, User, Falcon) and tiiuae/Falcon3-7B-Instruct; ChatML as SmolLM2-Instruct has it, with the system
 * message that it was trained with.
 */
#define _GNU_SOURCE
#include "text/template.h"

#include <errno.h>
#include <string.h>

static const struct template templates[] = {
	{.name = "plain", .head = {"", "", ""}, .end = "", .prompt = ""},
	{.name = "falcon-instruct", .head = {"", "\n\nUser: ", "\n\nAssistant: "}, .end = "", .prompt = "\n\nAssistant:",
	 .stop = "\nUser:", .trims = true},
	{.name = "falcon-180b-chat", .head = {"System: ", "User: ", "Falcon: "}, .end = "\n", .prompt = "Falcon:", .stop = "\nUser:",
	 .trims = true},
	{.name = "falcon2", .head = {"System: ", "User: ", "Falcon: "}, .end = "\n", .prompt = "Falcon:", .stop = "\nUser:",
	 .trims = true},
	{.name = "falcon3", .head = {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"}, .end = "\n", .prompt = "<|assistant|>\n"},
	{.name = "chatml", .head = {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"}, .end = "<|im_end|>\n",
	 .prompt = "<|im_start|>assistant\n", .needs = "<|im_start|>",
	 .fallback = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
};

enum { N_TEMPLATES = sizeof templates / sizeof templates[0] };

int template_role(const char *name, size_t length)
{
	static const char *const names[TEMPLATE_ROLES] = {"system", "user", "assistant"};
	for (int i = 0; i < TEMPLATE_ROLES; i++)
		if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
			return i;
	return -1;
}

const struct template *template_find(const char *name, struct err *e)
{
	struct buf known = {0};
	for (size_t i = 0; i < N_TEMPLATES; i++) {
		if (strcmp(name, templates[i].name) == 0) {
			buf_done(&known);
			return &templates[i];
		}
		buf_printf(&known, "%s%s", i ? ", " : "", templates[i].name);
	}
	err_set(e, -ENOENT, "no template is called \"%s\"", name);
	err_hint(e, "there are %s", known.data);
	buf_done(&known);
	return NULL;
}

const struct template *template_recognise(const char *jinja, size_t length, const struct tokenizer *t)
{
	/* The first row that has all its words in the text: those that say more stand first. */
	static const struct {
		const char *words[2], *name;
	} marks[] = {
		{{"<|im_start|>", "<|im_end|>"}, "chatml"},
		{{"<|assistant|>", "<|user|>"}, "falcon3"},
		{{"Falcon:", "User:"}, "falcon-180b-chat"},
		{{"Assistant:", "User:"}, "falcon-instruct"},
	};
	struct err none;
	for (size_t i = 0; length > 0 && i < sizeof marks / sizeof marks[0]; i++)
		if (memmem(jinja, length, marks[i].words[0], strlen(marks[i].words[0])) != NULL &&
		    memmem(jinja, length, marks[i].words[1], strlen(marks[i].words[1])) != NULL)
			return template_find(marks[i].name, &none);
	if (t != NULL && tokenizer_find(t, marks[0].words[0], strlen(marks[0].words[0])) >= 0)
		return template_find(marks[0].name, &none);
	return &templates[0];
}

/* Ordinary text gathered until a special token or the end. */
struct writer {
	const struct tokenizer *t;
	struct ids *list;
	struct buf plain;
};

static int flush(struct writer *w, struct err *e)
{
	int r = w->plain.length ? tokenizer_encode(w->t, w->plain.data, w->plain.length, false, w->list, e) : 0;
	w->plain.length = 0;
	return r;
}

/* The token whose text <|...|> begins at `text`, or -1. */
static int32_t marker(const struct tokenizer *t, const char *text, size_t *ret_length)
{
	const char *end = strncmp(text, "<|", 2) == 0 ? strstr(text, "|>") : NULL;
	*ret_length = end ? (size_t)(end + 2 - text) : 0;
	return end ? tokenizer_find(t, text, *ret_length) : -1;
}

/* The template's own words. */
static int put(struct writer *w, const char *text, struct err *e)
{
	while (*text != '\0') {
		size_t length;
		int32_t id = marker(w->t, text, &length);
		if (id < 0) {
			buf_add(&w->plain, text++, 1);
			continue;
		}
		int r = flush(w, e);
		if (r < 0)
			return r;
		ids_add(w->list, id);
		text += length;
	}
	return 0;
}

static void trim(const char **text, size_t *length)
{
	static const char blanks[] = " \t\r\n";
	while (*length > 0 && memchr(blanks, (*text)[0], sizeof blanks - 1) != NULL) {
		(*text)++;
		(*length)--;
	}
	while (*length > 0 && memchr(blanks, (*text)[*length - 1], sizeof blanks - 1) != NULL)
		(*length)--;
}

/* head: what stands before the message. */
static int put_message(struct writer *w, const struct template *p, const char *head, const struct template_message *m, struct err *e)
{
	const char *text = m->text;
	size_t length = m->length;
	int r = put(w, head, e);
	if (p->trims)
		trim(&text, &length);
	buf_add(&w->plain, text, length);
	return r < 0 ? r : put(w, p->end, e);
}

/*
 * What is still to stand before the user's message where the tokens before end in `stop`, that is, where the model has written the
 * head's words itself. NULL: they do not.
 */
static const char *rest_of_head(const struct writer *w, const struct template *p, const struct ids *before)
{
	struct buf tail = {0};
	size_t length, n = p->stop ? strlen(p->stop) : 0, from = before->length > TEMPLATE_BEFORE ? before->length - TEMPLATE_BEFORE : 0;
	for (size_t i = from; i < before->length; i++) {
		const char *bytes = tokenizer_bytes(w->t, before->data[i], &length);
		buf_add(&tail, bytes, bytes ? length : 0);
	}
	const char *text = tail.data ? tail.data : "";
	for (length = tail.length; length > n && (text[length - 1] == ' ' || text[length - 1] == '\n');)
		length--;
	const char *rest = NULL;
	if (n > 0 && length >= n && memcmp(text + length - n, p->stop, n) == 0) {
		const char *label = p->stop + strspn(p->stop, "\n");
		rest = length < tail.length ? "" : strstr(p->head[TEMPLATE_USER], label) + strlen(label);
	}
	buf_done(&tail);
	return rest;
}

/* Ends the answer before the messages; its last token may be the end's first already. */
static int put_end(struct writer *w, const struct template *p, int32_t before, struct err *e)
{
	size_t length;
	int32_t id = marker(w->t, p->end, &length);
	return put(w, id >= 0 && id == before ? p->end + length : p->end, e);
}

static int put_all(struct writer *w, const struct template *p, const struct ids *before, const struct template_message *messages,
		   size_t n, struct err *e)
{
	int r = 0;
	const char *rest = n > 0 && messages[0].role == TEMPLATE_USER ? rest_of_head(w, p, before) : NULL;
	if (before->length > 0 && rest == NULL)
		r = put_end(w, p, before->data[before->length - 1], e);
	else if (before->length == 0 && p->fallback != NULL && (n == 0 || messages[0].role != TEMPLATE_SYSTEM))
		r = put_message(w, p, p->head[TEMPLATE_SYSTEM],
				&(struct template_message){TEMPLATE_SYSTEM, p->fallback, strlen(p->fallback)}, e);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = put_message(w, p, i == 0 && rest != NULL ? rest : p->head[messages[i].role], &messages[i], e);
	if (r == 0)
		r = put(w, p->prompt, e);
	return r == 0 ? flush(w, e) : r;
}

int template_chat(const struct template *p, const struct tokenizer *t, const struct ids *before,
		  const struct template_message *messages, size_t n, struct ids *list, struct err *e)
{
	if (p->needs != NULL && tokenizer_find(t, p->needs, strlen(p->needs)) < 0) {
		err_set(e, -ENOTSUP, "template %s: the model's vocabulary has no %s", p->name, p->needs);
		err_hint(e, "use the template plain, or a model that was trained for this one");
		return -ENOTSUP;
	}
	struct writer w = {.t = t, .list = list};
	size_t kept = list->length;
	int r = put_all(&w, p, before, messages, n, e);
	buf_done(&w.plain);
	if (r < 0)
		list->length = kept;
	return r;
}
