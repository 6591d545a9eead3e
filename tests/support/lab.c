/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/lab.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/f16.h"
#include "base/mem.h"

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Uniform in (-1, 1). */
static float next_float(uint64_t *state)
{
	return (float)(int32_t)(next_random(state) >> 32) * 0x1p-31f;
}

static void fill_plain(const struct weights_tensor *t, float *data, float theta, uint64_t *state)
{
	for (uint64_t r = 0; r < t->rows; r++)
		for (uint64_t c = 0; c < t->cols; c++) {
			float *x = &data[r * t->cols + c];
			uint64_t half = t->cols / 2, i = c % half;
			double angle = (double)r * pow(theta, -2.0 * (double)i / t->cols);
			bool norm = t->role == WEIGHTS_OUT_NORM || t->role == WEIGHTS_NORM || t->role == WEIGHTS_MLP_NORM;
			if (t->role == WEIGHTS_ROPE)
				*x = (float)(c < half ? cos(angle) : sin(angle));
			else if (t->role == WEIGHTS_SLOPES)
				*x = f32_from_bf16(bf16_from_f32(exp2f(-(float)(c + 1))));
			else
				*x = (norm ? 1 : 0) + 0.1f * next_float(state);
		}
}

/* Weights of about 1/sqrt(cols), so that activations keep their size; rows of padding are zero (their scales, if quantised). */
static void fill_strips(const struct weights_tensor *t, uint8_t *data, uint64_t *state)
{
	float size = 1.5f / sqrtf((float)t->cols);
	uint32_t strips = (t->rows + WEIGHTS_STRIP - 1) / WEIGHTS_STRIP;
	uint64_t strip_bytes = weights_strip_bytes(t->type, t->cols);
	for (uint32_t s = 0; s < strips; s++, data += strip_bytes) {
		uint32_t rows = t->rows - s * WEIGHTS_STRIP < WEIGHTS_STRIP ? t->rows - s * WEIGHTS_STRIP : WEIGHTS_STRIP;
		if (t->type <= WEIGHTS_BF16) {
			for (uint64_t i = 0; i < (uint64_t)t->cols * WEIGHTS_STRIP; i++) {
				float x = i % WEIGHTS_STRIP < rows ? size * next_float(state) : 0;
				uint16_t half = t->type == WEIGHTS_BF16 ? bf16_from_f32(x) : f16_from_f32(x);
				if (t->type == WEIGHTS_F32)
					memcpy(data + i * 4, &x, 4);
				else
					memcpy(data + i * 2, &half, 2);
			}
			continue;
		}
		uint64_t block = strip_bytes / (t->cols / WEIGHTS_BLOCK);
		bool minima = t->type == WEIGHTS_Q4_1 || t->type == WEIGHTS_Q5_1;
		float code = t->type == WEIGHTS_Q8_0 ? 128 : t->type == WEIGHTS_Q4_0 || t->type == WEIGHTS_Q4_1 ? 8 : 16;
		for (uint8_t *b = data; b < data + strip_bytes; b += block) {
			for (uint64_t i = 0; i < block; i++)
				b[i] = (uint8_t)(next_random(state) >> 40);
			for (uint32_t r = 0; r < WEIGHTS_STRIP; r++) {
				float d = r < rows ? size / code * (1 + 0.5f * next_float(state)) : 0;
				uint16_t scale = f16_from_f32(d), minimum = f16_from_f32(-d * code);
				memcpy(b + 2 * r, &scale, 2);
				if (minima)
					memcpy(b + 32 + 2 * r, &minimum, 2);
			}
		}
	}
}

static uint64_t round_up(uint64_t n)
{
	return (n + WEIGHTS_ALIGN - 1) / WEIGHTS_ALIGN * WEIGHTS_ALIGN;
}

static uint32_t list_tensors(const struct weights_hparams *hp, const uint32_t types[WEIGHTS_ROLES], struct weights_tensor *t)
{
	uint32_t n = 0;
	for (uint32_t layer = 0; layer < hp->n_layer; layer++)
		for (int role = 1; role < WEIGHTS_ROLES; role++) {
			struct weights_shape s = weights_shape(hp, (enum weights_role)role);
			if (s.rows == 0 || (s.once && layer > 0))
				continue;
			uint32_t type = s.plain ? WEIGHTS_F32 : types[role];
			t[n++] = (struct weights_tensor){.role = (uint16_t)role, .type = (uint16_t)type, .layer = layer,
				.rows = s.rows, .cols = s.cols, .plain = (uint8_t)s.plain,
				.size = s.plain ? 4 * (uint64_t)s.rows * s.cols : weights_bytes(type, s.rows, s.cols)};
		}
	return n;
}

