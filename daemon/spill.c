/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/pressure.h"
#include "daemon/run.h"
#include "shm/probs.h"
#include "shm/segment.h"

enum {
	READS = 2,          /* files read at once: others use libuv's four threads too */
	RETRY_S = 60,       /* after a failure: the disk may be full */
	TICK_MOST = 64,     /* files asked for in one tick */
	SPARE = 8,          /* pages run short when less than an eighth is free */
};

enum kind { SAVE, LOAD, REMOVE };

struct spill_job {
	uv_work_t work;
	struct spill *spill;
	enum kind kind;
	struct session *session; /* NULL: it was dropped meanwhile */
	struct spill_copy copy;  /* save: what is written; load: the pages to fill, and what the file should be; remove: the name */
	uint32_t n_kv;           /* positions written or read */
	int fd;                  /* load: from this file; -1: from the session's own */
	uint64_t release_used;   /* save: pages are dropped afterwards if the session was not used since; 0: they stay */
	int result;
	struct err err;          /* why not all is good: of load, result may be 0 */
	TAILQ_ENTRY(spill_job) next;
};

static void start_jobs(struct spill *p, struct spill_lane *lane);

void spill_init(struct spill *p, const struct store *store)
{
	memcpy(p->model.source, store->source_hash, sizeof p->model.source);
	memcpy(p->model.fingerprint, store->board.header->fingerprint, sizeof p->model.fingerprint);
	p->model.n_vocab = store->hp.n_vocab;
	p->model.n_context = store->board.n_context;
	p->model.page_bytes = pages_payload(&store->hp, store->arena.kv);
	TAILQ_INIT(&p->writes.queue);
	TAILQ_INIT(&p->reads.queue);
	p->writes.width = 1;
	p->reads.width = READS;
	p->folder = -1;
}

int spill_open(struct spill *p, const char *folder, struct err *e)
{
	int r = p->folder = spill_folder_open(folder, p->model.source, e);
	p->enabled = r >= 0;
	return r < 0 ? r : 0;
}

void spill_close(struct spill *p)
{
	if (!p->enabled)
		return;
	CHECK(!spill_busy(p));
	close(p->folder);
	p->enabled = false;
}

static uint64_t generation_of(const struct spill *p, const struct session *s)
{
	return board_record(&p->sessions->board, s->slot)->generation;
}

/* The engine writes none of its positions below n_kv, nor at it: it waits, has answered, or is gone. */
static bool is_still(const struct spill *p, const struct session *s)
{
	if (p->engine_gone || s->state == SESSION_IDLE || !s->published)
		return true;
	return s->state == SESSION_PAUSED && run_paused(p->sessions, s);
}

/* Positions whose keys and values can be written from memory: of a run that goes on, those of full pages. */
static uint32_t savable(const struct spill *p, const struct session *s)
{
	const struct sessions *t = p->sessions;
	if (s->n_pages == 0 || s->loading || (p->all && !p->with_pages))
		return 0;
	uint32_t kv = is_still(p, s) ? s->n_kv : s->n_kv / PAGE_TOKENS * PAGE_TOKENS, n = 0;
	while (n < s->n_pages && n * PAGE_TOKENS < kv && arena_held(t->arena, *board_page(&t->board, s->slot, n)))
		n++;
	return kv < n * PAGE_TOKENS ? kv : n * PAGE_TOKENS;
}

static bool is_unfinished(const struct session *s)
{
	return session_running(s) && !s->cancelling;
}

/* Whether its file does not have all that there is of it. */
static bool is_dirty(const struct spill *p, const struct session *s)
{
	return s->disk_generation != generation_of(p, s) || s->disk_tokens != s->n_tokens || s->disk_unfinished != is_unfinished(s) ||
	       s->disk_kv < savable(p, s);
}

static bool is_kept(const struct session *s)
{
	return !(s->flags & BOARD_SCORE) && !s->dropped;
}

