/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model as its files describe it, whichever kind they are: hyperparameters, tensors under the names of their format, the
 * tokenizer's tables. plan.h turns it into a list of what goes into the image.
 */
#ifndef FALCON_PACK_CHECKPOINT_H
#define FALCON_PACK_CHECKPOINT_H

#include <stdbool.h>

#include "base/err.h"
#include "base/mem.h"
#include "pack/files.h"
#include "pack/source.h"
#include "shm/weights.h"

/* How a format names its tensors, fuses queries, keys and values, and orders rotary pairs. The table is in plan.c. */
enum checkpoint_naming { NAMING_HF_FALCON, NAMING_HF_LLAMA, NAMING_GGUF_FALCON, NAMING_GGUF_LLAMA, NAMINGS };

/* Positions at most, and elements of the rotary table; a model made for more is served with these. */
enum { CHECKPOINT_CONTEXT = 131072, CHECKPOINT_ROPE = 1 << 25 };

struct checkpoint {
	const char *file; /* for messages */
	struct weights_hparams hparams;
	enum checkpoint_naming naming;
	bool head_optional;   /* the head may be absent: the embedding is the head then */
	struct source source;
	struct buf tokenizer; /* as at header.tokenizer_offset */
	struct buf template;  /* chat template, may be empty */
	char name[64];
};

/*
 * Fill *c from the opened files, which must outlive it. 0 or -errno with e set; checkpoint_done() releases what was made in
 * either case. (pack/gguf_model.c, pack/hf_model.c)
 */
int gguf_checkpoint(const void *data, size_t size, const char *file, struct checkpoint *c, struct err *e);
int hf_checkpoint(struct files *files, struct checkpoint *c, struct err *e);

/* Hyperparameters are in bounds and the tokenizer fits the embedding; both kinds of file end with this. */
int checkpoint_check(struct checkpoint *c, struct err *e);

/* Takes what is printable of a name, at most 63 bytes; without any, the name stays what it was. */
void checkpoint_set_name(struct checkpoint *c, const char *name, size_t length);

void checkpoint_done(struct checkpoint *c);

#endif
