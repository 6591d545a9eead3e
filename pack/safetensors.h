/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One safetensors file: eight bytes with the length of a JSON header, the header, the data.
 * Format: https://github.com/huggingface/safetensors#format
 */
#ifndef FALCON_PACK_SAFETENSORS_H
#define FALCON_PACK_SAFETENSORS_H

#include <stddef.h>

#include "base/err.h"
#include "pack/source.h"

/*
 * Adds the tensors of [data, data + size), which must outlive s, to s; `file` is kept for messages. Types F32, F16 and BF16.
 * 0 or -EINVAL with e set; what was added before an error stays in s.
 */
int safetensors_read(const void *data, size_t size, const char *file, struct source *s, struct err *e);

#endif
