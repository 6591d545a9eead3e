/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resolving an image: each tensor is looked up once, here, so that the hot path reads pointers. weights_check() has seen
 * every shape and bound before, and whatever it accepted is used without another look.
 */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const void *data_of(const void *image, enum weights_role role, uint32_t layer)
{
	const struct weights_tensor *t = weights_find(image, role, layer);
	return t ? (const uint8_t *)image + t->offset : NULL;
}

/* A matrix that is absent has data NULL. */
static struct kernels_matrix matrix_of(const void *image, enum weights_role role, uint32_t layer)
{
	const struct weights_tensor *t = weights_find(image, role, layer);
	if (t == NULL)
		return (struct kernels_matrix){0};
	return (struct kernels_matrix){
		.data = (const uint8_t *)image + t->offset, .type = t->type, .rows = t->rows, .cols = t->cols};
}

static void open_layer(const void *image, uint32_t i, struct model_layer *l)
{
	l->norm = data_of(image, WEIGHTS_NORM, i);
	l->norm_bias = data_of(image, WEIGHTS_NORM_BIAS, i);
	l->mlp_norm = data_of(image, WEIGHTS_MLP_NORM, i);
	l->mlp_norm_bias = data_of(image, WEIGHTS_MLP_NORM_BIAS, i);
	l->q = matrix_of(image, WEIGHTS_Q, i);
	l->k = matrix_of(image, WEIGHTS_K, i);
	l->v = matrix_of(image, WEIGHTS_V, i);
	l->gate = matrix_of(image, WEIGHTS_GATE, i);
	l->up = matrix_of(image, WEIGHTS_UP, i);
	l->o = matrix_of(image, WEIGHTS_O, i);
	l->down = matrix_of(image, WEIGHTS_DOWN, i);
	l->q_bias = data_of(image, WEIGHTS_Q_BIAS, i);
	l->k_bias = data_of(image, WEIGHTS_K_BIAS, i);
	l->v_bias = data_of(image, WEIGHTS_V_BIAS, i);
	l->up_bias = data_of(image, WEIGHTS_UP_BIAS, i);
	l->o_bias = data_of(image, WEIGHTS_O_BIAS, i);
	l->down_bias = data_of(image, WEIGHTS_DOWN_BIAS, i);
}

int model_open(const void *image, uint64_t size, struct model *ret_model, struct err *e)
{
	int r = weights_check(image, size, e);
	if (r < 0)
		return r;
	struct model m = {.image = image, .hp = ((const struct weights_header *)image)->hparams};
	m.embed = matrix_of(image, WEIGHTS_EMBED, 0);
	m.head = matrix_of(image, WEIGHTS_HEAD, 0);
	if (m.head.data == NULL)
		m.head = m.embed;
	m.out_norm = data_of(image, WEIGHTS_OUT_NORM, 0);
	m.out_norm_bias = data_of(image, WEIGHTS_OUT_NORM_BIAS, 0);
	m.rope = data_of(image, WEIGHTS_ROPE, 0);
	m.slopes = data_of(image, WEIGHTS_SLOPES, 0);
	m.layers = xcalloc(m.hp.n_layer, sizeof *m.layers);
	for (uint32_t i = 0; i < m.hp.n_layer; i++)
		open_layer(image, i, &m.layers[i]);
	*ret_model = m;
	return 0;
}

void model_close(struct model *m)
{
	free(m->layers);
	memset(m, 0, sizeof *m);
}
