/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the weights image of shm/weights.h. */
#ifndef FALCON_PACK_IMAGE_H
#define FALCON_PACK_IMAGE_H

#include <stdint.h>

#include "base/err.h"
#include "pack/checkpoint.h"
#include "pack/files.h"
#include "pack/plan.h"

/* Called from any thread, one call at a time, with rising percentages. */
typedef void image_progress(void *context, unsigned percent);

/*
 * Lays the plan out and writes it into fd, an empty memfd or file, with as many threads as this process may run on (8 at
 * most). Sets offsets and checksums in p. 0 or -errno with e set.
 */
int image_write(int fd, const uint8_t set_id[16], const struct checkpoint *c, const struct files *files, struct plan *p,
		image_progress *progress, void *context, struct err *e);

/*
 * The same of a file [data, data + size) that is an image already, as `falconctl pack` leaves one: checks it, every tensor's
 * checksum included, and copies it under the new set id. 0 or -errno with e set.
 */
int image_copy(int fd, const uint8_t set_id[16], const struct file *file, image_progress *progress, void *context, struct err *e);

/* Whether a file begins like an image. */
bool image_is(const struct file *file);

#endif
