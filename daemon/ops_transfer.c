/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions as files to and from clients. An export is a snapshot, made when offset 0 is asked for; an import is gathered, and
 * becomes a session with its last part. Both are for a session's owner, too: it is his.
 *
 * What comes in is not trusted: the head is parsed by daemon/spill_format.h and the session belongs to the caller, whatever the
 * file says. Keys and values are taken from administrators alone; for others they are computed again from the tokens, so nobody
 * computes with values that no model gave (docs/decisions/0019).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "daemon/ops.h"

/* Bytes of a file in one message, the rest of which fits 1 KiB. */
static size_t part_bytes(const struct request *q)
{
	return (q->server->config->limits.message - 1024) / 4 * 3;
}

static struct transfer *find(struct request *q)
{
	const struct ipc_text *id = &q->in.request_id;
	return transfer_find(&q->server->transfers, q->owner, q->in.op == IPC_IMPORT, id->data, id->length);
}

/* Whether this can be the first part of a transfer; if not, the request has been answered. */
static bool begins(struct request *q)
{
	if (q->in.offset == 0)
		return true;
	request_failf(q, IPC_BAD_REQUEST, "begin again with offset 0", "no %s of this request_id is under way: it was given up",
		      ipc_ops[q->in.op].name);
	return false;
}

/* A transfer that begins with this request; NULL: the request has been answered. */
static struct transfer *begin(struct request *q)
{
	const struct ipc_text *id = &q->in.request_id;
	struct err e;
	int fd = spill_scratch(&q->server->spill, &e);
	if (fd < 0) {
		request_failf(q, IPC_NO_MEMORY, NULL, "%s", e.what);
		return NULL;
	}
	struct transfer *t = transfer_new(&q->server->transfers, q->owner, q->in.op == IPC_IMPORT, id->data, id->length, fd);
	if (t == NULL)
		request_failf(q, IPC_TOO_MANY, "wait until one has ended", "you have too many exports and imports under way");
	return t;
}

static void use(struct request *q, struct transfer *t)
{
	q->transfer = t;
	t->users++;
}

/* The request is done with its transfer. */
static struct transfer *let_go(struct request *q)
{
	struct transfer *t = q->transfer;
	t->users--;
	q->transfer = NULL;
	return t;
}

/* Whether this part has to wait for others: while a snapshot is made or a head is read nothing else uses the transfer. */
static bool is_busy(struct request *q, const struct transfer *t)
{
	if (!t->busy && !(q->in.last && t->users > 0))
		return false;
	request_failf(q, IPC_BUSY, "ask again", "the file is being made ready");
	return true;
}

/* In a thread: the part of the file that is asked for, as base64. */
static void read_part(struct request *q)
{
	struct buf bytes = {0};
	size_t most = part_bytes(q);
	ssize_t n = pread(q->transfer->fd, buf_reserve(&bytes, most), most, (off_t)q->in.offset);
	q->result = n < 0 ? ipc_error_set(&q->error, IPC_NO_MEMORY, "cannot read the session's file: %s", strerror(errno)) : 0;
	if (n > 0)
		base64_encode(bytes.data, (size_t)n, &q->chunk);
	q->got = n < 0 ? 0 : (size_t)n;
	buf_done(&bytes);
}

static void answer_part(struct request *q)
{
	struct transfer *t = let_go(q);
	if (q->result < 0) {
		request_fail(q, &q->error);
		return;
	}
	uint64_t end = q->in.offset + q->got;
	t->over |= end >= t->size;
	request_reply(q, json_pack("{s:I,s:s%,s:b,s:I}", "offset", (json_int_t)q->in.offset, "data", q->chunk.length ? q->chunk.data : "",
				   q->chunk.length, "last", end >= t->size, "size", (json_int_t)t->size));
}

