/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model: pointers into a checked weights image, resolved once. Immutable after model_open(); shared by all threads.
 */
#ifndef FALCON_MODEL_MODEL_H
#define FALCON_MODEL_MODEL_H

#include "base/err.h"
#include "kernels/kernels.h"
#include "shm/weights.h"

struct model_layer {
	const float *norm, *norm_bias, *mlp_norm, *mlp_norm_bias; /* NULL where the family has none */
	struct kernels_matrix q, k, v, gate, up, o, down;
	const float *q_bias, *k_bias, *v_bias, *up_bias, *o_bias, *down_bias;
};

struct model {
	const struct weights_header *image;
	struct weights_hparams hp;
	struct kernels_matrix embed, head;
	const float *out_norm, *out_norm_bias;
	const float *rope;   /* [n_context][head_dim], NULL with ALiBi */
	const float *slopes; /* [n_head], NULL without ALiBi */
	struct model_layer *layers; /* [n_layer] */
};

/* Checks the image (weights_check) and resolves it. The image must outlive the model. */
int model_open(const void *image, uint64_t size, struct model *ret_model, struct err *e);
void model_close(struct model *m);

#endif
