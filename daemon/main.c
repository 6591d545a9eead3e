/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcond: from options to a loop that serves, and back. In order: configuration, the segments of the falcond before this one,
 * or else the weights (packed by a child), pages and board; the first engine, and only then the socket, so that whoever can
 * connect is served. It ends the other way round.
 */
#include <config.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/log.h"
#include "daemon/adopt.h"
#include "daemon/child.h"
#include "daemon/cli.h"
#include "daemon/events.h"
#include "daemon/notify.h"
#include "daemon/packer.h"
#include "daemon/server.h"
#include "daemon/upgrade.h"
#include "daemon/web.h"

enum { EXIT_FAILED = 1, SETTLE_MS = 1000, PAUSE_MS = 1000 };

struct app {
	uv_loop_t *loop;
	struct config config;
	struct auth auth;
	struct inherited inherited;
	struct keep keep;
	struct store store;
	struct adopt adopt;
	struct supervisor supervisor;
	struct server server;
	struct web web;
	struct events events;
	struct upgrade upgrade;
	uv_signal_t term, interrupt;
	uv_timer_t settle;  /* until it is known that falcond serves well over these segments */
	bool stopping, has_server, upgrading;
	int status; /* of the exit */
};

static void print_err(const struct err *e)
{
	log_error("%s%s%s", e->what, e->hint[0] ? "; " : "", e->hint);
}

static void stop(struct app *a)
{
	if (a->stopping)
		return;
	a->stopping = true;
	if (!a->upgrading)
		notify_stopping();
	packer_stop();
	web_stop(&a->web, a->status != 0);
	if (a->has_server) {
		events_close(&a->events);
		server_stop(&a->server);
		supervisor_stop(&a->supervisor);
	}
}

static void give_up(struct app *a, const struct err *e)
{
	print_err(e);
	notify_status("failed: %s", e->what);
	a->status = EXIT_FAILED;
	stop(a);
}

static void on_upgrade(void *arg)
{
	struct app *a = arg;
	log_notice("upgrade: becoming the program that is installed now");
	a->upgrading = true;
	stop(a);
}

static void on_signal(uv_signal_t *handle, int number)
{
	log_info("%s: stopping", strsignal(number));
	stop(handle->data);
}

static void on_progress(unsigned percent)
{
	static unsigned logged;
	notify_status("packing the model: %u %%", percent);
	if (percent < logged + 10 && percent != 100)
		return;
	logged = percent;
	log_info("packing the model: %u %%", percent);
}

/* An engine has computed a step over these segments, or there is nothing to compute. */
static void on_settle(uv_timer_t *timer)
{
	struct app *a = timer->data;
	uint64_t step = atomic_load_explicit(&a->store.board.header->step, memory_order_relaxed);
	if (step / 2 <= (a->supervisor.first_step + 1) / 2 && !TAILQ_EMPTY(&a->server.sessions.active))
		return;
	adopt_settle(&a->store.board);
	uv_timer_stop(timer);
}

static void on_ready(void *arg)
{
	struct app *a = arg;
	struct err e;
	const struct board_header *h = a->store.board.header;
	log_info("engine %d computes on %u threads with %s", a->supervisor.process.pid, h->threads, a->supervisor.isa);
	if (a->server.endpoint != NULL) {
		events_tell(&a->events, "engine_ready");
		return;
	}
	if (server_open(&a->server, &e) < 0) {
		give_up(a, &e);
		return;
	}
	web_ready(&a->web);
	notify_ready();
	notify_status("serving %s", a->store.model);
	uv_timer_start(&a->settle, on_settle, SETTLE_MS, SETTLE_MS);
	log_info("ready: %s on %s", a->store.model, a->config.socket);
}

static void on_scan(void *arg)
{
	server_scan(&((struct app *)arg)->server);
}

static void on_reaped(void *arg)
{
	struct app *a = arg;
	server_engine_gone(&a->server);
	events_tell(&a->events, "engine_gone");
}

static bool on_busy(void *arg)
{
	return server_busy(&((struct app *)arg)->server);
}

static void on_guilty(void *arg, uint32_t slot, uint32_t run, uint32_t cause)
{
	server_fail_session(&((struct app *)arg)->server, slot, run, cause);
}

/* For the watchdog. Before there is an engine, and once it was told to end, the loop is all there is to watch. */
static bool is_alive(void *arg)
{
	const struct app *a = arg;
	return !a->has_server || a->stopping || supervisor_alive(&a->supervisor);
}

static void on_failed(void *arg, const struct err *e)
{
	give_up(arg, e);
}

static unsigned count_threads(const struct config *c)
{
	return c->threads ? (unsigned)c->threads : uv_available_parallelism();
}