/* In a thread: the session as it was copied. */
static void write_snapshot(struct request *q)
{
	struct transfer *t = q->transfer;
	struct err e;
	uint32_t n_kv;
	struct stat st;
	int r = spill_copy_write(&t->copy, t->fd, &n_kv, &e);
	if (r == 0 && fstat(t->fd, &st) < 0)
		r = err_set(&e, -errno, "%s", strerror(errno));
	if (r < 0) {
		q->result = ipc_error_set(&q->error, IPC_NO_MEMORY, "the session cannot be written: %s", e.what);
		return;
	}
	t->size = (uint64_t)st.st_size;
	q->result = 0;
	read_part(q);
}

static void snapshot_written(struct request *q)
{
	struct server *server = q->server;
	struct transfer *t = q->transfer;
	spill_copy_done(&t->copy);
	run_settle(&server->sessions);
	t->busy = false;
	bool failed = q->result < 0;
	answer_part(q);
	if (failed)
		transfer_free(&server->transfers, t);
}

static bool may_export(struct request *q, const struct session *s)
{
	if (s->flags & BOARD_SCORE)
		request_failf(q, IPC_UNSUPPORTED, NULL, "\"%s\" is a score run, which is not kept", s->name);
	else if (s->state == SESSION_RUNNING || s->state == SESSION_WAITING)
		request_failf(q, IPC_BUSY, "cancel it, or wait until `next` says done", "the session \"%s\" is generating", s->name);
	else
		return true;
	return false;
}

void op_export(struct request *q)
{
	struct transfer *t = find(q);
	if (t != NULL) {
		if (is_busy(q, t))
			return;
		use(q, t);
		request_work(q, true, read_part, answer_part);
		return;
	}
	struct session *s = begins(q) ? ops_find(q) : NULL;
	if (s == NULL || !may_export(q, s) || (t = begin(q)) == NULL)
		return;
	spill_copy_init(&t->copy, &q->server->spill, s, q->in.pages);
	t->busy = true;
	use(q, t);
	request_work(q, true, write_snapshot, snapshot_written);
}

/* Bytes of this part that are kept: of others than administrators those that can be of a head. */
static size_t kept_bytes(const struct request *q, size_t n)
{
	uint64_t most = spill_head_most(q->server->spill.model.n_context);
	if (q->admin || q->in.offset + n <= most)
		return n;
	return q->in.offset < most ? (size_t)(most - q->in.offset) : 0;
}

/* In a thread: one part into the file, and with the last one the head out of it. */
static void write_part(struct request *q)
{
	struct transfer *t = q->transfer;
	struct err e;
	uint8_t *bytes = xmalloc(q->in.data.length / 4 * 3 + 3);
	ptrdiff_t n = base64_decode(q->in.data.data, q->in.data.length, bytes);
	q->result = 0;
	q->got = n < 0 ? 0 : (size_t)n;
	if (n < 0)
		q->result = ipc_error_set(&q->error, IPC_BAD_REQUEST, "field `data`: not base64");
	else if (pwrite(t->fd, bytes, kept_bytes(q, q->got), (off_t)q->in.offset) != (ssize_t)kept_bytes(q, q->got))
		q->result = ipc_error_set(&q->error, IPC_NO_MEMORY, "the session's file cannot be kept: %s", strerror(errno));
	else if (q->in.last && spill_read_head(t->fd, &q->server->spill.model, &t->head, &t->head_bytes, &e) < 0)
		q->result = ipc_error_set(&q->error, e.code == -EXDEV ? IPC_UNSUPPORTED : IPC_BAD_REQUEST, "%s", e.what);
	free(bytes);
}

static void reply_session(struct request *q, const struct session *s)
{
	request_reply(q, json_pack("{s:o,s:I}", "session", ops_name(q, s), "n_tokens", (json_int_t)s->first_cursor));
}

/* The session's name and id: of the request, or as in the file, but that one like ~7 is given anew. */
static void rename_record(const struct request *q, struct board_record *r)
{
	const struct ipc_text *id = &q->in.request_id, *name = &q->in.session;
	char given[BOARD_NAME + 1];
	memset(r->request, 0, sizeof r->request);
	memcpy(r->request, id->data, id->length);
	r->request_length = (uint32_t)id->length;
	if (name->data == NULL && r->name[0] != '~')
		return;
	if (name->data != NULL)
		r->name_length = (uint32_t)snprintf(given, sizeof given, "%s", name->data);
	else
		r->name_length = (uint32_t)snprintf(given, sizeof given, "~%llu",
						    (unsigned long long)session_number(&q->server->sessions, q->owner));
	memset(r->name, 0, sizeof r->name);
	memcpy(r->name, given, r->name_length);
}

