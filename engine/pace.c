/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/pace.h"

#include <math.h>

enum {
	OLD = 64,     /* steps after which a measurement is worth repeating */
	FORGET = 128, /* and after which it is none: sessions get deeper, machines busier */
	/*
	 * Operations of the matrices in the time of one operation of attention: 8-bit integer products run at some 360 Gop/s a
	 * thread with AVX-512 VNNI and 250 with AVX2, attention in f32 at 80 (bench/RESULTS.md).
	 */
	ATTENTION_COST = 4,
};

void pace_init(struct pace *p, const struct weights_hparams *hp, uint64_t weights)
{
	double q = (double)hp->n_head * hp->head_dim, kv = (double)hp->n_kv_head * hp->head_dim;
	double mlp = (hp->family == WEIGHTS_LLAMA ? 3.0 : 2.0) * hp->n_ff;
	double matrices = 2 * hp->n_embd * (2 * q + 2 * kv + mlp); /* operations a layer and row */
	double attention = 4 * q;                                  /* operations a layer, row and position */
	*p = (struct pace){.pass_ns = (float)weights / PACE_BYTES * 1e9f, .deep = (float)(matrices / (ATTENTION_COST * attention))};
}

float pace_row(const struct pace *p, uint32_t position)
{
	return p->deep > 0 ? 1 + (float)position / p->deep : 1;
}

static int index_of(float rows)
{
	int i = rows > 1 ? (int)(2 * log2f(rows)) : 0;
	return i < PACE_POINTS ? i : PACE_POINTS - 1;
}

static bool remembered(const struct pace *p, const struct pace_point *point)
{
	return point->rows > 0 && p->steps - point->measured < FORGET;
}

void pace_measure(struct pace *p, float rows, uint64_t ns)
{
	struct pace_point *point = &p->points[index_of(rows)];
	p->steps++;
	if (remembered(p, point)) {
		point->rows += (rows - point->rows) / 4;
		point->ns += ((float)ns - point->ns) / 4;
	} else {
		point->rows = rows;
		point->ns = (float)ns;
	}
	point->measured = p->steps;
}

bool pace_known(const struct pace *p, float rows)
{
	const struct pace_point *point = &p->points[index_of(rows)];
	return point->rows > 0 && p->steps - point->measured < OLD;
}

float pace_ns(const struct pace *p, float rows)
{
	struct pace_point below = {0};
	for (const struct pace_point *next = p->points; next < p->points + PACE_POINTS; next++) {
		if (!remembered(p, next))
			continue;
		if (next->rows >= rows)
			return below.ns + (next->ns - below.ns) * (rows - below.rows) / (next->rows - below.rows);
		below = *next;
	}
	return below.rows > 0 ? below.ns * rows / below.rows : 0;
}

uint64_t pace_expect(const struct pace *p, float rows)
{
	float ns = pace_ns(p, rows);
	return (uint64_t)(ns > 0 ? ns : p->pass_ns * rows) + 1;
}

float pace_room(const struct pace *p, float rows, float ns)
{
	struct pace_point below = {.rows = rows, .ns = pace_ns(p, rows)};
	float most = below.ns + ns;
	for (const struct pace_point *next = p->points; next < p->points + PACE_POINTS; next++) {
		if (next->rows <= rows || !remembered(p, next))
			continue;
		if (next->ns > most)
			return below.rows + (next->rows - below.rows) * (most - below.ns) / (next->ns - below.ns) - rows;
		below = *next;
	}
	/* below.ns may lie under what a smaller step takes: measurements err. */
	return below.ns > 0 ? most * below.rows / below.ns - rows : 0;
}
