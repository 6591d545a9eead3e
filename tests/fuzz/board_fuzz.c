/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A board with a few sessions, some of its bytes changed, found by a falcond that starts anew: either it is refused, or every
 * session goes on, is paused, resumed, cancelled and dropped without a check failing. The input is a list of changes: offset (16
 * bits, which reaches all of this board), length (8 bits), then so many bytes.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "daemon/pressure.h"
#include "daemon/run.h"
#include "daemon/tokenlog.h"
#include "shm/segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 4, CONTEXT = 96, VOCAB = 8, PAGES = 8, STRIDE_BYTES = 4096 };

static struct {
	int board, pages, wake;
	uint8_t *base, *sound; /* [size] mapped, and as it is before it is changed */
	uint64_t size;
	struct pages_header arena;
} rig;

static void ignore(void *arg, struct session *s)
{
	(void)arg;
	(void)s;
}

static void open_table(struct sessions *t, struct arena *a)
{
	struct err e;
	*t = (struct sessions){.arena = a, .n_vocab = VOCAB, .wake_engine = rig.wake, .changed = ignore, .gone = ignore};
	arena_init(a, rig.pages, &rig.arena);
	CHECK(board_open(rig.base, rig.size, &t->board, &e) == 0);
	sessions_init(t);
}

static struct session *make_session(struct sessions *t, struct owner *o, const char *name, uint32_t n, uint32_t more)
{
	struct session *s = session_new(t, o, name, strlen(name), name, strlen(name));
	board_record(&t->board, s->slot)->params = (struct board_params){.top_p = 1, .repeat_penalty = 1};
	for (uint32_t i = 0; i < n; i++)
		board_log(&t->board, s->slot)[i] = (int32_t)i % VOCAB;
	s->n_given = s->n_tokens = n;
	s->n_end = n + more;
	return s;
}

static void answer(struct sessions *t, const struct session *s, enum board_is is, uint32_t n_kv, uint32_t n_tokens)
{
	struct board_words *w = &t->board.words[s->slot];
	w->progress = board_progress(n_kv, n_tokens);
	w->reason = BOARD_LENGTH;
	w->is = board_word(board_run(w->want), is);
}

/* One session runs, one has run, one is a fork of it that rests and shares its pages, and one has been released in mid-run. */
static void make_board(void)
{
	struct err e;
	struct board_header h;
	struct sessions t;
	struct arena a;
	struct owners owners = {0};
	void *base;
	board_plan(SLOTS, CONTEXT, VOCAB, &h);
	rig.board = segment_create("board", h.size, &e);
	rig.pages = segment_create("pages", 4096 + PAGES * STRIDE_BYTES, &e);
	rig.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	CHECK(pwrite(rig.board, &h, sizeof h, 0) == sizeof h);
	CHECK(segment_map(rig.board, true, &base, &rig.size, &e) == 0 && rig.size == h.size);
	CHECK(h.probs_offset <= 65536); /* two bytes of an offset reach all but log-probabilities, which are numbers alone */
	rig.base = base;
	rig.arena = (struct pages_header){.n_pages = PAGES, .payload_offset = 4096, .stride = STRIDE_BYTES};
	open_table(&t, &a);
	struct owner *o = owner_get(&owners, 1000);
	struct session *running = make_session(&t, o, "running", 3, 20), *done = make_session(&t, o, "done", 40, 10);
	run_start(&t, running);
	run_start(&t, done);
	answer(&t, running, BOARD_RUNNING, 4, 5);
	answer(&t, done, BOARD_DONE, 49, 50);
	run_scan(&t);
	struct session *fork = make_session(&t, owner_get(&owners, 1001), "fork", 50, 0), *released = make_session(&t, o, "released", 5, 9);
	run_share_pages(&t, fork, done);
	run_rest(&t, fork);
	run_start(&t, released);
	answer(&t, released, BOARD_RUNNING, 6, 7);
	run_scan(&t);
	run_release(&t, released);
	sessions_done(&t);
	arena_done(&a);
	owners_done(&owners);
	rig.sound = xmalloc(rig.size);
	memcpy(rig.sound, rig.base, rig.size);
}

static void change(const uint8_t *data, size_t size)
{
	memcpy(rig.base, rig.sound, rig.size);
	while (size >= 3) {
		size_t offset = data[0] | (size_t)data[1] << 8, n = data[2];
		data += 3;
		size -= 3;
		n = n < size ? n : size;
		for (size_t i = 0; i < n; i++)
			rig.base[(offset + i) % rig.size] = data[i];
		data += n;
		size -= n;
	}
}

/* All that clients may ask of a session, and an engine that is gone in between. */
static void use(struct sessions *t)
{
	run_scan(t);
	for (uint32_t i = 0; i < t->n_slots; i++) {
		struct session *s = t->slots[i];
		if (s == NULL || s->dropped)
			continue;
		run_pause(t, s);
		run_resume(t, s);
		if (i % 2)
			run_cancel(t, s);
	}
	run_scan(t);
	run_engine_gone(t);
	for (uint32_t i = 0; i < t->n_slots; i++)
		if (t->slots[i] != NULL && !t->slots[i]->dropped)
			run_drop(t, t->slots[i]);
	run_engine_gone(t);
	CHECK(t->n_sessions == 0 && t->arena->n_free == t->arena->n_pages);
}

static void adopt(const struct survey *v)
{
	struct sessions t;
	struct arena a;
	struct owners owners = {0};
	open_table(&t, &a);
	arena_adopt(&a, v->refs);
	for (uint32_t i = 0; i < v->n; i++) {
		const struct survey_session *found = &v->sessions[i];
		uint64_t owner = board_record(&t.board, found->slot)->owner;
		run_adopt(&t, session_adopt(&t, owner_get(&owners, owner), found), found);
	}
	sessions_adopted(&t);
	use(&t);
	sessions_done(&t);
	arena_done(&a);
	owners_done(&owners);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b;
	struct survey v;
	struct tokenlogs logs;
	struct err e;
	if (rig.base == NULL)
		make_board();
	change(data, size);
	tokenlog_read(rig.board, &logs);
	tokenlog_done(&logs);
	if (board_open(rig.base, rig.size, &b, &e) == 0 && survey(&b, PAGES, VOCAB, &v, &e) == 0) {
		adopt(&v);
		survey_done(&v);
	} else {
		CHECK(size >= 3); /* the board itself is sound */
	}
	return 0;
}
