/* SPDX-License-Identifier: Apache-2.0 */
#include "http/openai.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"

/* Fields that go over as they are, under the protocol's name; OpenAI's own and those that other servers have added. */
static const struct {
	const char *theirs, *ours;
	double fallback; /* OpenAI's default where it is not the protocol's; below 0: the protocol's holds */
} fields[] = {
	{"temperature", "temp", 1}, {"top_p", "top_p", 1}, {"top_k", "top_k", 0}, {"min_p", "min_p", 0},
	{"presence_penalty", "presence_penalty", -1}, {"frequency_penalty", "frequency_penalty", -1},
	{"repeat_penalty", "repeat_penalty", -1}, {"repetition_penalty", "repeat_penalty", -1}, {"logit_bias", "logit_bias", -1},
	{"ignore_eos", "ignore_eos", -1}, {"priority", "priority", -1}, {"template", "template", -1},
};

static bool given(const json_t *body, const char *name, const json_t **ret)
{
	*ret = json_object_get(body, name);
	return *ret != NULL && !json_is_null(*ret);
}

static int want_bool(const json_t *body, const char *name, bool *ret, struct err *e)
{
	const json_t *v;
	if (!given(body, name, &v))
		return 0;
	if (!json_is_boolean(v))
		return err_set(e, -EINVAL, "field `%s`: expected true or false", name);
	*ret = json_is_true(v);
	return 0;
}

static int want_count(const json_t *body, const char *name, uint32_t most, uint32_t *ret, struct err *e)
{
	const json_t *v;
	if (!given(body, name, &v))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > most)
		return err_set(e, -EINVAL, "field `%s`: expected a whole number from 1 to %u", name, most);
	*ret = (uint32_t)json_integer_value(v);
	return 0;
}

static int read_sampling(const json_t *body, bool chat, uint32_t context, struct openai *o, struct err *e)
{
	const json_t *v;
	uint32_t n = chat ? context : 16; /* OpenAI's defaults */
	o->sampling = json_object();
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		if (given(body, fields[i].theirs, &v))
			json_object_set(o->sampling, fields[i].ours, (json_t *)v);
		else if (fields[i].fallback >= 0)
			json_object_set_new(o->sampling, fields[i].ours, json_integer((json_int_t)fields[i].fallback));
	}
	int r = 0;
	o->prompt_alone = o->echo && given(body, "max_tokens", &v) && json_is_integer(v) && json_integer_value(v) == 0 &&
			  json_is_integer(json_object_get(body, "logprobs"));
	if (!o->prompt_alone)
		r = want_count(body, "max_tokens", INT32_MAX, &n, e);
	if (r == 0)
		r = want_count(body, "max_completion_tokens", INT32_MAX, &n, e);
	json_object_set_new(o->sampling, "n", json_integer(n < context ? n : context));
	if (r == 0 && given(body, "stop", &v))
		json_object_set_new(o->sampling, "stop", json_is_string(v) ? json_pack("[O]", v) : json_incref((json_t *)v));
	if (r == 0 && (o->has_seed = given(body, "seed", &v))) {
		if (!json_is_integer(v))
			return err_set(e, -EINVAL, "field `seed`: expected a whole number");
		o->seed = (uint64_t)json_integer_value(v) & INT64_MAX;
	}
	return r;
}

/* What would change the answer and is not served. */
static int refuse_unsupported(const json_t *body, struct err *e)
{
	const json_t *v;
	static const char *const names[] = {"tools", "functions", "audio", "prediction", "suffix"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		bool empty = !given(body, names[i], &v) || (json_is_array(v) && json_array_size(v) == 0) ||
			     (json_is_string(v) && json_string_length(v) == 0);
		if (!empty)
			return err_set(e, -ENOTSUP, "field `%s` is not supported", names[i]);
	}
	if (given(body, "response_format", &v)) {
		const char *type = json_string_value(json_object_get(v, "type"));
		if (type == NULL || strcmp(type, "text") != 0)
			return err_set(e, -ENOTSUP, "field `response_format`: only {\"type\":\"text\"} is supported: falcond has no grammars "
						    "that hold an answer to JSON");
	}
	if (given(body, "best_of", &v)) {
		json_int_t n = json_integer_value(json_object_get(body, "n"));
		if (!json_is_integer(v) || json_integer_value(v) > (n > 1 ? n : 1))
			return err_set(e, -ENOTSUP, "field `best_of`: as many answers are computed as `n` says, and all of them told");
	}
	return 0;
}

