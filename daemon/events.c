/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/events.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/transport/ipc/ipc.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "daemon/ops.h"

enum { TICK_MS = 1000, MODE = 0660, PRIVATE_MODE = 0600 };

struct pub {
	nng_socket socket;
};

static void on_tick(uv_timer_t *timer)
{
	events_tell(timer->data, "tick");
}

static int open_socket(struct events *v, struct err *e)
{
	const struct auth *a = v->server->auth;
	bool shared = a->admin_group != (gid_t)-1;
	nng_listener listener;
	struct pub *pub = v->pub = xcalloc(1, sizeof *pub);
	int r = nng_pub0_open(&pub->socket);
	if (r == 0)
		r = nng_listener_create(&listener, pub->socket, v->url);
	if (r == 0)
		r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, PRIVATE_MODE);
	if (r == 0)
		r = nng_listener_start(listener, 0);
	if (r != 0)
		return err_set(e, -EIO, "events: cannot listen at %s: %s", v->url, nng_strerror(r));
	const char *path = v->url + strlen("ipc://");
	if (shared && (chown(path, (uid_t)-1, a->admin_group) < 0 || chmod(path, MODE) < 0))
		return err_set(e, -errno, "events: cannot give %s to the admin group: %s", path, strerror(errno));
	return 0;
}

int events_open(struct events *v, struct err *e)
{
	int r = v->url ? open_socket(v, e) : 0;
	uv_timer_init(v->server->loop, &v->tick);
	v->tick.data = v;
	uv_timer_start(&v->tick, on_tick, TICK_MS, TICK_MS);
	return r;
}

static int add_bytes(const char *bytes, size_t length, void *out)
{
	buf_add(out, bytes, length);
	return 0;
}

static void publish(struct events *v, const char *what)
{
	json_t *event = ops_status_json(v->server, owner_get(&v->server->owners, v->server->auth->self), true);
	struct buf text = {0};
	json_object_set_new(event, "event", json_string(what));
	json_object_set_new(event, "time", json_integer(time(NULL)));
	if (json_dump_callback(event, add_bytes, &text, JSON_COMPACT | JSON_REAL_PRECISION(6)) == 0)
		nng_send(v->pub->socket, text.data, text.length, NNG_FLAG_NONBLOCK);
	buf_done(&text);
	json_decref(event);
}

void events_tell(struct events *v, const char *what)
{
	if (v->pub != NULL)
		publish(v, what);
	web_tell(v->web, what);
}

void events_close(struct events *v)
{
	uv_timer_stop(&v->tick);
	if (v->pub != NULL)
		nng_close(v->pub->socket);
	free(v->pub);
	v->pub = NULL;
}
