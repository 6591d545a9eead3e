/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/checkpoint.h"

#include <errno.h>
#include <string.h>

int checkpoint_check(struct checkpoint *c, struct err *e)
{
	struct weights_hparams *hp = &c->hparams;
	int r = weights_check_hparams(hp, e);
	if (r < 0) {
		err_prefix(e, "%s", c->file);
		return err_hint(e, "the model is larger or smaller than anything known, or its description is damaged");
	}
	uint32_t most = CHECKPOINT_ROPE / hp->head_dim;
	if (most > CHECKPOINT_CONTEXT)
		most = CHECKPOINT_CONTEXT;
	if (hp->n_context > most)
		hp->n_context = most;
	const struct weights_tokenizer *t = (const void *)c->tokenizer.data;
	if (t->n_tokens > hp->n_vocab) {
		err_set(e, -EINVAL, "%s: the tokenizer has %u tokens, the embedding %u rows", c->file, t->n_tokens,
			hp->n_vocab);
		return err_hint(e, "the tokenizer belongs to another model");
	}
	return 0;
}

void checkpoint_set_name(struct checkpoint *c, const char *name, size_t length)
{
	char printable[sizeof c->name] = "";
	size_t n = 0;
	for (size_t i = 0; i < length && n + 1 < sizeof printable; i++)
		if (name[i] >= 0x20 && name[i] < 0x7f)
			printable[n++] = name[i];
	if (n > 0)
		memcpy(c->name, printable, sizeof printable);
}

void checkpoint_done(struct checkpoint *c)
{
	source_done(&c->source);
	buf_done(&c->tokenizer);
	buf_done(&c->template);
}
