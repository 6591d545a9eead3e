/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `GET /falcon/events`: a stream of what `status` tells this client, whenever falcond says that there is something, at least
 * once a second. Each watcher asks with his own rights. One who does not keep up misses events.
 */
#include <string.h>

#include "base/check.h"
#include "http/routes.h"

enum { UNSENT_MOST = 64 << 10 };

static int add_bytes(const char *bytes, size_t length, void *out)
{
	buf_add(out, bytes, length);
	return 0;
}

static void told(struct exchange *x, void *arg, const json_t *reply)
{
	const char *what = arg;
	struct buf line = {0};
	if (x->gone || reply == NULL || json_object_get(reply, "error") != NULL)
		return;
	json_t *event = json_copy((json_t *)reply);
	json_object_set_new(event, "event", json_string(what));
	buf_printf(&line, "data: ");
	CHECK(json_dump_callback(event, add_bytes, &line, JSON_COMPACT | JSON_REAL_PRECISION(6)) == 0);
	buf_printf(&line, "\n\n");
	exchange_send(x, line.data, line.length);
	buf_done(&line);
	json_decref(event);
}

static void tell(struct exchange *x, const char *what)
{
	if (exchange_unsent(x) < UNSENT_MOST)
		exchange_ask(x, json_pack("{s:s}", "op", "status"), told, (void *)what);
}

void events_watch(struct exchange *x, const char *rest)
{
	(void)rest;
	x->watches = true;
	exchange_begin(x, "text/event-stream");
	tell(x, "hello");
}

void http_tell(struct http *h, const char *what)
{
	struct exchange *x;
	TAILQ_FOREACH (x, &h->all, link)
		if (x->watches && !x->gone)
			tell(x, what);
}