/* Header, record and log as they are now; the file will have pages of n_kv positions. */
static uint8_t *head_of(const struct spill *p, const struct session *s, uint32_t n_kv, size_t *ret_bytes)
{
	const struct board *b = &p->sessions->board;
	struct board_record record = *board_record(b, s->slot);
	struct spill_header h = {.magic = SPILL_MAGIC, .version = SPILL_VERSION, .n_tokens = s->n_tokens, .n_kv = n_kv,
				 .page_bytes = p->model.page_bytes, .unfinished = is_unfinished(s),
				 .finish = s->cancelling ? BOARD_CANCELLED : (uint32_t)s->finish, .first_given = s->first_given,
				 .first_cached = s->first_cached, .first_cursor = s->first_cursor, .first_seed = s->first_seed};
	memcpy(h.source, p->model.source, sizeof h.source);
	memcpy(h.fingerprint, p->model.fingerprint, sizeof h.fingerprint);
	CHECK(getrandom(&h.salt, sizeof h.salt, 0) == sizeof h.salt);
	/* Between an append that waits for pages and its run the record's counts are those of the last run. */
	record.flags = s->flags;
	record.n_given = s->n_given;
	record.n_end = s->n_end;
	record.n_from = record.n_tokens = s->n_tokens;
	record.kv_from = 0;
	uint32_t n = s->n_tokens - s->n_given;
	h.probs_bytes = probs_bytes(s->flags, n);
	h.features = h.probs_bytes > 0 ? SPILL_PROBS : 0;
	return spill_compose(&h, &record, board_log(b, s->slot), probs_at(b, s->slot, s->flags, 0), ret_bytes);
}

/* Pins the session's pages of the copy's positions; of fewer, if the page table has been damaged. */
static void pin_pages(struct spill_copy *c, const struct session *s)
{
	const struct sessions *t = c->spill->sessions;
	uint32_t n = run_pages(c->n_kv);
	CHECK(n <= s->n_pages);
	c->table = xcalloc(n + 1, sizeof *c->table);
	for (uint32_t i = 0; i < n; i++)
		c->table[i] = *board_page(&t->board, s->slot, i);
	while (c->n_pages < n && arena_held(t->arena, c->table[c->n_pages]))
		arena_pin(t->arena, c->table[c->n_pages++]);
	if (c->n_pages < n)
		c->n_kv = c->n_pages * PAGE_TOKENS;
}

static void name_copy(struct spill_copy *c, struct spill *p, const struct session *s)
{
	*c = (struct spill_copy){.spill = p, .owner = s->owner->id, .generation = generation_of(p, s), .n_tokens = s->n_tokens,
				 .unfinished = is_unfinished(s)};
	memcpy(c->name, s->name, s->name_length);
}

void spill_copy_init(struct spill_copy *c, struct spill *p, const struct session *s, bool with_pages)
{
	uint32_t kv = with_pages ? savable(p, s) : 0, on_disk = with_pages ? s->disk_kv : 0;
	name_copy(c, p, s);
	c->n_kv = kv > on_disk ? kv : on_disk;
	if (kv >= on_disk)
		pin_pages(c, s);
	c->head = head_of(p, s, c->n_kv, &c->head_bytes);
}

void spill_copy_done(struct spill_copy *c)
{
	for (uint32_t i = 0; c->table != NULL && i < c->n_pages; i++)
		arena_unpin(c->spill->sessions->arena, c->table[i]);
	free(c->head);
	free(c->table);
	*c = (struct spill_copy){0};
}

static struct spill_pages pages_of(const struct spill_copy *c)
{
	const struct arena *a = c->spill->sessions->arena;
	return (struct spill_pages){.fd = a->fd, .offset = a->payload_offset, .stride = a->stride, .table = c->table};
}

int spill_copy_write(struct spill_copy *c, int fd, uint32_t *ret_kv, struct err *e)
{
	struct spill_pages pages = pages_of(c);
	int older = c->table == NULL ? spill_open_file(c->spill->folder, c->owner, c->name, NULL) : -1;
	int r = spill_write(fd, c->head, c->head_bytes, c->table ? &pages : NULL, older, &c->spill->model, ret_kv, e);
	if (older >= 0)
		close(older);
	return r;
}

