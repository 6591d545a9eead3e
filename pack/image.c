/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work is a list of jobs, taken by the threads in turn: one hashes the source files, each of the others fills one
 * tensor and takes its checksum while it is warm. The largest tensors come first, so that the threads end together.
 *
 * Memory: the image's pages are touched once each 2 MiB and collapsed to huge pages before anything is written to them (on a
 * memfd that works whatever shmem_enabled says); pages of the source are let go as soon as a tensor is made from them.
 */
#define _GNU_SOURCE /* sched_getaffinity */
#include "pack/image.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include "pack/tables.h"
#include "shm/segment.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { THREADS = 8, PAGE = 4096 };

struct work {
	uint8_t *image;
	const struct checkpoint *checkpoint;
	const struct files *files;
	struct plan_part **jobs; /* NULL: hash the source */
	uint32_t n_jobs;
	_Atomic uint32_t next;
	pthread_mutex_t lock;    /* over what follows */
	uint64_t done, total;    /* bytes */
	unsigned percent;
	image_progress *progress;
	void *context;
	uint8_t source_hash[16]; /* written by one job, read after the threads have ended */
};

static uint64_t align(uint64_t offset, uint64_t to)
{
	return (offset + to - 1) / to * to;
}

static void count(struct work *w, uint64_t bytes)
{
	pthread_mutex_lock(&w->lock);
	w->done += bytes;
	unsigned percent = (unsigned)(100 * (double)w->done / (double)w->total);
	if (percent > w->percent && percent < 100) {
		w->percent = percent;
		w->progress(w->context, percent);
	}
	pthread_mutex_unlock(&w->lock);
}

/* Sizes and contents, in the order of names: where one file ends and the next begins is part of it. */
static void hash_source(struct work *w)
{
	XXH3_state_t *state = XXH3_createState();
	CHECK(state != NULL && XXH3_128bits_reset(state) == XXH_OK);
	for (size_t i = 0; i < w->files->length; i++) {
		const struct file *f = &w->files->list[i];
		if (!f->used)
			continue;
		XXH3_128bits_update(state, &f->size, sizeof f->size);
		for (size_t at = 0; at < f->size;) {
			size_t n = f->size - at < 16 * MEM_HUGE ? f->size - at : 16 * MEM_HUGE;
			XXH3_128bits_update(state, f->data + at, n);
			at += n;
			count(w, n);
		}
	}
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	memcpy(w->source_hash, canonical.digest, sizeof w->source_hash);
	XXH3_freeState(state);
}

/* Advice for the whole pages of a source tensor: read ahead before, let go after. */
static void advise(const struct source_tensor *t, int advice)
{
	uintptr_t start = align((uintptr_t)t->data, PAGE), end = ((uintptr_t)t->data + t->size) / PAGE * PAGE;
	if (end > start)
		madvise((void *)start, end - start, advice);
}