/* Whether the caller may have this session. */
static bool may_import(struct request *q, const struct spill_head *head, const struct board_record *r)
{
	const struct config *c = q->server->config;
	uint32_t context = q->server->sessions.board.n_context;
	uint64_t need = head->header.unfinished ? run_pages(r->n_end < context ? r->n_end : context) : 0;
	if (session_find(&q->server->sessions, q->owner, r->name, r->name_length) != NULL)
		request_failf(q, IPC_EXISTS, "drop it, or import under another name", "there is a session \"%.*s\" already",
			      (int)r->name_length, r->name);
	else if (need > 0 && c->limits.pages != 0 && q->owner->pages + need > c->limits.pages)
		request_failf(q, IPC_NO_MEMORY, "wait for your other runs to end", "its run would need %llu pages, your limit is %llu",
			      (unsigned long long)need, (unsigned long long)c->limits.pages);
	else
		return ops_make_room(q, NULL) == 0;
	return false;
}

/* All parts are there: a session of them. */
static void make_session(struct request *q, struct transfer *t)
{
	struct sessions *sessions = &q->server->sessions;
	struct board_record r = t->head.record;
	rename_record(q, &r);
	if (!may_import(q, &t->head, &r))
		return;
	struct session *s = session_restore(sessions, q->owner, &r, t->head.log, t->head.probs, t->head.header.n_tokens);
	if (s == NULL) {
		request_failf(q, IPC_NO_MEMORY, "try again when other sessions have ended", "the folder of `segments` is full");
		return;
	}
	spill_take_head(s, &t->head);
	s->first_cursor = s->n_tokens;
	if (q->admin) {
		spill_load_from(&q->server->spill, s, t->fd, t->head.n_kv);
		t->fd = -1;
	}
	if (t->head.header.unfinished)
		run_hold(sessions, s);
	else
		run_rest(sessions, s);
	transfer_free(&q->server->transfers, t);
	reply_session(q, s);
}

static void part_written(struct request *q)
{
	struct transfer *t = let_go(q);
	if (q->in.last)
		t->busy = false;
	if (q->result < 0) {
		request_fail(q, &q->error);
		return;
	}
	if (q->in.offset + q->got > t->size)
		t->size = q->in.offset + q->got;
	if (q->in.last)
		make_session(q, t);
	else
		request_reply(q, json_pack("{s:I}", "offset", (json_int_t)t->size));
}

/* The largest file that a session of this model can be. */
static uint64_t largest(const struct spill_model *m)
{
	return spill_head_most(m->n_context) + spill_pages_bytes(m->n_context, m->page_bytes);
}

void op_import(struct request *q)
{
	const struct ipc_text *id = &q->in.request_id;
	struct session *s = session_find_request(&q->server->sessions, q->owner, id->data, id->length);
	if (s != NULL) {
		reply_session(q, s);
		return;
	}
	if (q->in.offset + q->in.data.length / 4 * 3 > largest(&q->server->spill.model)) {
		request_failf(q, IPC_TOO_LARGE, NULL, "no session of this model has a file of more than %llu bytes",
			      (unsigned long long)largest(&q->server->spill.model));
		return;
	}
	struct transfer *t = find(q);
	if ((t == NULL && (!begins(q) || (t = begin(q)) == NULL)) || is_busy(q, t))
		return;
	if (q->in.offset > t->size) {
		request_failf(q, IPC_BAD_REQUEST, "send the parts in order", "field `offset`: %llu, the file has %llu bytes so far",
			      (unsigned long long)q->in.offset, (unsigned long long)t->size);
		return;
	}
	t->busy = q->in.last;
	use(q, t);
	free(t->head_bytes);
	t->head_bytes = NULL;
	request_work(q, true, write_part, part_written);
}