/* The weights into a set of their own. */
static int pack(struct app *a, struct err *e)
{
	int r = store_begin(&a->store, &a->keep, e);
	if (r == 0)
		r = packer_run(a->loop, a->supervisor.engine, a->config.model, a->store.image, a->store.set_id, on_progress, e);
	return r == 0 ? store_finish_weights(&a->store, &a->keep, e) : r;
}

static void log_store(const struct app *a)
{
	const struct store *s = &a->store;
	log_info("%s: %llu MiB of weights, contexts of %u tokens, %u pages of %llu KiB", s->model,
		 (unsigned long long)(s->weights_size >> 20), s->board.n_context, s->arena.n_pages,
		 (unsigned long long)(s->arena.stride >> 10));
}

/* The three segments, those of the falcond before this one where they are good. */
static int open_store(struct app *a, struct err *e)
{
	int r = child_find_engine(a->supervisor.engine, sizeof a->supervisor.engine, e);
	if (r == 0)
		r = keep_open(&a->keep, &a->inherited, a->config.segments, e);
	if (r == 0)
		r = adopt_begin(&a->adopt, &a->store, &a->keep, &a->config, e);
	if (r == 0 && !a->adopt.weights)
		r = pack(a, e);
	if (r == 0 && !a->adopt.board)
		r = store_make_arena(&a->store, &a->keep, &a->config, e);
	if (r == 0)
		log_store(a);
	return r;
}

/* The server with its sessions; from here on the segments outlive falcond. */
static int open_sessions(struct app *a, struct err *e)
{
	a->server.loop = a->loop;
	a->server.config = &a->config;
	a->server.auth = &a->auth;
	a->server.store = &a->store;
	a->server.supervisor = &a->supervisor;
	a->server.upgrade = &a->upgrade;
	server_init(&a->server);
	a->has_server = true;
	adopt_sessions(&a->adopt, &a->store, &a->server.sessions, &a->server.owners);
	int r = server_restore(&a->server, e);
	if (r == 0 && a->server.sessions.n_sessions > 0)
		log_info("%u sessions are there again", a->server.sessions.n_sessions);
	if (r == 0 && !a->adopt.board)
		r = keep_commit(&a->keep, &a->store.set, e);
	if (r == 0)
		adopt_end(&a->adopt, &a->keep);
	return r;
}

/* The segments, then all that stands on them. */
static int load(struct app *a, struct err *e)
{
	struct supervisor *s = &a->supervisor;
	int r = open_store(a, e);
	if (r < 0)
		return r;
	s->loop = a->loop;
	s->store = &a->store;
	s->threads = count_threads(&a->config);
	s->openblas = a->config.dense == 1;
	s->step_deadline_ms = a->config.step_deadline * 1000;
	s->ready = on_ready;
	s->scan = on_scan;
	s->reaped = on_reaped;
	s->busy = on_busy;
	s->guilty = on_guilty;
	s->failed = on_failed;
	s->arg = a;
	if ((r = supervisor_open(s, e)) < 0 || (r = open_sessions(a, e)) < 0)
		return r;
	server_scan(&a->server);
	if ((r = supervisor_start(s, e)) < 0)
		return r;
	a->events = (struct events){.server = &a->server, .web = &a->web, .url = a->config.events};
	return events_open(&a->events, e);
}

/* A socket where somebody answers is refused at once, not only after minutes of packing. */
static int check_socket(const char *key, const char *url, struct err *e)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	if (strncmp(url, "ipc://", 6) != 0 || url[6] != '/' || strlen(url + 6) >= sizeof at.sun_path) {
		err_set(e, -EINVAL, "%s: \"%s\" is not ipc:// and an absolute path of at most %zu bytes", key, url, sizeof at.sun_path - 1);
		return err_hint(e, "such as ipc:///run/falcond/falcond.sock");
	}
	memcpy(at.sun_path, url + 6, strlen(url + 6) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool live = fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0;
	if (fd >= 0)
		close(fd);
	if (!live)
		return 0;
	err_set(e, -EADDRINUSE, "%s: another process listens there", url);
	return err_hint(e, "stop it, or choose another socket");
}

static int prepare(struct app *a, struct err *e)
{
	struct rlimit files;
	if (a->config.model == NULL) {
		err_set(e, -EINVAL, "no model is configured");
		return err_hint(e, "say `model:` in the configuration, or --model PATH");
	}
	int r = check_socket("socket", a->config.socket, e);
	if (r == 0 && a->config.events != NULL)
		r = check_socket("events", a->config.events, e);
	if (r < 0 || (r = http_check(a->config.http.listen ? a->config.http.listen : "", e)) < 0 || (r = auth_init(&a->auth, &a->config, e)) < 0)
		return r;
	if (a->config.state != NULL && mkdir(a->config.state, 0700) < 0 && errno != EEXIST)
		return err_set(e, -errno, "state: cannot make the folder %s: %s", a->config.state, strerror(errno));
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	return 0;
}

