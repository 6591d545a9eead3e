/* SPDX-License-Identifier: Apache-2.0 */
/* The connection's inside: one JSON object each way. For the files of client/ alone. */
#ifndef FALCON_CLIENT_CONNECTION_H
#define FALCON_CLIENT_CONNECTION_H

#include <jansson.h>

#include "base/mem.h"
#include "client/falcon.h"

/* What the last call returned; it lives until the next one. */
struct client_results {
	json_t *reply;
	struct ids ids;
	double *logprobs;
	struct falcon_likely *top;
	float *rows;
	struct buf text;
};

/* Fills e (may be NULL) and returns -1. */
int client_error(struct falcon_error *e, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void client_hint(struct falcon_error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Sends request with "op" set (the reference is taken), waits for the reply and leaves it in the results, which are emptied
 * first. 0 with *ret the reply, or -1: what the daemon answered, or what became of it.
 */
int client_call(struct falcon *f, const char *op, json_t *request, json_t **ret, struct falcon_error *e);

/* The reply is not what the protocol says: fills e and returns -1. */
int client_bad_reply(struct falcon *f, const char *op, struct falcon_error *e);

/* A session's name as JSON takes it. 0, or -1 with e: it is not UTF-8. */
int client_check_name(const char *session, struct falcon_error *e);

struct client_results *client_results(struct falcon *f);

/* The fields of a request as a new object without request_id, or NULL with the first error that a setter met. r may be NULL. */
json_t *client_fields(const struct falcon_request *r, struct falcon_error *e);
const char *client_request_id(const struct falcon_request *r);

#endif