/* A completion says how many alternatives; a chat says whether, and how many besides. */
static int read_logprobs(const json_t *body, struct openai *o, struct err *e)
{
	const json_t *v, *top;
	const char *name = o->chat ? "top_logprobs" : "logprobs";
	bool wanted = given(body, "logprobs", &v) && !json_is_false(v), counted = given(body, name, &top);
	if (o->chat && wanted && !json_is_true(v))
		return err_set(e, -EINVAL, "field `logprobs`: expected true or false");
	if (counted && !json_is_false(top) &&
	    (!json_is_integer(top) || json_integer_value(top) < 0 || json_integer_value(top) > OPENAI_TOP))
		return err_set(e, -EINVAL, "field `%s`: expected a whole number from 0 to %d", name, OPENAI_TOP);
	if (o->chat && counted && !wanted)
		return err_set(e, -EINVAL, "field `top_logprobs` needs `logprobs` to be true");
	if (wanted)
		json_object_set_new(o->sampling, "logprobs", json_integer(counted ? json_integer_value(top) : 0));
	return 0;
}

/* One prompt, or an array of several: strings, or arrays of ids. */
static int read_prompts(const json_t *body, struct openai *o, struct err *e)
{
	json_t *prompt = json_object_get(body, "prompt"), *first = json_array_get(prompt, 0);
	bool several = json_is_array(prompt) && (json_is_string(first) || json_is_array(first));
	o->prompts = several ? json_incref(prompt) : json_pack("[O]", prompt);
	if (o->prompts == NULL)
		return err_set(e, -EINVAL, "field `prompt` is missing");
	for (size_t i = 0; i < json_array_size(o->prompts); i++) {
		const json_t *p = json_array_get(o->prompts, i);
		if (!json_is_string(p) && !json_is_array(p))
			return err_set(e, -EINVAL, "field `prompt`: expected a string, an array of token ids, or an array of these");
	}
	return 0;
}

/* The text of a message's content: a string, or parts of text one after the other. NULL: something else. */
static json_t *content_of(const json_t *content)
{
	if (json_is_string(content))
		return json_incref((json_t *)content);
	if (content == NULL || json_is_null(content))
		return json_string("");
	struct buf text = {0};
	size_t i;
	json_t *part;
	json_array_foreach (content, i, part) {
		const json_t *t = json_object_get(part, "text");
		const char *type = json_string_value(json_object_get(part, "type"));
		if (type == NULL || strcmp(type, "text") != 0 || !json_is_string(t)) {
			buf_done(&text);
			return NULL;
		}
		buf_add(&text, json_string_value(t), json_string_length(t));
	}
	json_t *s = json_is_array(content) ? json_stringn(text.length ? text.data : "", text.length) : NULL;
	buf_done(&text);
	return s;
}