int spill_scratch(const struct spill *p, struct err *e)
{
	int fd = p->enabled ? openat(p->folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
	return fd >= 0 ? fd : segment_create("transfer", 0, e);
}

/* Reads the file's pages into the pinned ones. */
static int load_file(struct spill_job *j)
{
	struct spill *p = j->spill;
	struct spill_head head;
	uint8_t *bytes = NULL;
	struct spill_pages to = pages_of(&j->copy);
	int fd = j->fd >= 0 ? j->fd : spill_open_file(p->folder, j->copy.owner, j->copy.name, &j->err), r = fd < 0 ? fd : 0;
	if (r == 0)
		r = spill_read_head(fd, &p->model, &head, &bytes, &j->err);
	if (r == 0 && j->fd < 0 && head.record.generation != j->copy.generation)
		r = err_set(&j->err, -ESTALE, "the file was replaced by another");
	if (r == 0) {
		head.n_kv = head.n_kv < j->copy.n_kv ? head.n_kv : j->copy.n_kv;
		j->n_kv = spill_read_pages(fd, &head, &to, &j->err);
	}
	free(bytes);
	if (fd >= 0)
		close(fd);
	return r;
}

static void work(uv_work_t *work)
{
	struct spill_job *j = work->data;
	struct spill_copy *c = &j->copy;
	struct spill *p = j->spill;
	struct spill_pages pages = pages_of(c);
	switch (j->kind) {
	case SAVE:
		j->result = spill_store(p->folder, c->owner, c->name, c->head, c->head_bytes, c->table ? &pages : NULL, &p->model,
					&j->n_kv, &j->err);
		break;
	case LOAD:
		j->result = load_file(j);
		break;
	case REMOVE:
		j->result = spill_remove(p->folder, c->owner, c->name);
		if (j->result < 0)
			err_set(&j->err, j->result, "cannot remove the file: %s", strerror(-j->result));
		break;
	}
}

static void note_failure(struct spill *p, const struct spill_job *j)
{
	if (p->failed_at == 0)
		log_error("state: session %llu:%s: %s", (unsigned long long)j->copy.owner, j->copy.name, j->err.what);
	p->failed_at = clock_ns();
	p->failed++;
	memcpy(p->error, j->err.what, sizeof p->error);
}

static void saved(struct spill *p, struct spill_job *j)
{
	struct session *s = j->session;
	bool no_room = j->result == 0 && j->copy.table != NULL && j->n_kv < j->copy.n_kv;
	if (no_room)
		err_set(&j->err, -ENOSPC, "no room for its keys and values; its tokens alone were written");
	if (j->result < 0 || no_room)
		note_failure(p, j);
	else
		p->failed_at = 0;
	p->written += j->result == 0;
	if (s == NULL || j->result < 0)
		return;
	s->disk_generation = j->copy.generation;
	s->disk_tokens = j->copy.n_tokens;
	s->disk_unfinished = j->copy.unfinished;
	s->disk_kv = j->n_kv;
	if (no_room)
		return;
	if (j->release_used == s->used_at && s->state == SESSION_IDLE && s->n_pages > 0 && !s->releasing)
		run_release(p->sessions, s);
}

static void loaded(struct spill *p, struct spill_job *j)
{
	struct session *s = j->session;
	p->read += j->result == 0;
	if (j->err.what[0] != '\0')
		log_warning("state: session %llu:%s: %s; what is missing is computed again", (unsigned long long)j->copy.owner, j->copy.name,
			    j->err.what);
	if (s != NULL) {
		if (j->fd < 0)
			s->disk_kv = j->n_kv;
		run_loaded(p->sessions, s, j->n_kv);
	}
}

/* Whether there is more of the session than when the job was made. */
static bool has_more(const struct spill *p, const struct session *s, const struct spill_job *j)
{
	const struct spill_copy *c = &j->copy;
	return j->kind != SAVE || c->generation != generation_of(p, s) || c->n_tokens != s->n_tokens ||
	       c->unfinished != is_unfinished(s) || savable(p, s) > c->n_kv;
}

static void done(uv_work_t *work, int status)
{
	struct spill_job *j = work->data;
	struct spill *p = j->spill;
	struct session *s = j->session;
	CHECK(status == 0);
	(j->kind == LOAD ? &p->reads : &p->writes)->running--;
	if (s != NULL)
		s->job = NULL;
	if (j->kind == SAVE)
		saved(p, j);
	else if (j->kind == LOAD)
		loaded(p, j);
	else if (j->result < 0)
		note_failure(p, j);
	if (s != NULL && p->all && has_more(p, s, j))
		spill_save(p, s);
	spill_copy_done(&j->copy);
	free(j);
	run_settle(p->sessions);
	start_jobs(p, &p->writes);
	start_jobs(p, &p->reads);
	if (!spill_busy(p))
		p->idle(p->arg);
}

static void start_jobs(struct spill *p, struct spill_lane *lane)
{
	while (lane->running < lane->width && !TAILQ_EMPTY(&lane->queue)) {
		struct spill_job *j = TAILQ_FIRST(&lane->queue);
		TAILQ_REMOVE(&lane->queue, j, next);
		lane->running++;
		j->work.data = j;
		CHECK(uv_queue_work(p->loop, &j->work, work, done) == 0);
	}
}

static struct spill_job *job_new(struct spill *p, enum kind kind)
{
	struct spill_job *j = xcalloc(1, sizeof *j);
	j->spill = p;
	j->kind = kind;
	j->fd = -1;
	return j;
}

static void submit(struct spill *p, struct spill_lane *lane, struct spill_job *j)
{
	TAILQ_INSERT_TAIL(&lane->queue, j, next);
	start_jobs(p, lane);
}

static void save(struct spill *p, struct session *s, bool release)
{
	struct spill_job *j = job_new(p, SAVE);
	spill_copy_init(&j->copy, p, s, true);
	j->release_used = release ? s->used_at : 0;
	j->session = s;
	s->job = j;
	submit(p, &p->writes, j);
}

void spill_save(struct spill *p, struct session *s)
{
	if (s->job == NULL && is_kept(s) && is_dirty(p, s))
		save(p, s, false);
}

static void load(struct spill *p, struct session *s, int fd, uint32_t n_kv)
{
	struct spill_job *j = job_new(p, LOAD);
	CHECK(s->job == NULL && s->loading);
	name_copy(&j->copy, p, s);
	j->copy.generation = s->disk_generation;
	j->copy.n_kv = n_kv;
	pin_pages(&j->copy, s);
	j->fd = fd;
	j->session = s;
	s->job = j;
	submit(p, &p->reads, j);
}

void spill_load(struct spill *p, struct session *s)
{
	load(p, s, -1, s->disk_kv);
}

void spill_load_from(struct spill *p, struct session *s, int fd, uint32_t n_kv)
{
	if (n_kv > 0 && run_take_pages(p->sessions, s, n_kv))
		load(p, s, fd, n_kv);
	else
		close(fd);
}

void spill_forget(struct spill *p, struct session *s)
{
	bool there = p->enabled && (s->disk_generation != 0 || s->job != NULL);
	if (s->job != NULL)
		s->job->session = NULL;
	s->job = NULL;
	if (!there)
		return;
	struct spill_job *j = job_new(p, REMOVE);
	name_copy(&j->copy, p, s);
	submit(p, &p->writes, j);
}

void spill_tick(struct spill *p, uint64_t after)
{
	struct sessions *t = p->sessions;
	uint64_t now = clock_ns();
	uint32_t free = t->arena->n_free + t->arena->n_held, asked = 0;
	if (p->all || (p->failed_at != 0 && now - p->failed_at < RETRY_S * UINT64_C(1000000000)))
		return;
	for (struct session *s = TAILQ_FIRST(&t->used), *next; s != NULL && asked < TICK_MOST; s = next) {
		next = TAILQ_NEXT(s, use);
		bool old = after != 0 && now - s->used_at >= after * 1000000000u;
		if (!old && free >= t->arena->n_pages / SPARE)
			return;
		if (s->state != SESSION_IDLE || s->job != NULL || s->releasing || !is_kept(s) || !TAILQ_EMPTY(&s->waiters) ||
		    (!old && s->n_pages == 0))
			continue;
		free += s->n_pages;
		if (is_dirty(p, s)) {
			save(p, s, true);
			asked++;
		} else if (s->n_pages > 0) {
			run_release(t, s);
		}
	}
}

void spill_all(struct spill *p, bool with_pages, bool engine_gone)
{
	struct session *s;
	p->all = true;
	p->with_pages = with_pages;
	p->engine_gone |= engine_gone;
	TAILQ_FOREACH (s, &p->sessions->used, use)
		spill_save(p, s);
}

uint32_t spill_unsaved(const struct spill *p)
{
	const struct session *s;
	uint32_t n = 0;
	TAILQ_FOREACH (s, &p->sessions->used, use)
		n += is_kept(s) && is_dirty(p, s);
	return n;
}

void spill_take_head(struct session *s, const struct spill_head *head)
{
	const struct spill_header *h = &head->header;
	s->finish = h->unfinished ? 0 : (enum board_reason)h->finish;
	s->first_given = h->first_given;
	s->first_cached = h->first_cached;
	s->first_cursor = h->first_cursor;
	s->first_seed = h->first_seed;
}

/* A session that is there already: whether its file is newer. If not, the file's pages serve it where the tokens are the same. */
static bool is_newer(struct spill *p, struct session *s, const struct spill_head *head)
{
	uint64_t generation = generation_of(p, s);
	uint32_t n = head->header.n_tokens;
	if (head->record.generation > generation || (head->record.generation == generation && n > s->n_tokens))
		return true;
	bool same = n <= s->n_tokens && memcmp(head->log, board_log(&p->sessions->board, s->slot), n * sizeof(int32_t)) == 0;
	s->disk_generation = head->record.generation;
	s->disk_tokens = same ? n : UINT32_MAX; /* a predecessor of the same name: to be replaced, or removed with this one */
	s->disk_kv = same ? head->n_kv : 0;
	s->disk_unfinished = head->header.unfinished;
	return false;
}

static int64_t realtime_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* A session of the file. 0 or -errno: there is none. */
static int restore(struct spill *p, const struct spill_entry *at, const struct spill_head *head, struct err *e)
{
	struct sessions *t = p->sessions;
	const struct board_record *r = &head->record;
	struct owner *o = owner_get(p->owners, at->owner);
	struct session *s = session_find(t, o, r->name, r->name_length);
	int64_t age = realtime_ns() - at->saved_ns;
	if (s != NULL && !is_newer(p, s, head))
		return 0;
	if (s != NULL) {
		s->disk_generation = 0; /* the file stays */
		run_drop(t, s);
	}
	if ((s = session_restore(t, o, r, head->log, head->probs, head->header.n_tokens)) == NULL)
		return err_set(e, -ENOSPC, "no slot or no memory is free for it");
	spill_take_head(s, head);
	s->disk_generation = r->generation;
	s->disk_tokens = head->header.n_tokens;
	s->disk_unfinished = head->header.unfinished;
	s->disk_kv = head->n_kv;
	s->used_at = age > 0 && (uint64_t)age < s->used_at ? s->used_at - (uint64_t)age : age > 0 ? 0 : s->used_at;
	if (head->header.unfinished)
		run_hold(t, s);
	else
		run_rest(t, s);
	return 0;
}

/* The session of one file; one that is none is put aside and told. */
static void scan_one(struct spill *p, const struct spill_entry *at)
{
	struct err e;
	struct spill_head head;
	uint8_t *bytes = NULL;
	int fd = spill_open_file(p->folder, at->owner, at->name, &e), r = fd < 0 ? fd : 0;
	if (r == 0)
		r = spill_read_head(fd, &p->model, &head, &bytes, &e);
	if (fd >= 0)
		close(fd);
	bool own = r == 0 && head.record.owner == at->owner && head.record.name_length == strlen(at->name) &&
		   memcmp(head.record.name, at->name, head.record.name_length) == 0;
	if (r == 0 && !own)
		r = err_set(&e, -EINVAL, "it holds another session than its name says");
	bool refused = r == -EINVAL || r == -EXDEV;
	if (r == 0)
		r = restore(p, at, &head, &e);
	free(bytes);
	if (r == 0)
		return;
	log_warning("state: session %llu:%s is not restored: %s%s", (unsigned long long)at->owner, at->name, e.what,
		    refused ? "; its file is now called .session.refused" : "");
	if (refused)
		spill_put_aside(p->folder, at->owner, at->name);
}

int spill_scan(struct spill *p, struct err *e)
{
	struct spill_entry *entries = NULL;
	size_t n = 0;
	int r = spill_list(p->folder, &entries, &n, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		scan_one(p, &entries[i]);
	free(entries);
	return 0;
}