static void watch_signal(struct app *a, uv_signal_t *handle, int number)
{
	uv_signal_init(a->loop, handle);
	handle->data = a;
	uv_signal_start(handle, on_signal, number);
}

static void close_handle(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

/* Whether the segments outlive this falcond. A folder's do not: it is emptied by a stop in order. */
static bool is_kept(const struct app *a)
{
	return !a->store.set.in_folder && notify_keeps();
}

/* Sessions into the state folder, once neither the engine nor a client changes them any more. */
static void spill(struct app *a)
{
	struct server *s = &a->server;
	uint64_t before = s->spill.written;
	server_scan(s);
	if (!server_spill(s, !is_kept(a)))
		return;
	while (!server_spilled(s))
		uv_run(a->loop, UV_RUN_ONCE);
	uint32_t unsaved = spill_unsaved(&s->spill);
	log_info("state: %llu sessions written", (unsigned long long)(s->spill.written - before));
	if (unsaved == 0)
		return;
	log_error("state: %u sessions could not be written as they are: %s", unsaved, s->spill.error);
	a->status = EXIT_FAILED;
}

static bool is_stopped(const struct app *a)
{
	if (!a->stopping || !web_stopped(&a->web))
		return false;
	return !a->has_server || (server_stopped(&a->server) && supervisor_stopped(&a->supervisor));
}

/* Becomes the program that is installed now. Returns only if that fails. */
static void become_next(struct app *a)
{
	struct err e;
	struct inherited next = {0};
	keep_hand_over(&a->keep, &a->store.set, &next);
	web_hand_over(&a->web, &next);
	if (upgrade_exec(&a->upgrade, &next, &e) < 0)
		give_up(a, &e);
	inherited_done(&next);
}

static int serve(struct app *a)
{
	struct err e;
	a->loop = uv_default_loop();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file that grows too large is an error, as a full disk is */
	watch_signal(a, &a->term, SIGTERM);
	watch_signal(a, &a->interrupt, SIGINT);
	notify_watch(a->loop, is_alive, a);
	uv_timer_init(a->loop, &a->settle);
	a->settle.data = a;
	store_init(&a->store);
	a->upgrade.loop = a->loop;
	a->upgrade.begin = on_upgrade;
	a->upgrade.arg = a;
	a->web = (struct web){.loop = a->loop, .config = &a->config, .auth = &a->auth, .server = &a->server,
			       .inherited = &a->inherited};
	int r = web_open(&a->web, &e);
	if (r == 0)
		r = load(a, &e);
	if (r < 0 && r != -EINTR)
		give_up(a, &e);
	while (!is_stopped(a))
		uv_run(a->loop, UV_RUN_ONCE);
	if (a->has_server) {
		if (!a->upgrading)
			spill(a);
		server_done(&a->server);
	}
	uv_walk(a->loop, close_handle, NULL);
	uv_run(a->loop, UV_RUN_DEFAULT);
	uv_loop_close(a->loop);
	web_done(&a->web);
	if (a->has_server)
		supervisor_done(&a->supervisor);
	if (a->upgrading)
		become_next(a);
	/* Whoever stops falcond in order has no use for files that would stay in memory. systemd decides for itself. */
	if (a->status == 0 && a->store.set.in_folder)
		keep_forget(&a->keep, &a->store.set);
	store_done(&a->store);
	keep_close(&a->keep);
	if (a->status == 0)
		log_info("stopped");
	return a->status;
}

int main(int argc, char **argv)
{
	static struct app a;
	struct cli cli;
	struct err e;
	log_open("falcond", LOG_INFO);
	upgrade_init(&a.upgrade, argc, argv);
	int status = cli_parse(&cli, argc, argv);
	if (status >= 0)
		return status;
	inherited_take(&a.inherited);
	if (cli_configure(&cli, &a.config, &e) < 0) {
		print_err(&e);
		status = CLI_USAGE;
	} else if (cli.check) {
		log_info("the configuration is good");
		status = 0;
	} else if (prepare(&a, &e) < 0) {
		print_err(&e);
		status = EXIT_FAILED;
	} else {
		status = serve(&a);
	}
	auth_done(&a.auth);
	config_done(&a.config);
	if (status != 0 && getenv("NOTIFY_SOCKET") != NULL)
		web_pause(&a.inherited, PAUSE_MS); /* systemd starts it again at once */
	inherited_done(&a.inherited);
	return status;
}
