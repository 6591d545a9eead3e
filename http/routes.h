/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to ask for: a table of methods and paths. */
#ifndef FALCON_HTTP_ROUTES_H
#define FALCON_HTTP_ROUTES_H

#include "http/exchange.h"

typedef void route_handler(struct exchange *x, const char *rest);

struct route {
	const char *method, *path; /* a path that ends with '/' is a prefix; what follows it is the handler's `rest` */
	route_handler *handle;
	bool open;                 /* for everybody, whoever he is, and before there is a model */
};

/* The route, or NULL; then *ret_allowed is the method that the path has, or NULL if there is no such path. */
const struct route *routes_find(const char *method, const char *path, const char **ret_rest, const char **ret_allowed);

/* The request's body as a JSON object, which the caller frees; NULL: the response says what is wrong with it. */
json_t *routes_body(struct exchange *x);

/* page.c */
route_handler page_get;

/* events.c */
route_handler events_watch;

/* completions.c */
route_handler completions_text, completions_chat;

/* embeddings.c */
route_handler embeddings_post;

#endif