static int read_messages(const json_t *body, struct openai *o, struct err *e)
{
	const json_t *messages = json_object_get(body, "messages");
	json_t *list = json_array(), *m;
	size_t i;
	o->prompts = json_pack("[o]", list);
	if (!json_is_array(messages) || json_array_size(messages) == 0)
		return err_set(e, -EINVAL, "field `messages`: expected an array of messages, at least one");
	json_array_foreach (messages, i, m) {
		const char *role = json_string_value(json_object_get(m, "role"));
		if (role != NULL && strcmp(role, "developer") == 0)
			role = "system"; /* its newer name */
		if (role == NULL || (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
			return err_set(e, -EINVAL, "field `messages`[%zu].role: expected system, user or assistant", i);
		json_t *content = content_of(json_object_get(m, "content"));
		if (content == NULL)
			return err_set(e, -EINVAL, "field `messages`[%zu].content: expected a string, or an array of parts of type text", i);
		json_array_append_new(list, json_pack("{s:s,s:o}", "role", role, "content", content));
	}
	return 0;
}

int openai_read(const json_t *body, bool chat, uint32_t context, struct openai *o, struct err *e)
{
	const json_t *options = json_object_get(body, "stream_options");
	uint32_t n = 1;
	*o = (struct openai){.chat = chat};
	int r = chat ? read_messages(body, o, e) : read_prompts(body, o, e);
	if (r == 0)
		r = refuse_unsupported(body, e);
	if (r == 0 && !chat)
		r = want_bool(body, "echo", &o->echo, e);
	if (r == 0)
		r = read_sampling(body, chat, context, o, e);
	if (r == 0)
		r = want_bool(body, "stream", &o->stream, e);
	if (r == 0)
		r = want_bool(options, "include_usage", &o->include_usage, e);
	if (r == 0)
		r = read_logprobs(body, o, e);
	if (r == 0)
		r = want_count(body, "n", OPENAI_CHOICES, &n, e);
	o->n = n;
	if (r == 0 && n * json_array_size(o->prompts) > OPENAI_CHOICES)
		r = err_set(e, -EINVAL, "%zu answers, at most %d are given to one request", n * json_array_size(o->prompts), OPENAI_CHOICES);
	return r;
}

void openai_done(struct openai *o)
{
	json_decref(o->prompts);
	json_decref(o->sampling);
	*o = (struct openai){0};
}

json_t *openai_generate(const struct openai *o, unsigned i, const char *request_id)
{
	json_t *g = json_copy(o->sampling), *prompt = json_array_get(o->prompts, i / o->n);
	json_object_set_new(g, "op", json_string("generate"));
	json_object_set_new(g, "request_id", json_string(request_id));
	json_object_set(g, o->chat ? "messages" : json_is_string(prompt) ? "prompt" : "ids", prompt);
	if (o->has_seed)
		json_object_set_new(g, "seed", json_integer((json_int_t)((o->seed + i) & INT64_MAX)));
	return g;
}

const char *openai_error_field(const char *message, size_t *ret_length)
{
	const char *before = strstr(message, "field `"), *name = before ? before + strlen("field `") : NULL;
	*ret_length = name ? strcspn(name, "`") : 0;
	return name != NULL && name[*ret_length] == '`' ? name : NULL;
}

static bool is(const char *name, size_t length, const char *other)
{
	return strlen(other) == length && memcmp(name, other, length) == 0;
}

/* What a body calls a field of the protocol's; NULL: the same. */
static const char *their_name(const char *ours, size_t length, const char *text)
{
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
		if (is(ours, length, fields[i].ours))
			return fields[i].theirs;
	return is(ours, length, "prompt") || is(ours, length, "ids") || is(ours, length, "text") ? text : NULL;
}

json_t *openai_error(const json_t *reply, const char *text)
{
	json_t *copy = json_deep_copy(reply), *error = json_object_get(copy, "error");
	const char *message = json_string_value(json_object_get(error, "message"));
	size_t length;
	const char *name = message ? openai_error_field(message, &length) : NULL, *theirs = name ? their_name(name, length, text) : NULL;
	if (theirs != NULL)
		json_object_set_new(error, "message", json_sprintf("%.*s%s%s", (int)(name - message), message, theirs, name + length));
	return copy;
}

const char *openai_finish(const char *finish)
{
	return strcmp(finish, "length") == 0 || strcmp(finish, "context") == 0 ? "length" : "stop";
}

static json_t *object(const struct openai_head *head, const char *kind, json_t *choices, json_t *usage)
{
	json_t *a = json_pack("{s:s,s:s,s:I,s:s,s:o}", "id", head->id, "object", kind, "created", (json_int_t)head->created, "model",
			      head->model, "choices", choices);
	if (usage != NULL)
		json_object_set_new(a, "usage", usage);
	return a;
}

static json_t *finish_json(const char *finish)
{
	return finish ? json_string(finish) : json_null();
}

static json_t *or_null(json_t *v)
{
	return v ? v : json_null();
}

json_t *openai_chunk(const struct openai *o, const struct openai_head *head, unsigned index, bool first, const char *text,
		     size_t length, json_t *logprobs, const char *finish)
{
	json_t *choice = json_pack("{s:i,s:o,s:o}", "index", (int)index, "logprobs", or_null(logprobs), "finish_reason", finish_json(finish));
	if (o->chat) {
		json_t *delta = json_object();
		if (first)
			json_object_set_new(delta, "role", json_string("assistant"));
		if (text != NULL)
			json_object_set_new(delta, "content", json_stringn(text, length));
		json_object_set_new(choice, "delta", delta);
	} else {
		json_object_set_new(choice, "text", json_stringn(text ? text : "", length));
	}
	return object(head, o->chat ? "chat.completion.chunk" : "text_completion", json_pack("[o]", choice), NULL);
}

json_t *openai_choice(const struct openai *o, unsigned index, const char *text, size_t length, json_t *logprobs, const char *finish)
{
	json_t *choice = json_pack("{s:i,s:o,s:s}", "index", (int)index, "logprobs", or_null(logprobs), "finish_reason", finish);
	json_t *t = json_stringn(text ? text : "", length);
	if (o->chat)
		json_object_set_new(choice, "message", json_pack("{s:s,s:o,s:n}", "role", "assistant", "content", t, "refusal"));
	else
		json_object_set_new(choice, "text", t);
	return choice;
}

json_t *openai_answer(const struct openai *o, const struct openai_head *head, json_t *choices, json_t *usage)
{
	const char *kind = !o->chat ? "text_completion" : choices ? "chat.completion" : "chat.completion.chunk";
	return object(head, kind, choices ? choices : json_array(), usage);
}

json_t *openai_usage(uint64_t prompt, uint64_t cached, uint64_t generated)
{
	return json_pack("{s:I,s:I,s:I,s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens", (json_int_t)generated,
			 "total_tokens", (json_int_t)(prompt + generated), "prompt_tokens_details", "cached_tokens", (json_int_t)cached);
}
