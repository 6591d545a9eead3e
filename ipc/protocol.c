/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codec between messages and struct ipc_request. jansson parses; here is only what the tables of ipc/table.c ask for:
 * each value is checked against its field's type and bounds and put where `places` says. An error names the field, what
 * was expected and what came, because whoever wrote the client reads it without our source at hand.
 */
#include "ipc/protocol.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { STOPS_MAX = 8, BIASES_MAX = 64, NAME_MAX_BYTES = 64 };

static const size_t places[IPC_FIELDS] = {
	[IPC_F_SESSION] = offsetof(struct ipc_request, session),
	[IPC_F_NEW] = offsetof(struct ipc_request, new_session),
	[IPC_F_REQUEST_ID] = offsetof(struct ipc_request, request_id),
	[IPC_F_PROMPT] = offsetof(struct ipc_request, prompt),
	[IPC_F_MESSAGES] = offsetof(struct ipc_request, messages),
	[IPC_F_IDS] = offsetof(struct ipc_request, ids),
	[IPC_F_TEMPLATE] = offsetof(struct ipc_request, template),
	[IPC_F_TEXT] = offsetof(struct ipc_request, text),
	[IPC_F_SPECIAL] = offsetof(struct ipc_request, special),
	[IPC_F_N] = offsetof(struct ipc_request, n),
	[IPC_F_TEMP] = offsetof(struct ipc_request, temp),
	[IPC_F_TOP_K] = offsetof(struct ipc_request, top_k),
	[IPC_F_TOP_P] = offsetof(struct ipc_request, top_p),
	[IPC_F_MIN_P] = offsetof(struct ipc_request, min_p),
	[IPC_F_REPEAT_PENALTY] = offsetof(struct ipc_request, repeat_penalty),
	[IPC_F_REPEAT_LAST_N] = offsetof(struct ipc_request, repeat_last_n),
	[IPC_F_PRESENCE_PENALTY] = offsetof(struct ipc_request, presence_penalty),
	[IPC_F_FREQUENCY_PENALTY] = offsetof(struct ipc_request, frequency_penalty),
	[IPC_F_LOGIT_BIAS] = offsetof(struct ipc_request, biases),
	[IPC_F_SEED] = offsetof(struct ipc_request, seed),
	[IPC_F_STOP] = offsetof(struct ipc_request, stops),
	[IPC_F_IGNORE_EOS] = offsetof(struct ipc_request, ignore_eos),
	[IPC_F_PRIORITY] = offsetof(struct ipc_request, priority),
	[IPC_F_AT] = offsetof(struct ipc_request, at),
	[IPC_F_CURSOR] = offsetof(struct ipc_request, cursor),
	[IPC_F_WAIT_MS] = offsetof(struct ipc_request, wait_ms),
	[IPC_F_LOGPROBS] = offsetof(struct ipc_request, logprobs),
	[IPC_F_ROWS] = offsetof(struct ipc_request, rows),
	[IPC_F_SPILL] = offsetof(struct ipc_request, spill),
	[IPC_F_OFFSET] = offsetof(struct ipc_request, offset),
	[IPC_F_DATA] = offsetof(struct ipc_request, data),
	[IPC_F_LAST] = offsetof(struct ipc_request, last),
	[IPC_F_PAGES] = offsetof(struct ipc_request, pages),
};

int ipc_error_set(struct ipc_error *e, enum ipc_code code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(e->err.what, sizeof e->err.what, format, args);
	va_end(args);
	e->err.hint[0] = '\0';
	e->err.code = -EPROTO;
	e->code = code;
	return -1;
}

/* How a value that was not expected is told: short, printable, in a static form for all but strings and numbers. */
struct shown {
	char text[64];
};

static struct shown show(const json_t *v)
{
	struct shown s;
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		snprintf(s.text, sizeof s.text, "an object");
		break;
	case JSON_ARRAY:
		snprintf(s.text, sizeof s.text, "an array of %zu", json_array_size(v));
		break;
	case JSON_STRING: {
		const char *t = json_string_value(v);
		size_t n = json_string_length(v), keep = 0;
		while (keep < n && keep < 32 && t[keep] > ' ' - 1 && t[keep] < 0x7f)
			keep++;
		if (keep == n)
			snprintf(s.text, sizeof s.text, "\"%s\"", t);
		else
			snprintf(s.text, sizeof s.text, "a string of %zu bytes", n);
		break;
	}
	case JSON_INTEGER:
		snprintf(s.text, sizeof s.text, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
		break;
	case JSON_REAL:
		snprintf(s.text, sizeof s.text, "the real number %g", json_real_value(v));
		break;
	default:
		snprintf(s.text, sizeof s.text, "%s", json_is_true(v) ? "true" : json_is_false(v) ? "false" : "null");
	}
	return s;
}

