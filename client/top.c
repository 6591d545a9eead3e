/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl top: a full-screen view of the daemon, once a second: speeds, batch, pages and sessions. Counters only rise, so speeds
 * are differences. q ends it.
 */
#include <curses.h>
#include <jansson.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client/command.h"
#include "client/console.h"

enum { TICK_MS = 1000, HISTORY = 256 };

struct view {
	struct falcon *f;
	json_t *status, *sessions;
	uint64_t at_ns;
	json_int_t decode, prefill;
	double decode_rate, prefill_rate;
	double history[HISTORY]; /* decode rates, the newest last */
	unsigned n;
};

static json_int_t number(const json_t *object, const char *part, const char *name)
{
	return json_integer_value(json_object_get(part ? json_object_get(object, part) : object, name));
}

static int ask(struct view *v, struct falcon_error *e)
{
	const char *text;
	json_decref(v->status);
	json_decref(v->sessions);
	v->status = v->sessions = NULL;
	if (falcon_status(v->f, &text, e) < 0)
		return -1;
	v->status = json_loads(text, 0, NULL);
	if (falcon_sessions(v->f, &text, e) < 0)
		return -1;
	v->sessions = json_loads(text, 0, NULL);
	uint64_t now = clock_ns();
	json_int_t decode = number(v->status, "tokens", "decode"), prefill = number(v->status, "tokens", "prefill");
	if (v->at_ns != 0) {
		double seconds = (double)(now - v->at_ns) * 1e-9;
		v->decode_rate = (double)(decode - v->decode) / seconds;
		v->prefill_rate = (double)(prefill - v->prefill) / seconds;
		memmove(v->history, v->history + 1, sizeof v->history - sizeof v->history[0]);
		v->history[HISTORY - 1] = v->decode_rate;
		v->n += v->n < HISTORY;
	}
	v->at_ns = now;
	v->decode = decode;
	v->prefill = prefill;
	return 0;
}

/* A row of eighths of blocks, as wide as there is room. */
static void draw_history(const struct view *v, int row, int width)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	unsigned n = v->n < (unsigned)width ? v->n : (unsigned)width;
	double most = 1;
	for (unsigned i = HISTORY - n; i < HISTORY; i++)
		most = v->history[i] > most ? v->history[i] : most;
	move(row, width - (int)n);
	for (unsigned i = HISTORY - n; i < HISTORY; i++) {
		int level = (int)(v->history[i] / most * 8 + 0.5);
		addstr(blocks[level < 0 ? 0 : level > 8 ? 8 : level]);
	}
}

static void draw_pages(const struct view *v, int row, int width)
{
	json_int_t total = number(v->status, "pages", "total"), used = total - number(v->status, "pages", "free");
	if (total <= 0)
		return; /* others than administrators are not told */
	int bar = width > 60 ? 40 : 20, filled = (int)(used * bar / total);
	mvprintw(row, 0, "pages  [");
	for (int i = 0; i < bar; i++)
		addch(i < filled ? '#' : '.');
	printw("] %lld of %lld", (long long)used, (long long)total);
}

static void draw_sessions(const struct view *v, int row, int rows)
{
	const json_t *list = json_object_get(v->sessions, "sessions");
	attron(A_REVERSE);
	mvprintw(row++, 0, "%-32s %8s %-8s %10s %-8s %8s", "SESSION", "UID", "STATE", "TOKENS", "WHERE", "IDLE S");
	attroff(A_REVERSE);
	/* The last used are the last. */
	for (size_t i = json_array_size(list); i > 0 && row < rows; i--) {
		const json_t *s = json_array_get(list, i - 1);
		mvprintw(row++, 0, "%-32.32s %8lld %-8s %10lld %-8s %8lld", json_string_value(json_object_get(s, "session")),
			 (long long)number(s, NULL, "uid"), json_string_value(json_object_get(s, "state")),
			 (long long)number(s, NULL, "n_tokens"), json_string_value(json_object_get(s, "where")),
			 (long long)number(s, NULL, "idle_s"));
	}
}

static void draw(const struct view *v)
{
	const json_t *s = v->status;
	int rows, width;
	getmaxyx(stdscr, rows, width);
	erase();
	attron(A_BOLD);
	mvprintw(0, 0, "%s", json_string_value(json_object_get(s, "model")));
	attroff(A_BOLD);
	printw("  %s, %lld threads, %s pages%s", json_string_value(json_object_get(s, "isa")), (long long)number(s, NULL, "threads"),
	       json_string_value(json_object_get(s, "kv")), json_is_true(json_object_get(s, "ready")) ? "" : "  THE ENGINE IS STARTING");
	mvprintw(1, 0, "%8.1f tokens/s generated   %8.1f tokens/s of prompts   %lld cached in all", v->decode_rate, v->prefill_rate,
		 (long long)number(s, "tokens", "cached"));
	mvprintw(2, 0, "sessions %lld: %lld running, %lld waiting, %lld paused, %lld idle", (long long)number(s, NULL, "sessions"),
		 (long long)number(s, "states", "running"), (long long)number(s, "states", "waiting"), (long long)number(s, "states", "paused"),
		 (long long)number(s, "states", "idle"));
	if (json_object_get(s, "engine") != NULL)
		printw("   engine %lld, %lld restarts", (long long)number(s, "engine", "pid"), (long long)number(s, "engine", "restarts"));
	draw_pages(v, 3, width);
	draw_history(v, 4, width);
	draw_sessions(v, 6, rows - 1);
	mvprintw(rows - 1, 0, "q ends");
	refresh();
}

static int top(const struct arguments *a)
{
	struct view v = {0};
	struct falcon_error e;
	setlocale(LC_CTYPE, "");
	v.f = command_connect(a);
	if (v.f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = ask(&v, &e), key = 0;
	if (rc == 0 && initscr() != NULL) {
		noecho();
		cbreak();
		curs_set(0);
		timeout(TICK_MS);
		while (rc == 0 && key != 'q') {
			draw(&v);
			key = getch(); /* a new size is a key, too */
			if (key == ERR)
				rc = ask(&v, &e);
		}
		endwin();
	}
	falcon_close(v.f);
	json_decref(v.status);
	json_decref(v.sessions);
	return rc < 0 ? command_fail(&e) : COMMAND_OK;
}

const struct command command_top = {.name = "top", .synopsis = "", .help = "Shows the daemon at work, once a second; q ends", .run = top};
