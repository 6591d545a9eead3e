/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl top: a full-screen view of the daemon, once a second: speeds, pages and sessions. Counters only rise, so speeds
 * are differences. q ends it. On a small terminal what matters least is left out: rows, phrases of a row, columns of the table.
 */
#include <curses.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
	if (falcon_status(v->f, &text, e) < 0)
		return -1;
	json_t *status = json_loads(text, 0, NULL);
	if (falcon_sessions(v->f, &text, e) < 0) {
		json_decref(status);
		return -1;
	}
	json_decref(v->status);
	json_decref(v->sessions);
	v->status = status;
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

/* Where the next phrase of a row goes. */
struct place {
	int row, column, width;
};

/* One of a row's phrases, the most important ones first: from one that has no room on they are left out; the first one is cut. */
static void __attribute__((format(printf, 2, 3))) say(struct place *p, const char *format, ...)
{
	char text[256];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	int gap = p->column > 0 ? 2 : 0, room = p->width - p->column - gap, width = (int)console_width(text, strlen(text));
	if (room > 0 && (width <= room || p->column == 0))
		mvaddnstr(p->row, p->column + gap, text, (int)console_fit(text, strlen(text), (unsigned)room));
	p->column += gap + (width < room ? width : room);
}

static void draw_model(const struct view *v, struct place p)
{
	const json_t *s = v->status;
	attron(A_BOLD);
	say(&p, "%s", json_string_value(json_object_get(s, "model")));
	attroff(A_BOLD);
	if (!json_is_true(json_object_get(s, "ready")))
		say(&p, "THE ENGINE IS STARTING");
	say(&p, "%s", json_string_value(json_object_get(s, "isa")));
	say(&p, "%lld threads", (long long)number(s, NULL, "threads"));
	say(&p, "%s pages", json_string_value(json_object_get(s, "kv")));
}

static void draw_speeds(const struct view *v, struct place p)
{
	bool wide = p.width >= 80;
	say(&p, "%5.1f tokens/s%s", v->decode_rate, wide ? " generated" : "");
	say(&p, wide ? "%7.1f tokens/s of prompts" : "%.1f read", v->prefill_rate);
	say(&p, wide ? "%lld cached in all" : "%lld cached", (long long)number(v->status, "tokens", "cached"));
}

static void draw_states(const struct view *v, struct place p)
{
	static const char *const states[] = {"running", "waiting", "paused", "idle"};
	const json_t *s = v->status;
	for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
		if (i == 0 || p.width >= 80 || number(s, "states", states[i]) > 0)
			say(&p, "%lld %s", (long long)number(s, "states", states[i]), states[i]);
	say(&p, "%lld sessions", (long long)number(s, NULL, "sessions"));
	if (json_object_get(s, "engine") == NULL)
		return;
	say(&p, "engine %lld", (long long)number(s, "engine", "pid"));
	say(&p, "%lld restarts", (long long)number(s, "engine", "restarts"));
}

static void draw_pages(const struct view *v, struct place p)
{
	json_int_t total = number(v->status, "pages", "total"), used = total - number(v->status, "pages", "free");
	if (total <= 0)
		return; /* others than administrators are not told */
	char bar[42] = "";
	int length = p.width >= 80 ? 40 : p.width >= 50 ? 20 : 0;
	for (int i = 0; i < length; i++)
		bar[i] = i < used * length / total ? '#' : '.';
	if (length > 0)
		say(&p, "[%s]", bar);
	say(&p, "%lld of %lld pages", (long long)used, (long long)total);
}

/* A row of eighths of blocks, as wide as there is room. */
static void draw_history(const struct view *v, struct place p)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	unsigned n = v->n < (unsigned)p.width ? v->n : (unsigned)p.width;
	double most = 1;
	for (unsigned i = HISTORY - n; i < HISTORY; i++)
		most = v->history[i] > most ? v->history[i] : most;
	move(p.row, p.width - (int)n);
	for (unsigned i = HISTORY - n; i < HISTORY; i++) {
		int level = (int)(v->history[i] / most * 8 + 0.5);
		addstr(blocks[level < 0 ? 0 : level > 8 ? 8 : level]);
	}
}

/* What stands above the sessions, and from how many rows of a terminal on it has one of them. */
static const struct head {
	void (*draw)(const struct view *v, struct place p);
	int rows;
} heads[] = {{draw_model, 7}, {draw_speeds, 1}, {draw_states, 4}, {draw_pages, 10}, {draw_history, 14}};

