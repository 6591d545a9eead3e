/* SPDX-License-Identifier: Apache-2.0 */
/* Recognises the source of a weights image by place, size and time: no byte of it is read. */
#ifndef FALCON_DAEMON_SOURCE_H
#define FALCON_DAEMON_SOURCE_H

#include <stdbool.h>

#include "shm/weights.h"

/* Whether the image was made of the model file, or the folder of files, that stands at `path` now. */
bool source_is(const char *path, const struct weights_header *image);

#endif