/* "field `temp`: expected a number from 0 to 100, got a string" */
static int unexpected(const struct ipc_field_info *f, const json_t *v, struct ipc_error *e, const char *format, ...)
{
	char expected[160];
	va_list args;
	va_start(args, format);
	vsnprintf(expected, sizeof expected, format, args);
	va_end(args);
	return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`: expected %s, got %s", f->name, expected, show(v).text);
}

static struct ipc_text text_of(const json_t *string)
{
	return (struct ipc_text){.data = json_string_value(string), .length = json_string_length(string)};
}

static bool plain_name(const char *s, size_t n)
{
	if (n < 1 || n > NAME_MAX_BYTES)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
		      s[i] == '.' || s[i] == '_' || s[i] == '-'))
			return false;
	return true;
}

static size_t digits(const char *s, size_t n)
{
	size_t i = 0;
	while (i < n && s[i] >= '0' && s[i] <= '9')
		i++;
	return i;
}

/* NAME, ~N, UID:NAME or UID:~N; numbers of up to 20 digits, what 64 bits need. */
static bool any_name(const char *s, size_t n)
{
	size_t uid = digits(s, n);
	if (uid > 0 && uid <= 20 && uid < n && s[uid] == ':') {
		s += uid + 1;
		n -= uid + 1;
	}
	if (n > 1 && s[0] == '~')
		return n <= 21 && digits(s + 1, n - 1) == n - 1;
	return plain_name(s, n);
}

static bool among(const char *choices, const char *s, size_t n)
{
	for (const char *at = choices;;) {
		size_t length = strcspn(at, "|");
		if (length == n && memcmp(at, s, n) == 0)
			return true;
		if (at[length] == '\0')
			return false;
		at += length + 1;
	}
}

static int take_text(const struct ipc_field_info *f, const json_t *v, struct ipc_text *ret, struct ipc_error *e)
{
	if (!json_is_string(v))
		return unexpected(f, v, e, "a string");
	struct ipc_text t = text_of(v);
	if (f->type == IPC_NAME && !any_name(t.data, t.length))
		return unexpected(f, v, e, "a name of 1 to %d characters from A-Z a-z 0-9 . _ -", NAME_MAX_BYTES);
	if (f->type != IPC_NAME && ((double)t.length < f->low || (double)t.length > f->high))
		return unexpected(f, v, e, "%.0f to %.0f bytes", f->low, f->high);
	if (f->choices != NULL && !among(f->choices, t.data, t.length))
		return unexpected(f, v, e, "one of %s", f->choices);
	*ret = t;
	return 0;
}

/* 2^63 - 1 is no double: the table has 2^63, jansson refuses what does not fit 64 bits with a sign. */
static const char *high_text(const struct ipc_field_info *f, char *out, size_t size)
{
	if (f->high >= 0x1p63)
		return "9223372036854775807";
	snprintf(out, size, "%.0f", f->high);
	return out;
}

static int take_int(const struct ipc_field_info *f, const json_t *v, void *place, struct ipc_error *e)
{
	char high[32];
	if (!json_is_integer(v) || (double)json_integer_value(v) < f->low || (double)json_integer_value(v) > f->high)
		return unexpected(f, v, e, "a whole number from %.0f to %s", f->low, high_text(f, high, sizeof high));
	if (f->high > UINT32_MAX)
		*(uint64_t *)place = (uint64_t)json_integer_value(v);
	else
		*(uint32_t *)place = (uint32_t)json_integer_value(v);
	return 0;
}

/* The list may be long: its JSON goes here, where a thread may be at it, and not with the request. */
static int take_ids(const struct ipc_field_info *f, json_t *v, struct ids *ret, struct ipc_error *e)
{
	if (!json_is_array(v))
		return unexpected(f, v, e, "an array of token ids");
	size_t n = json_array_size(v);
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_array_get(v, i);
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX) {
			ids_done(ret);
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`[%zu]: expected a token id, got %s", f->name, i,
					     show(id).text);
		}
		ids_add(ret, (int32_t)json_integer_value(id));
	}
	if (v->refcount == 1) /* HTTP keeps its prompts: each is asked for several times */
		json_array_clear(v);
	return 0;
}

