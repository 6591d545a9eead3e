/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is a JSON object that is filled by the protocol's field names; the table says of which type each is. The first
 * error that a setter meets stays in the request and is told when it is sent.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "client/connection.h"
#include "ipc/protocol.h"

#define REQUEST_MAGIC 0x46524551u

struct falcon_request {
	uint32_t magic;
	char id[33]; /* hexadecimal, 128 bits drawn by the kernel */
	json_t *fields;
	bool failed;
	struct falcon_error error; /* with failed */
};

struct falcon_request *falcon_request_new(void)
{
	struct falcon_request *r = xcalloc(1, sizeof *r);
	r->magic = REQUEST_MAGIC;
	r->fields = json_object();
	falcon_request_again(r);
	return r;
}

void falcon_request_free(struct falcon_request *r)
{
	if (r == NULL)
		return;
	CHECK_OBJ(r, REQUEST_MAGIC);
	json_decref(r->fields);
	free(r);
}

void falcon_request_again(struct falcon_request *r)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	uint8_t drawn[16];
	ssize_t n;
	do
		n = getrandom(drawn, sizeof drawn, 0);
	while (n < 0 && errno == EINTR);
	CHECK(n == (ssize_t)sizeof drawn);
	for (size_t i = 0; i < sizeof drawn; i++) {
		r->id[2 * i] = "0123456789abcdef"[drawn[i] >> 4];
		r->id[2 * i + 1] = "0123456789abcdef"[drawn[i] & 15];
	}
}

const char *client_request_id(const struct falcon_request *r)
{
	return r->id;
}

json_t *client_fields(const struct falcon_request *r, struct falcon_error *e)
{
	if (r == NULL)
		return json_object();
	CHECK_OBJ(r, REQUEST_MAGIC);
	if (!r->failed)
		return json_copy(r->fields);
	if (e != NULL)
		*e = r->error;
	return NULL;
}

static int refuse(struct falcon_request *r, const struct falcon_error *error, struct falcon_error *e)
{
	if (!r->failed)
		r->error = *error;
	r->failed = true;
	if (e != NULL)
		*e = *error;
	return -1;
}

/* Sets the field if the protocol has it with one of these types (a mask of 1 << enum ipc_type). Takes the value. */
static int set(struct falcon_request *r, const char *name, unsigned types, json_t *value, struct falcon_error *e)
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	struct falcon_error error;
	for (unsigned i = 0; i < IPC_FIELDS; i++) {
		if (strcmp(ipc_fields[i].name, name) != 0)
			continue;
		if (types >> ipc_fields[i].type & 1)
			return json_object_set_new(r->fields, name, value);
		json_decref(value);
		client_error(&error, "bad_request", "field `%s` is of another type", name);
		return refuse(r, &error, e);
	}
	json_decref(value);
	client_error(&error, "bad_request", "the protocol has no field `%s`", name);
	return refuse(r, &error, e);
}

static int not_utf8(struct falcon_request *r, const char *field, struct falcon_error *e)
{
	struct falcon_error error;
	client_error(&error, "bad_request", "field `%s`: the text is not UTF-8", field);
	client_hint(&error, "convert it first, with iconv for instance");
	return refuse(r, &error, e);
}

static int no_number(struct falcon_request *r, const char *field, struct falcon_error *e)
{
	struct falcon_error error;
	client_error(&error, "bad_request", "field `%s`: expected a finite number", field);
	return refuse(r, &error, e);
}

int falcon_set_text(struct falcon_request *r, const char *field, const char *text, size_t length, struct falcon_error *e)
{
	json_t *s = json_stringn(text, length);
	return s == NULL ? not_utf8(r, field, e) : set(r, field, 1 << IPC_TEXT | 1 << IPC_NAME | 1 << IPC_TOKEN, s, e);
}

int falcon_set_int(struct falcon_request *r, const char *field, int64_t value, struct falcon_error *e)
{
	return set(r, field, 1 << IPC_INT | 1 << IPC_REAL, json_integer(value), e);
}

int falcon_set_real(struct falcon_request *r, const char *field, double value, struct falcon_error *e)
{
	json_t *number = json_real(value);
	return number == NULL ? no_number(r, field, e) : set(r, field, 1 << IPC_REAL, number, e);
}

int falcon_set_bool(struct falcon_request *r, const char *field, bool value, struct falcon_error *e)
{
	return set(r, field, 1 << IPC_BOOL, json_boolean(value), e);
}

int falcon_set_ids(struct falcon_request *r, const char *field, const int32_t *ids, size_t n, struct falcon_error *e)
{
	json_t *array = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_integer(ids[i]));
	return set(r, field, 1 << IPC_IDS, array, e);
}

/* The container of that name, made if it is not there yet. */
static json_t *container(struct falcon_request *r, const char *field, json_t *(*make)(void))
{
	CHECK_OBJ(r, REQUEST_MAGIC);
	if (json_object_get(r->fields, field) == NULL)
		json_object_set_new(r->fields, field, make());
	return json_object_get(r->fields, field);
}

int falcon_add_stop(struct falcon_request *r, const char *text, size_t length, struct falcon_error *e)
{
	json_t *s = json_stringn(text, length);
	return s == NULL ? not_utf8(r, "stop", e) : json_array_append_new(container(r, "stop", json_array), s);
}

int falcon_add_message(struct falcon_request *r, const char *role, const char *text, size_t length, struct falcon_error *e)
{
	json_t *s = json_stringn(text, length), *name = json_string(role);
	if (s != NULL && name != NULL)
		return json_array_append_new(container(r, "messages", json_array), json_pack("{s:o,s:o}", "role", name, "content", s));
	json_decref(s);
	json_decref(name);
	return not_utf8(r, "messages", e);
}

int falcon_add_bias(struct falcon_request *r, int32_t id, double bias, struct falcon_error *e)
{
	char key[16];
	snprintf(key, sizeof key, "%d", id);
	json_t *number = json_real(bias);
	return number == NULL ? no_number(r, "logit_bias", e)
			      : json_object_set_new(container(r, "logit_bias", json_object), key, number);
}
