/* SPDX-License-Identifier: Apache-2.0 */
#include "http/logprobs.h"

#include "base/mem.h"

/* A token as the answer has it. */
struct told {
	const char *bytes;
	size_t length;
	bool is_text;
};

static struct told look_up(const struct logprobs_shape *s, json_int_t id)
{
	struct told t = {0};
	t.bytes = s->token(s->arg, (int32_t)id, &t.length, &t.is_text);
	if (t.bytes == NULL)
		t.length = 0;
	return t;
}

static json_t *text_json(const struct told *t)
{
	json_t *text = json_stringn(t->bytes ? t->bytes : "", t->length);
	if (text != NULL)
		return text;
	struct buf escaped = {0};
	buf_printf(&escaped, "bytes:");
	for (size_t i = 0; i < t->length; i++)
		buf_printf(&escaped, "\\x%02x", (unsigned char)t->bytes[i]);
	text = json_stringn(escaped.data, escaped.length);
	buf_done(&escaped);
	return text;
}

static json_t *bytes_json(const struct told *t)
{
	json_t *list = json_array();
	for (size_t i = 0; i < t->length; i++)
		json_array_append_new(list, json_integer((unsigned char)t->bytes[i]));
	return list;
}

static json_t *entry_json(const struct told *t, json_t *logprob)
{
	return json_pack("{s:o,s:O,s:o}", "token", text_json(t), "logprob", logprob, "bytes", bytes_json(t));
}

/* [{token, logprob, bytes}, ...] of [[id, logprob], ...]. */
static json_t *chat_top(const struct logprobs_shape *s, const json_t *pairs)
{
	json_t *list = json_array(), *pair;
	size_t i;
	json_array_foreach (pairs, i, pair) {
		struct told t = look_up(s, json_integer_value(json_array_get(pair, 0)));
		json_array_append_new(list, entry_json(&t, json_array_get(pair, 1)));
	}
	return list;
}

/* {text: logprob, ...}, the token itself among them. Of several ids with the same text the likelier one is told. */
static json_t *text_top(const struct logprobs_shape *s, const json_t *pairs, const struct told *own, json_t *own_logprob)
{
	json_t *object = json_object(), *pair;
	size_t i;
	for (i = 0; i <= json_array_size(pairs); i++) {
		pair = json_array_get(pairs, i);
		struct told t = pair ? look_up(s, json_integer_value(json_array_get(pair, 0))) : *own;
		json_t *key = text_json(&t);
		if (json_object_getn(object, json_string_value(key), json_string_length(key)) == NULL)
			json_object_setn(object, json_string_value(key), json_string_length(key), pair ? json_array_get(pair, 1) : own_logprob);
		json_decref(key);
	}
	return object;
}

static void add_chat(const struct logprobs_shape *s, json_t *piece, const struct told *t, json_t *logprob, const json_t *pairs)
{
	json_t *entry = entry_json(t, logprob);
	json_object_set_new(entry, "top_logprobs", chat_top(s, pairs));
	json_array_append_new(json_object_get(piece, "content"), entry);
}

static void add_text(const struct logprobs_shape *s, json_t *piece, const struct told *t, json_t *logprob, const json_t *pairs,
		     uint64_t offset)
{
	json_array_append_new(json_object_get(piece, "tokens"), text_json(t));
	json_array_append(json_object_get(piece, "token_logprobs"), logprob);
	json_array_append_new(json_object_get(piece, "top_logprobs"),
			      json_is_array(pairs) ? text_top(s, pairs, t, logprob) : json_null());
	json_array_append_new(json_object_get(piece, "text_offset"), json_integer((json_int_t)offset));
}

/* Characters that begin in it. */
static uint64_t characters(const struct told *t)
{
	uint64_t n = 0;
	for (size_t i = 0; i < t->length; i++)
		n += ((unsigned char)t->bytes[i] & 0xc0) != 0x80;
	return n;
}

json_t *logprobs_piece(const struct logprobs_shape *s, const json_t *reply, uint64_t *offset)
{
	const json_t *ids = json_object_get(reply, "ids"), *tops = json_object_get(reply, "top_logprobs");
	json_t *logprobs = json_object_get(reply, "logprobs"), *id, *piece;
	size_t i;
	if (json_array_size(logprobs) == 0)
		return NULL;
	piece = s->chat ? json_pack("{s:[],s:n}", "content", "refusal")
			: json_pack("{s:[],s:[],s:[],s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
	json_array_foreach (ids, i, id) {
		struct told t = look_up(s, json_integer_value(id));
		if (!t.is_text && !s->all)
			continue;
		if (s->chat)
			add_chat(s, piece, &t, json_array_get(logprobs, i), json_array_get(tops, i));
		else
			add_text(s, piece, &t, json_array_get(logprobs, i), json_array_get(tops, i), *offset);
		*offset += t.is_text ? characters(&t) : 0;
	}
	return piece;
}

json_t *logprobs_join(json_t *all, json_t *piece)
{
	const char *key;
	json_t *list;
	if (all == NULL || piece == NULL)
		return all ? all : piece;
	json_object_foreach (piece, key, list)
		if (json_is_array(list))
			json_array_extend(json_object_get(all, key), list);
	json_decref(piece);
	return all;
}