/* The table's columns, and how wide a terminal must be for each; the name has what is left. */
static const struct column {
	const char *title, *field;
	int width, from;
	bool right;
} columns[] = {
	{"SESSION", "session", 0, 0, false}, {"UID", "uid", 8, 76, true}, {"STATE", "state", 8, 32, false},
	{"TOKENS", "n_tokens", 7, 18, true}, {"WHERE", "where", 8, 60, false}, {"IDLE S", "idle_s", 7, 50, true},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

static int name_width(int width)
{
	for (unsigned i = 1; i < COLUMNS; i++)
		if (width >= columns[i].from)
			width -= columns[i].width + 1;
	return width < 1 ? 1 : width;
}

/* A row of the table: the titles if s is NULL. */
static void draw_row(const json_t *s, int row, int width)
{
	int at = 0;
	for (unsigned i = 0; i < COLUMNS; i++) {
		const struct column *c = &columns[i];
		const json_t *value = json_object_get(s, c->field);
		int room = i == 0 ? name_width(width) : c->width;
		if (width < c->from)
			continue;
		if (json_is_integer(value))
			mvprintw(row, at, "%*lld", room, (long long)json_integer_value(value));
		else
			mvprintw(row, at, c->right ? "%*.*s" : "%-*.*s", room, room, s == NULL ? c->title : json_string_value(value));
		at += room + 1;
	}
}

/* Those that run first, by name; then the others, the last used, which are the last of the list, before the rest. */
static int by_state(const void *left, const void *right)
{
	const json_t *a = *(const json_t *const *)left, *b = *(const json_t *const *)right;
	bool a_runs = strcmp(json_string_value(json_object_get(a, "state")), "running") == 0;
	bool b_runs = strcmp(json_string_value(json_object_get(b, "state")), "running") == 0;
	json_int_t a_idle = number(a, NULL, "idle_s"), b_idle = number(b, NULL, "idle_s");
	if (a_runs != b_runs)
		return a_runs ? -1 : 1;
	if (!a_runs && a_idle != b_idle)
		return a_idle < b_idle ? -1 : 1;
	return strcmp(json_string_value(json_object_get(a, "session")), json_string_value(json_object_get(b, "session")));
}

static void draw_sessions(const struct view *v, int row, int rows, int width)
{
	const json_t *list = json_object_get(v->sessions, "sessions");
	size_t n = json_array_size(list);
	const json_t **sorted = xcalloc(n + 1, sizeof *sorted);
	for (size_t i = 0; i < n; i++)
		sorted[i] = json_array_get(list, i);
	qsort(sorted, n, sizeof *sorted, by_state);
	attron(A_REVERSE);
	mvhline(row, 0, ' ', width);
	draw_row(NULL, row++, width);
	attroff(A_REVERSE);
	for (size_t i = 0; i < n && row < rows; i++)
		draw_row(sorted[i], row++, width);
	free(sorted);
}

static void draw(const struct view *v)
{
	int rows, width, row = 0;
	getmaxyx(stdscr, rows, width);
	erase();
	for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
		if (rows >= heads[i].rows)
			heads[i].draw(v, (struct place){.row = row++, .width = width});
	bool closing = rows >= 7; /* the rest has room for it */
	if (row + 2 <= rows)
		draw_sessions(v, row + (rows >= 20), closing ? rows - 1 : rows, width);
	if (closing)
		mvaddstr(rows - 1, 0, "q ends");
	refresh();
}

static int top(const struct arguments *a)
{
	struct view v = {0};
	struct falcon_error e;
	console_locale();
	v.f = command_connect(a);
	if (v.f == NULL)
		return COMMAND_NO_DAEMON;
	int rc = ask(&v, &e), key = 0;
	if (rc == 0 && initscr() != NULL) {
		noecho();
		cbreak();
		curs_set(0);
		timeout(TICK_MS);
		console_watch(v.f); /* its signals in place of those of ncurses, which have an exit status of their own */
		falcon_watch(v.f, STDIN_FILENO, POLLIN); /* while the daemon is away a key is heard, too */
		while (rc == 0 && key != 'q' && !console_signal() && !console_broken()) {
			draw(&v);
			key = getch(); /* a new size is a key, too */
			if (key == ERR && ask(&v, &e) < 0 && strcmp(e.code, "interrupted") != 0)
				rc = -1;
		}
		endwin();
	}
	falcon_close(v.f);
	json_decref(v.status);
	json_decref(v.sessions);
	if (console_signal())
		return COMMAND_SIGNAL + console_signal();
	return rc < 0 ? command_fail(&e) : COMMAND_OK;
}

const struct command command_top = {.name = "top", .synopsis = "", .help = "Shows the daemon at work, once a second; q ends", .run = top};