struct lab_image lab_image_new(const struct weights_hparams *hp, const uint32_t types[WEIGHTS_ROLES], uint64_t seed)
{
	struct weights_tensor *tensors = xcalloc(hp->n_layer * (size_t)WEIGHTS_ROLES, sizeof *tensors);
	uint32_t n = list_tensors(hp, types, tensors);
	struct weights_header h = {.magic = WEIGHTS_MAGIC, .abi = WEIGHTS_ABI, .hparams = *hp, .n_tensors = n, .name = "lab"};
	h.tensors_offset = WEIGHTS_HEADER_SIZE;
	h.tokenizer_offset = h.tensors_offset + n * sizeof *tensors;
	h.tokenizer_size = sizeof(struct weights_tokenizer);
	h.template_offset = h.tokenizer_offset + h.tokenizer_size;
	uint64_t end = round_up(h.template_offset);
	for (uint32_t i = 0; i < n; i++) {
		tensors[i].offset = end;
		end = round_up(end + tensors[i].size);
	}
	h.size = end;
	h.complete = 1;
	struct lab_image image = {.data = xaligned(WEIGHTS_ALIGN, end), .size = end};
	memcpy(image.data, &h, sizeof h);
	memcpy(image.data + h.tensors_offset, tensors, n * sizeof *tensors);
	uint64_t state = seed * 2 + 1;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *data = image.data + tensors[i].offset;
		if (tensors[i].plain)
			fill_plain(&tensors[i], (float *)(void *)data, hp->rope_theta, &state);
		else
			fill_strips(&tensors[i], data, &state);
	}
	free(tensors);
	return image;
}

void lab_image_free(struct lab_image *i)
{
	free(i->data);
	memset(i, 0, sizeof *i);
}

void lab_init(struct lab *l, const struct model *m, const struct kernels *k, struct forward_options o)
{
	struct err e = {0};
	*l = (struct lab){.model = m, .threads = o.threads, .kv = o.kv, .context = o.max_context};
	if (forward_new(m, k, &o, &l->forward, &e) < 0)
		fprintf(stderr, "%s\n", e.what);
	CHECK(l->forward != NULL);
}

void lab_done(struct lab *l)
{
	forward_free(l->forward);
	memset(l, 0, sizeof *l);
}

struct lab_session *lab_session_new(const struct lab *l)
{
	struct lab_session *s = xcalloc(1, sizeof *s);
	size_t bytes = pages_payload(&l->model->hp, l->kv);
	s->n_pages = (l->context + PAGE_TOKENS - 1) / PAGE_TOKENS;
	s->pages = xcalloc(s->n_pages, sizeof *s->pages);
	for (uint32_t i = 0; i < s->n_pages; i++) {
		s->pages[i] = xaligned(4096, bytes);
		memset(s->pages[i], 0xff, bytes); /* NaNs in f16 and f32 */
	}
	return s;
}

void lab_session_free(struct lab_session *s)
{
	for (uint32_t i = s->n_borrowed; i < s->n_pages; i++)
		free(s->pages[i]);
	free(s->pages);
	free(s);
}

void lab_borrow(struct lab_session *s, const struct lab_session *from, uint32_t n)
{
	CHECK(s->n_kv == 0 && s->n_borrowed == 0 && n <= s->n_pages && n * PAGE_TOKENS <= from->n_kv);
	for (uint32_t i = 0; i < n; i++) {
		free(s->pages[i]);
		s->pages[i] = from->pages[i];
	}
	s->n_borrowed = n;
	s->n_kv = n * PAGE_TOKENS;
}

struct forward_span lab_span(const struct lab_session *s, const int32_t *ids, uint32_t n, uint32_t logits, float *out)
{
	return (struct forward_span){
		.ids = ids, .first = s->n_kv, .n = n, .pages = s->pages, .logits = logits, .logits_out = out};
}

struct seat {
	struct lab *lab;
	struct team *team;
	struct forward_span *spans;
	uint32_t n_spans, member;
};

static void *sit(void *opaque)
{
	struct seat *s = opaque;
	kernels_thread_init();
	forward_run(s->lab->forward, s->team, s->member, s->spans, s->n_spans);
	return NULL;
}

void lab_run(struct lab *l, struct forward_span *spans, uint32_t n_spans)
{
	struct team team;
	struct seat seats[16];
	pthread_t threads[16];
	CHECK(l->threads <= 16);
	team_init(&team, l->threads);
	for (uint32_t i = 0; i < l->threads; i++)
		seats[i] = (struct seat){l, &team, spans, n_spans, i};
	for (uint32_t i = 1; i < l->threads; i++)
		CHECK(pthread_create(&threads[i], NULL, sit, &seats[i]) == 0);
	sit(&seats[0]);
	for (uint32_t i = 1; i < l->threads; i++)
		pthread_join(threads[i], NULL);
}

void lab_feed(struct lab *l, struct lab_session *s, const int32_t *ids, uint32_t n, uint32_t chunk, float *out)
{
	for (uint32_t done = 0; done < n; done += chunk) {
		uint32_t count = n - done < chunk ? n - done : chunk;
		struct forward_span span =
			lab_span(s, ids + done, count, FORWARD_ALL, out + (size_t)done * l->model->hp.n_vocab);
		lab_run(l, &span, 1);
		CHECK(!span.failed);
		s->n_kv += count;
	}
}
