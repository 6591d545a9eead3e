/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the image will hold and where each tensor comes from: every role that the family has, resolved to a tensor of the
 * checkpoint, its shape and type checked, with the order of its rows. Afterwards nothing can go wrong but the machine.
 */
#ifndef FALCON_PACK_PLAN_H
#define FALCON_PACK_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "pack/checkpoint.h"
#include "pack/layout.h"

struct plan_part {
	const struct source_tensor *source; /* NULL: computed (WEIGHTS_ROPE, WEIGHTS_SLOPES) */
	struct row_map map;
	struct weights_tensor tensor;       /* role, layer, type, shape and size; image.c sets offset and checksum */
};

struct plan {
	struct plan_part *parts; /* sorted by (layer, role) */
	size_t length;
};

/* 0, or -EINVAL with e naming the tensor that is missing, misshapen or not known. plan_done() in either case. */
int plan_make(struct checkpoint *c, struct plan *p, struct err *e);
void plan_done(struct plan *p);

#endif
