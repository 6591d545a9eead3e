/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A template is what stands around a message. Its own special tokens are put in by id; everything else, the user's text
 * included, is encoded as ordinary text, so that nobody can end his own message and speak as the system.
 */
#include "text/template.h"

#include <errno.h>
#include <string.h>

/* ChatML's default system message, as in the template that SmolLM2-Instruct was trained with. */
static const char system_message[] = "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face";

static int put(const struct tokenizer *t, const char *text, struct ids *list, struct err *e)
{
	return tokenizer_encode(t, text, strlen(text), false, list, e);
}

/*
 * <|im_start|>user\n TEXT <|im_end|>\n <|im_start|>assistant\n; in front of the first message the system's, in front of others
 * the newline after the answer's <|im_end|>, and that too where the answer was cut off.
 */
static int chatml_user(const struct tokenizer *t, int32_t before, const char *text, size_t length, struct ids *list, struct err *e)
{
	static const char start_text[] = "<|im_start|>", end_text[] = "<|im_end|>";
	int32_t start = tokenizer_find(t, start_text, strlen(start_text)), end = tokenizer_find(t, end_text, strlen(end_text));
	if (start < 0 || end < 0) {
		err_set(e, -ENOTSUP, "template chatml: the model's vocabulary has no %s", start < 0 ? start_text : end_text);
		err_hint(e, "use the template plain, or a model that was trained for chat");
		return -ENOTSUP;
	}
	int r = 0;
	if (before < 0) {
		ids_add(list, start);
		r = put(t, system_message, list, e);
	}
	if (before != end)
		ids_add(list, end);
	if (r == 0)
		r = put(t, "\n", list, e);
	ids_add(list, start);
	struct buf message = {0};
	buf_printf(&message, "user\n");
	buf_add(&message, text, length);
	if (r == 0)
		r = tokenizer_encode(t, message.data, message.length, false, list, e);
	buf_done(&message);
	ids_add(list, end);
	if (r == 0)
		r = put(t, "\n", list, e);
	ids_add(list, start);
	if (r == 0)
		r = put(t, "assistant\n", list, e);
	return r;
}

static int plain_user(const struct tokenizer *t, int32_t before, const char *text, size_t length, struct ids *list, struct err *e)
{
	(void)before;
	return tokenizer_encode(t, text, length, false, list, e);
}

int template_user(const struct tokenizer *t, const char *name, int32_t before, const char *text, size_t length, struct ids *list,
	struct err *e)
{
	static const struct {
		const char *name;
		int (*user)(const struct tokenizer *, int32_t, const char *, size_t, struct ids *, struct err *);
	} templates[] = {{"plain", plain_user}, {"chatml", chatml_user}};
	size_t kept = list->length;
	for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++) {
		if (strcmp(name, templates[i].name) != 0)
			continue;
		int r = templates[i].user(t, before, text, length, list, e);
		if (r < 0)
			list->length = kept;
		return r;
	}
	err_set(e, -ENOENT, "no template is called \"%s\"", name);
	err_hint(e, "there are plain and chatml");
	return -ENOENT;
}