static void fill(struct work *w, struct plan_part *part)
{
	struct weights_tensor *t = &part->tensor;
	const struct weights_hparams *hp = &w->checkpoint->hparams;
	uint8_t *out = w->image + t->offset;
	if (t->role == WEIGHTS_ROPE) {
		tables_rope(hp->rope_theta, hp->head_dim, hp->n_context, (float *)(void *)out);
	} else if (t->role == WEIGHTS_SLOPES) {
		tables_slopes(hp->n_head, (float *)(void *)out);
	} else if (t->plain) {
		layout_vector(part->source->type, part->source->data, &part->map, t->cols, (float *)(void *)out);
	} else {
		advise(part->source, MADV_WILLNEED);
		uint64_t strip = weights_strip_bytes(t->type, t->cols);
		uint32_t n = (t->rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP, step = strip < MEM_HUGE ? (uint32_t)(MEM_HUGE / strip) : 1;
		for (uint32_t s = 0; s < n; s += step) {
			uint32_t some = n - s < step ? n - s : step;
			layout_strips(t->type, part->source->data, &part->map, t->rows, t->cols, s, some, out);
			count(w, some * strip);
		}
		advise(part->source, MADV_DONTNEED);
	}
	t->checksum = hash64(out, t->size);
}

static void *run(void *arg)
{
	struct work *w = arg;
	for (uint32_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n_jobs;) {
		if (w->jobs[i] == NULL)
			hash_source(w);
		else
			fill(w, w->jobs[i]);
	}
	return NULL;
}

static int larger_first(const void *a, const void *b)
{
	const struct plan_part *x = *(struct plan_part *const *)a, *y = *(struct plan_part *const *)b;
	return x->tensor.size == y->tensor.size ? 0 : x->tensor.size > y->tensor.size ? -1 : 1;
}

static void run_all(struct work *w, struct plan *p)
{
	w->jobs = xcalloc(p->length + 1, sizeof *w->jobs);
	for (size_t i = 0; i < p->length; i++)
		w->jobs[i + 1] = &p->parts[i];
	qsort(w->jobs + 1, p->length, sizeof *w->jobs, larger_first);
	w->n_jobs = (uint32_t)p->length + 1;
	cpu_set_t cpus;
	int n = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
	pthread_t threads[THREADS];
	int started = 0;
	while (started < n - 1 && started < THREADS - 1 && pthread_create(&threads[started], NULL, run, w) == 0)
		started++;
	run(w);
	while (started > 0)
		pthread_join(threads[--started], NULL);
	free(w->jobs);
}

/* The order in which a forward pass reads: the layers, then what comes after them; tables last. */
static unsigned reading_order(const struct weights_tensor *t)
{
	switch (t->role) {
	case WEIGHTS_OUT_NORM: return 1;
	case WEIGHTS_OUT_NORM_BIAS: return 2;
	case WEIGHTS_HEAD: return 3;
	case WEIGHTS_EMBED: return 4;
	case WEIGHTS_ROPE: return 5;
	case WEIGHTS_SLOPES: return 6;
	default: return 0; /* of a layer: in the order of the plan */
	}
}

/* Header, tables, then data; sets every tensor's offset and the header's offsets and size. */
static void place(struct weights_header *h, const struct checkpoint *c, struct plan *p)
{
	uint64_t at = WEIGHTS_HEADER_SIZE;
	h->n_tensors = (uint32_t)p->length;
	h->tensors_offset = at;
	at = align(at + p->length * sizeof(struct weights_tensor), 8);
	h->tokenizer_offset = at;
	h->tokenizer_size = c->tokenizer.length;
	at = align(at + c->tokenizer.length, 8);
	h->template_offset = at;
	h->template_size = c->template.length;
	at = align(at + c->template.length, WEIGHTS_ALIGN);
	for (unsigned order = 0; order <= 6; order++) {
		for (size_t i = 0; i < p->length; i++) {
			if (reading_order(&p->parts[i].tensor) != order)
				continue;
			p->parts[i].tensor.offset = at;
			at = align(at + p->parts[i].tensor.size, WEIGHTS_ALIGN);
		}
	}
	h->size = at;
}

/* What of the source recognises it later: of a folder the configuration stands for its place, all that is opened for size and time. */
static void describe_source(struct weights_header *h, const struct files *files)
{
	for (size_t i = 0; i < files->length; i++) {
		const struct file *f = &files->list[i];
		if (!files->folder || strcmp(f->name, "config.json") == 0) {
			h->source_dev = f->dev;
			h->source_inode = f->inode;
		}
		h->source_size += f->size;
		if (f->mtime_ns > h->source_mtime_ns)
			h->source_mtime_ns = f->mtime_ns;
	}
}

static int map_image(int fd, uint64_t size, uint8_t **ret, struct err *e)
{
	if (ftruncate(fd, (off_t)size) < 0) {
		err_set(e, -errno, "the image of %llu bytes cannot be made: %s", (unsigned long long)size, strerror(errno));
		return err_hint(e, "it needs that much memory (or disk, for a file)");
	}
	void *base;
	uint64_t mapped;
	int r = segment_map(fd, true, &base, &mapped, e);
	if (r < 0)
		return r;
	uint8_t *image = base;
	for (uint64_t at = 0; at < size; at += MEM_HUGE)
		*(volatile uint8_t *)(image + at) = 0;
	madvise(image, size, MADV_COLLAPSE); /* may fail: small pages are only slower */
	*ret = image;
	return 0;
}

/* Source hash and layout version: two images of the same fingerprint compute the same. */
static void fingerprint(struct weights_header *h)
{
	uint8_t seed[16 + sizeof h->abi];
	memcpy(seed, h->source_hash, 16);
	memcpy(seed + 16, &h->abi, sizeof h->abi);
	hash128(seed, sizeof seed, h->fingerprint);
}

int image_write(int fd, const uint8_t set_id[16], const struct checkpoint *c, const struct files *files, struct plan *p,
		image_progress *progress, void *context, struct err *e)
{
	struct weights_header h = {.magic = WEIGHTS_MAGIC, .abi = WEIGHTS_ABI, .hparams = c->hparams};
	struct work w = {.checkpoint = c, .files = files, .progress = progress, .context = context};
	memcpy(h.set_id, set_id, sizeof h.set_id);
	memcpy(h.name, c->name, sizeof h.name);
	describe_source(&h, files);
	place(&h, c, p);
	w.total = h.size + h.source_size;
	int r = map_image(fd, h.size, &w.image, e);
	if (r < 0)
		return r;
	pthread_mutex_init(&w.lock, NULL);
	run_all(&w, p);
	pthread_mutex_destroy(&w.lock);
	memcpy(h.source_hash, w.source_hash, sizeof h.source_hash);
	fingerprint(&h);
	struct weights_tensor *table = (void *)(w.image + h.tensors_offset);
	for (size_t i = 0; i < p->length; i++)
		table[i] = p->parts[i].tensor;
	memcpy(w.image + h.tokenizer_offset, c->tokenizer.data, c->tokenizer.length);
	if (c->template.length > 0)
		memcpy(w.image + h.template_offset, c->template.data, c->template.length);
	struct weights_header *published = (void *)w.image;
	*published = h;
	__atomic_store_n(&published->complete, 1, __ATOMIC_RELEASE);
	munmap(w.image, h.size);
	return 0;
}

bool image_is(const struct file *file)
{
	uint64_t magic;
	if (file->size < sizeof(struct weights_header))
		return false;
	memcpy(&magic, file->data, sizeof magic);
	return magic == WEIGHTS_MAGIC;
}

/* Copies one tensor and looks at its checksum on the way. */
static int copy_tensor(uint8_t *image, const struct file *file, const struct weights_tensor *t, struct err *e)
{
	memcpy(image + t->offset, file->data + t->offset, t->size);
	if (hash64(image + t->offset, t->size) == t->checksum)
		return 0;
	err_set(e, -EINVAL, "%s: the tensor at byte %llu is damaged: its checksum is another", file->name, (unsigned long long)t->offset);
	return err_hint(e, "pack the model again");
}

int image_copy(int fd, const uint8_t set_id[16], const struct file *file, image_progress *progress, void *context, struct err *e)
{
	uint8_t *image;
	int r = weights_check(file->data, file->size, e);
	if (r < 0)
		return err_prefix(e, "%s", file->name);
	if ((r = map_image(fd, file->size, &image, e)) < 0)
		return r;
	const struct weights_header *h = (const void *)file->data;
	const struct weights_tensor *table = (const void *)(file->data + h->tensors_offset);
	uint64_t done = 0, first = file->size;
	for (uint32_t i = 0; i < h->n_tensors && r == 0; i++) {
		r = copy_tensor(image, file, &table[i], e);
		first = table[i].offset < first ? table[i].offset : first;
		done += table[i].size;
		progress(context, (unsigned)(done * 99 / file->size));
	}
	/* Tables and texts stand before the tensors; the word that says the image is whole comes last. */
	memcpy(image + sizeof *h, file->data + sizeof *h, first - sizeof *h);
	struct weights_header *published = (void *)image;
	struct weights_header copy = *h;
	memcpy(copy.set_id, set_id, sizeof copy.set_id);
	copy.complete = 0;
	*published = copy;
	__atomic_store_n(&published->complete, 1, __ATOMIC_RELEASE);
	munmap(image, file->size);
	return r;
}