static int take_stops(const struct ipc_field_info *f, const json_t *v, struct ipc_request *r, struct ipc_error *e)
{
	if (!json_is_array(v) || json_array_size(v) > STOPS_MAX)
		return unexpected(f, v, e, "an array of at most %d strings", STOPS_MAX);
	for (size_t i = 0; i < json_array_size(v); i++) {
		const json_t *s = json_array_get(v, i);
		size_t n = json_string_length(s);
		if (!json_is_string(s) || (double)n < f->low || (double)n > f->high)
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`[%zu]: expected a string of %.0f to %.0f bytes, got %s",
					     f->name, i, f->low, f->high, show(s).text);
		r->stops[r->n_stops++] = text_of(s);
	}
	return 0;
}

static int take_biases(const struct ipc_field_info *f, json_t *v, struct ipc_request *r, struct ipc_error *e)
{
	if (!json_is_object(v) || json_object_size(v) > BIASES_MAX)
		return unexpected(f, v, e, "an object of at most %d \"id\": number", BIASES_MAX);
	const char *key;
	json_t *bias;
	json_object_foreach (v, key, bias) {
		size_t n = strlen(key);
		long long id = n > 0 && n <= 10 && digits(key, n) == n ? atoll(key) : -1;
		double value = json_number_value(bias);
		if (id < 0 || id > INT32_MAX || (n > 1 && key[0] == '0'))
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`: expected token ids as keys, got one of %zu bytes",
					     f->name, n);
		if (!json_is_number(bias) || !(value >= f->low && value <= f->high))
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`[\"%s\"]: expected a number from %g to %g, got %s",
					     f->name, key, f->low, f->high, show(bias).text);
		r->biases[r->n_biases].id = (int32_t)id;
		r->biases[r->n_biases++].bias = (float)value;
	}
	return 0;
}

static int take_messages(const struct ipc_field_info *f, const json_t *v, struct ipc_request *r, struct ipc_error *e)
{
	size_t n = json_array_size(v);
	if (n == 0)
		return unexpected(f, v, e, "an array of messages, at least one");
	r->messages = xcalloc(n, sizeof *r->messages);
	for (; r->n_messages < n; r->n_messages++) {
		const json_t *m = json_array_get(v, r->n_messages), *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
		if (!json_is_string(role) || !among(f->choices, json_string_value(role), json_string_length(role)))
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`[%zu].role: expected one of %s, got %s", f->name, r->n_messages,
					     f->choices, role ? show(role).text : "nothing");
		if (!json_is_string(content) || json_object_size(m) != 2)
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`[%zu]: expected `role` and a string `content` alone", f->name,
					     r->n_messages);
		r->messages[r->n_messages] = (struct ipc_message){.role = text_of(role), .content = text_of(content)};
	}
	return 0;
}

static int take(enum ipc_field field, json_t *v, struct ipc_request *r, struct ipc_error *e)
{
	const struct ipc_field_info *f = &ipc_fields[field];
	void *place = (char *)r + places[field];
	switch (f->type) {
	case IPC_TEXT:
	case IPC_NAME:
	case IPC_TOKEN:
		return take_text(f, v, place, e);
	case IPC_BOOL:
		if (!json_is_boolean(v))
			return unexpected(f, v, e, "true or false");
		*(bool *)place = json_is_true(v);
		return 0;
	case IPC_INT:
		return take_int(f, v, place, e);
	case IPC_REAL:
		if (!json_is_number(v) || !(json_number_value(v) >= f->low && json_number_value(v) <= f->high))
			return unexpected(f, v, e, "a number from %g to %g", f->low, f->high);
		*(double *)place = json_number_value(v);
		return 0;
	case IPC_IDS:
		return take_ids(f, v, place, e);
	case IPC_STOPS:
		return take_stops(f, v, r, e);
	case IPC_BIAS:
		return take_biases(f, v, r, e);
	case IPC_MESSAGES:
		return take_messages(f, v, r, e);
	}
	CHECK(!"a field type that is not handled");
	return -1;
}

/* The table's default, written as JSON but for texts. */
static void fall_back(enum ipc_field field, struct ipc_request *r)
{
	const struct ipc_field_info *f = &ipc_fields[field];
	void *place = (char *)r + places[field];
	switch (f->type) {
	case IPC_TEXT:
		*(struct ipc_text *)place = (struct ipc_text){.data = f->fallback, .length = strlen(f->fallback)};
		break;
	case IPC_BOOL:
		*(bool *)place = f->fallback[0] == 't';
		break;
	case IPC_INT:
		*(uint32_t *)place = (uint32_t)strtoul(f->fallback, NULL, 10);
		break;
	case IPC_REAL:
		*(double *)place = strtod(f->fallback, NULL);
		break;
	default:
		CHECK(!"a default of a type that has none");
	}
}

/* Levenshtein's distance of two short names. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[33], n = (unsigned)strlen(b);
	if (n > 32 || strlen(a) > 32)
		return UINT32_MAX;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1] != '\0'; i++) {
		unsigned diagonal = row[0];
		row[0] = i;
		for (unsigned j = 1; j <= n; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			unsigned least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
			row[j] = change < least ? change : least;
		}
	}
	return row[n];
}

static bool close_to(const char *typed, const char *name)
{
	return distance(typed, name) <= 2 || (strlen(typed) >= 3 && strncmp(typed, name, strlen(typed)) == 0);
}

/* The names close to what was typed, or all if none is: a hint. */
static void suggest(const char *typed, const char *const *names, unsigned n, struct ipc_error *e)
{
	struct buf list = {0};
	for (int all = 0; all < 2 && list.length == 0; all++)
		for (unsigned i = 0; i < n; i++)
			if (all || close_to(typed, names[i]))
				buf_printf(&list, "%s%s", list.length ? ", " : "", names[i]);
	err_hint(&e->err, "known: %s", list.data);
	buf_done(&list);
}

static int find_op(const json_t *root, enum ipc_op *ret, struct ipc_error *e)
{
	const json_t *v = json_object_get(root, "op");
	const char *names[IPC_OPS];
	for (unsigned i = 0; i < IPC_OPS; i++)
		names[i] = ipc_ops[i].name;
	if (!json_is_string(v)) {
		ipc_error_set(e, IPC_BAD_REQUEST, "field `op`: expected the name of an operation, got %s",
			      v == NULL ? "nothing" : show(v).text);
		suggest("", names, IPC_OPS, e);
		return -1;
	}
	for (unsigned i = 0; i < IPC_OPS; i++)
		if (strlen(names[i]) == json_string_length(v) && strcmp(names[i], json_string_value(v)) == 0) {
			*ret = (enum ipc_op)i;
			return 0;
		}
	ipc_error_set(e, IPC_BAD_REQUEST, "unknown operation %s", show(v).text);
	suggest(json_string_value(v), names, IPC_OPS, e);
	return -1;
}

static int unknown_field(const struct ipc_op_info *op, const char *key, struct ipc_error *e)
{
	const char *names[IPC_FIELDS];
	unsigned n = 0;
	for (unsigned i = 0; i < IPC_FIELDS; i++)
		if ((op->required | op->optional) >> i & 1)
			names[n++] = ipc_fields[i].name;
	json_t *shown = json_string(key);
	ipc_error_set(e, IPC_BAD_REQUEST, "operation %s has no field %s", op->name, show(shown).text);
	json_decref(shown);
	if (n > 0)
		suggest(key, names, n, e);
	else
		err_hint(&e->err, "it has no fields");
	return -1;
}

static int take_fields(json_t *root, struct ipc_request *r, struct ipc_error *e)
{
	const struct ipc_op_info *op = &ipc_ops[r->op];
	const char *key;
	json_t *v;
	json_object_foreach (root, key, v) {
		if (strcmp(key, "op") == 0)
			continue;
		unsigned field = 0;
		while (field < IPC_FIELDS &&
		       (!((op->required | op->optional) >> field & 1) || strcmp(ipc_fields[field].name, key) != 0))
			field++;
		if (field == IPC_FIELDS)
			return unknown_field(op, key, e);
		if (take((enum ipc_field)field, v, r, e) < 0)
			return -1;
		r->present |= 1ull << field;
	}
	for (unsigned i = 0; i < IPC_FIELDS; i++) {
		uint64_t bit = 1ull << i;
		if (r->present & bit)
			continue;
		if (op->required & bit)
			return ipc_error_set(e, IPC_BAD_REQUEST, "operation %s needs the field `%s`: %s", op->name,
					     ipc_fields[i].name, ipc_fields[i].help);
		if ((op->optional & bit) && ipc_fields[i].fallback && !(r->op == IPC_APPEND && (ipc_sampling_fields & bit)))
			fall_back((enum ipc_field)i, r);
	}
	return 0;
}

/* What a single field's row cannot say. */
static int check_together(const struct ipc_request *r, struct ipc_error *e)
{
	const struct ipc_op_info *op = &ipc_ops[r->op];
	bool ids = ipc_has(r, IPC_F_IDS);
	unsigned given = ipc_prompts(r);
	if (op->optional >> IPC_F_PROMPT & 1) {
		if (given != 1 && !(given == 0 && r->op == IPC_APPEND))
			return ipc_error_set(e, IPC_BAD_REQUEST, "operation %s %s one of `prompt`, %s`ids`, got %u of them", op->name,
					     r->op == IPC_APPEND ? "takes at most" : "needs",
					     op->optional >> IPC_F_MESSAGES & 1 ? "`messages`, " : "", given);
		if (given == 0 && ipc_has(r, IPC_F_TEMPLATE))
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `template` puts a `prompt` into a template, and there is none");
		if (ids && r->ids.length == 0)
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `ids`: expected at least one token id, got none");
		if (ids && ipc_has(r, IPC_F_TEMPLATE))
			return ipc_error_set(e, IPC_BAD_REQUEST, "field `template` puts a `prompt` into a template, not `ids`");
	}
	const struct ipc_text *made = r->op == IPC_GENERATE || r->op == IPC_IMPORT ? &r->session : r->op == IPC_FORK ? &r->new_session : NULL;
	if (made != NULL && made->data != NULL && !plain_name(made->data, made->length)) {
		ipc_error_set(e, IPC_BAD_REQUEST, "field `%s`: \"%s\" cannot be made", r->op == IPC_FORK ? "new" : "session", made->data);
		err_hint(&e->err, "names with ~ are given by the daemon, and UID:name is another's; leave the field out for one with ~");
		return -1;
	}
	return 0;
}

int ipc_decode(const char *bytes, size_t length, struct ipc_request *ret, struct ipc_error *e)
{
	json_error_t at;
	json_t *root = json_loadb(bytes, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
	if (root == NULL) {
		ipc_error_set(e, IPC_BAD_REQUEST, "not a JSON object: byte %d: %s", at.position, at.text);
		err_hint(&e->err, "a message is one JSON object in UTF-8 with the field \"op\"");
		return -1;
	}
	return ipc_decode_json(root, ret, e);
}

int ipc_decode_json(json_t *root, struct ipc_request *ret, struct ipc_error *e)
{
	struct ipc_request r = {.root = root};
	if (!json_is_object(root)) {
		ipc_error_set(e, IPC_BAD_REQUEST, "expected a JSON object, got %s", show(root).text);
		err_hint(&e->err, "a message is one JSON object in UTF-8 with the field \"op\"");
		goto fail;
	}
	if (find_op(root, &r.op, e) < 0 || take_fields(root, &r, e) < 0 || check_together(&r, e) < 0)
		goto fail;
	*ret = r;
	return 0;
fail:
	ipc_request_done(&r);
	return -1;
}

void ipc_request_done(struct ipc_request *r)
{
	ids_done(&r->ids);
	free(r->messages);
	json_decref(r->root);
	*r = (struct ipc_request){0};
}

/* A text that may have been cut inside a character, as vsnprintf does, loses all that is not ASCII. */
static json_t *string_of(const char *text)
{
	json_t *s = json_string(text);
	if (s != NULL)
		return s;
	char *ascii = xstrdup(text);
	for (char *c = ascii; *c != '\0'; c++)
		if ((unsigned char)*c > 0x7e)
			*c = '?';
	s = json_string(ascii);
	free(ascii);
	return s;
}

json_t *ipc_error_json(const struct ipc_error *e)
{
	return json_pack("{s:{s:s,s:o,s:o}}", "error", "code", ipc_code_name(e->code), "message", string_of(e->err.what), "hint",
			 string_of(e->err.hint));
}

static int add_bytes(const char *bytes, size_t length, void *out)
{
	buf_add(out, bytes, length);
	return 0;
}

void ipc_encode(json_t *reply, struct buf *out)
{
	CHECK(reply != NULL);
	CHECK(json_dump_callback(reply, add_bytes, out, JSON_COMPACT | JSON_REAL_PRECISION(15)) == 0);
	json_decref(reply);
}
