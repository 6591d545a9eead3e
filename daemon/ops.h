/* SPDX-License-Identifier: Apache-2.0 */
/* The operations, one function each. Each answers its request now or later. */
#ifndef FALCON_DAEMON_OPS_H
#define FALCON_DAEMON_OPS_H

#include "daemon/server.h"

typedef void op(struct request *q);

op op_hello, op_status, op_sessions;                 /* ops_info.c */
op op_tokenize, op_detokenize;                       /* ops_text.c */
op op_generate, op_append, op_fork, op_score, op_embed; /* ops_create.c */
op op_next, op_cancel, op_drop;                      /* ops_read.c */
op op_upgrade;                                       /* ops_admin.c */

op op_export, op_import;                             /* ops_transfer.c */
op op_drain;                                         /* drain.c */

/* drain.c: whether falcond starts nothing new; the request has been answered then. */
bool drain_refuses(struct request *q);
/* Answers drains that have what they wait for. */
void drain_check(struct server *s);

/*
 * ops_create.c: room for one more session of this owner; at the limit the least recently used one without a name goes, but not
 * `keep`. 0, or -1 and the request has been answered.
 */
int ops_make_room(struct request *q, const struct session *keep);

extern op *const ops[IPC_OPS]; /* server.c */

/* ops_text.c: the request's prompt or ids as checked token ids in q->ids. For request_work(). */
void ops_make_ids(struct request *q);
/* The chat template that the request names, or the model's own; NULL: e says which there are. */
const struct template *ops_template(const struct request *q, struct err *e);
/* Whether that takes long enough for a thread. */
bool ops_heavy(const struct request *q);

/* ops_read.c: answers what waits for the session, if there is something to say. */
void ops_session_changed(struct server *s, struct session *session);
/* Answers with what happened to a session that the engine died of. */
void ops_refuse_failed(struct request *q, const struct session *s);
/* Answers all that wait for it: it is dropped. */
void ops_session_gone(struct server *s, struct session *session);

/* The session that the request names: its own, or for an administrator uid:name. NULL: there is none for this caller. */
struct session *ops_lookup(struct request *q);

/* The same; NULL: the request has been answered. */
struct session *ops_find(struct request *q);

/* ops_info.c: the reply to `status`, of this owner or for an administrator. */
json_t *ops_status_json(const struct server *s, const struct owner *o, bool admin);

/* A session's name as the caller of q has to write it. */
json_t *ops_name(const struct request *q, const struct session *s);

/* The ids as a JSON array. */
json_t *ops_ids_json(const int32_t *ids, size_t n);

#endif
