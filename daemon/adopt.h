/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start over segments that an earlier falcond left. In order of what can be trusted: the set as a whole, with every session
 * where it was; the weights and, in a new arena, sessions made again from their token logs; the token logs alone; nothing. No
 * step of it reads or copies weights or pages, so that it takes as long for a large model as for a small one.
 *
 * A board may be such that looking at it ends falcond, each time anew. So a falcond counts on the board itself that it begins,
 * and takes the count back once it serves well (adopt_settle): with the third death in a row the board is not looked at any
 * more, with the sixth the token logs are not either.
 */
#ifndef FALCON_DAEMON_ADOPT_H
#define FALCON_DAEMON_ADOPT_H

#include "daemon/session.h"
#include "daemon/store.h"
#include "daemon/tokenlog.h"

struct adopt {
	bool weights;          /* the store has weights: nothing is to be packed */
	bool board;            /* the store has the whole set */
	struct survey survey;  /* its sessions */
	struct tokenlogs logs; /* of sessions to be made again */
	uint8_t source_hash[16]; /* of the model that they are of */
};

/*
 * Looks at the sets that `k` found and takes over what is good of the youngest into the store, which is initialised. 0, also
 * where there is nothing, or -errno if an earlier falcond or engine does not let go.
 */
int adopt_begin(struct adopt *a, struct store *s, struct keep *k, const struct config *c, struct err *e);

/* The sessions into the table, which is initialised; the store is whole, and no engine runs. */
void adopt_sessions(struct adopt *a, const struct store *s, struct sessions *t, struct owners *o);

/* The store's set is kept: sets of earlier falconds are let go of. */
void adopt_end(struct adopt *a, struct keep *k);

/* falcond serves well: it may be killed three more times before its board counts as the cause. */
void adopt_settle(const struct board *b);

#endif
