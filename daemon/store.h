/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three segments and what falcond keeps of the model: names, hyperparameters and a tokenizer in memory of its own. falcond
 * maps the weights once, to check them, and never the pages.
 */
#ifndef FALCON_DAEMON_STORE_H
#define FALCON_DAEMON_STORE_H

#include "daemon/config.h"
#include "shm/board.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct store {
	int image;       /* weights, read-write; sealed by store_adopt_weights() */
	int weights, pages, board_fd;
	uint8_t set_id[16];
	uint64_t available; /* bytes of memory that were available before any of it was taken */

	struct weights_hparams hp;
	char model[64];
	uint8_t source_hash[16]; /* of the model's source files */
	uint64_t weights_size;
	double huge_share;  /* of the weights, in huge pages */
	struct tokenizer *tokenizer; /* NULL: ids only */
	const struct template *template; /* the chat template that the model's files amount to */
	struct pages_header arena;
	struct board board;
	uint64_t board_size;
};

/* A new set: random id, and an empty segment for the packer to write the weights into. */
int store_init(struct store *s, struct err *e);

/* The packer has ended well: seals the weights, checks them and takes out what falcond needs. */
int store_adopt_weights(struct store *s, struct err *e);

/* Makes pages and board as the configuration says; falcond's lock is on the board from here on. */
int store_make_arena(struct store *s, const struct config *c, struct err *e);

void store_done(struct store *s);

#endif
