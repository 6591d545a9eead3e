/* SPDX-License-Identifier: Apache-2.0 */
/* Text to tokens and back. What takes long runs in a thread: it reads the request and the tokenizer, and nothing else. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ops.h"
#include "text/template.h"
#include "text/utf8.h"

enum { HEAVY_BYTES = 8 << 10, HEAVY_IDS = 4 << 10 }; /* what takes about a millisecond */

bool ops_heavy(const struct request *q)
{
	size_t bytes = q->in.prompt.length + q->in.text.length;
	for (size_t i = 0; i < q->in.n_messages; i++)
		bytes += q->in.messages[i].content.length;
	return bytes > HEAVY_BYTES;
}

json_t *ops_ids_json(const int32_t *ids, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_integer(ids[i]));
	return list;
}

static int no_tokenizer(struct ipc_error *e)
{
	ipc_error_set(e, IPC_UNSUPPORTED, "this model has no tokenizer");
	err_hint(&e->err, "send token ids");
	return -1;
}

static int check_ids(const struct ids *ids, uint32_t n_vocab, struct ipc_error *e)
{
	for (size_t i = 0; i < ids->length; i++)
		if ((uint32_t)ids->data[i] >= n_vocab)
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `ids`[%zu]: token %d, the model's vocabulary has %u", i,
					     ids->data[i], n_vocab);
	return 0;
}

/* The template that the request names, or the model's own. NULL: there is none of that name. */
const struct template *ops_template(const struct request *q, struct err *e)
{
	bool own = !ipc_has(&q->in, IPC_F_TEMPLATE) || strcmp(q->in.template.data, "auto") == 0;
	return own ? q->server->store->template : template_find(q->in.template.data, e);
}

/* A prompt is one message of the user's. */
static int put_into_template(const struct request *q, const struct tokenizer *t, struct ids *ids, struct err *e)
{
	const struct ipc_request *in = &q->in;
	const struct template *p = ops_template(q, e);
	size_t n = in->n_messages ? in->n_messages : 1;
	if (p == NULL)
		return -ENOENT;
	struct template_message *messages = xcalloc(n, sizeof *messages);
	messages[0] = (struct template_message){TEMPLATE_USER, in->prompt.data, in->prompt.length};
	for (size_t i = 0; i < in->n_messages; i++) {
		const struct ipc_message *m = &in->messages[i];
		messages[i] = (struct template_message){(enum template_role)template_role(m->role.data, m->role.length), m->content.data,
							m->content.length};
	}
	int r = template_chat(p, t, &q->before, messages, n, ids, e);
	free(messages);
	return r;
}

static int encode(const struct request *q, const struct tokenizer *t, struct ids *ids, struct err *e)
{
	const struct ipc_request *in = &q->in;
	if (ipc_has(in, IPC_F_TEMPLATE) || ipc_has(in, IPC_F_MESSAGES))
		return put_into_template(q, t, ids, e);
	if (in->op == IPC_GENERATE && tokenizer_bos(t) >= 0)
		ids_add(ids, tokenizer_bos(t));
	return tokenizer_encode(t, in->prompt.data, in->prompt.length, in->special, ids, e);
}

static int make_ids(struct request *q)
{
	const struct store *store = q->server->store;
	if (ipc_has(&q->in, IPC_F_IDS)) {
		q->ids = q->in.ids;
		q->in.ids = (struct ids){0};
		return check_ids(&q->ids, store->hp.n_vocab, &q->error);
	}
	if (store->tokenizer == NULL)
		return no_tokenizer(&q->error);
	int r = encode(q, store->tokenizer, &q->ids, &q->error.err);
	if (r < 0) {
		q->error.code = r == -ENOTSUP ? IPC_UNSUPPORTED : IPC_BAD_REQUEST;
		return -1;
	}
	if (q->ids.length == 0)
		return ipc_error_set(&q->error, IPC_BAD_REQUEST, "field `prompt`: it has no tokens");
	return 0;
}

void ops_make_ids(struct request *q)
{
	q->result = make_ids(q);
}

static void tokenize(struct request *q)
{
	const struct tokenizer *t = q->server->store->tokenizer;
	q->error.code = IPC_BAD_REQUEST;
	q->result = tokenizer_encode(t, q->in.text.data, q->in.text.length, q->in.special, &q->ids, &q->error.err);
	if (q->result == 0)
		request_make(q, json_pack("{s:o}", "ids", ops_ids_json(q->ids.data, q->ids.length)));
}

static void detokenize(struct request *q)
{
	const struct tokenizer *t = q->server->store->tokenizer;
	struct buf bytes = {0}, text = {0};
	q->result = check_ids(&q->in.ids, q->server->store->hp.n_vocab, &q->error);
	if (q->result < 0)
		return;
	for (size_t i = 0; i < q->in.ids.length; i++) {
		size_t length;
		const char *token = tokenizer_bytes(t, q->in.ids.data[i], &length);
		if (token != NULL) /* rows of the vocabulary that the tokenizer does not know have no text */
			buf_add(&bytes, token, length);
	}
	if (bytes.length > 0)
		utf8_repair(bytes.data, bytes.length, &text);
	request_make(q, json_pack("{s:s%}", "text", text.length ? text.data : "", text.length));
	buf_done(&bytes);
	buf_done(&text);
}

static void answer(struct request *q)
{
	if (q->result < 0)
		request_fail(q, &q->error);
	else
		request_send(q);
}

static bool has_tokenizer(struct request *q)
{
	if (q->server->store->tokenizer != NULL)
		return true;
	no_tokenizer(&q->error);
	request_fail(q, &q->error);
	return false;
}

void op_tokenize(struct request *q)
{
	if (has_tokenizer(q))
		request_work(q, ops_heavy(q), tokenize, answer);
}

void op_detokenize(struct request *q)
{
	if (has_tokenizer(q))
		request_work(q, q->in.ids.length > HEAVY_IDS, detokenize, answer);
}
