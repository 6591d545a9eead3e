/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The three segments and what falcond keeps of the model: names, hyperparameters and a tokenizer in memory of its own. falcond
 * maps the weights once, to check them, and never the pages. daemon/keep.h says where segments are and who keeps them.
 */
#ifndef FALCON_DAEMON_STORE_H
#define FALCON_DAEMON_STORE_H

#include "daemon/config.h"
#include "daemon/keep.h"
#include "shm/board.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct store {
	struct keep_set set; /* descriptors of the three */
	int image;           /* weights that are being packed, read-write; -1: none */
	uint8_t set_id[16];
	uint64_t available;  /* bytes of memory that were available before any of it was taken */

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

void store_init(struct store *s);

/* A new set: random id, and an empty segment for the packer to write the weights into. 0 or -errno. */
int store_begin(struct store *s, struct keep *k, struct err *e);

/* The packer has ended well: closes the weights to changes, checks them and takes out what falcond needs. */
int store_finish_weights(struct store *s, struct keep *k, struct err *e);

/* A new set with the weights of a set that is there. 0 or -errno; the store is then as after store_init(). */
int store_share_weights(struct store *s, struct keep *k, const struct keep_set *from, struct err *e);

/* Makes pages and board as the configuration says; falcond's lock is on the board from here on. */
int store_make_arena(struct store *s, struct keep *k, const struct config *c, struct err *e);

/*
 * falcond's lock on a board, once the engine of the falcond before it is gone: nobody writes the board then. Waits for seconds.
 * 0 or -errno.
 */
int store_lock(int board, struct err *e);

/*
 * Takes over a whole set: the headers of all three are good, belong together, to this arithmetic and to this configuration; what
 * is in the tables is not looked at. The descriptors become the store's. 0 or -errno; the store is then as after store_init().
 */
int store_adopt(struct store *s, const struct keep_set *set, const struct config *c, struct err *e);

/* Back to what store_init() left; descriptors stay open. */
void store_forget(struct store *s);

/* Closes everything; the set stays with whoever keeps it. */
void store_done(struct store *s);

#endif
