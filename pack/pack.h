/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `falcon-engine --pack`: turns a model file or folder into a weights image. The only code that reads untrusted model bytes; it
 * runs in a process of its own.
 */
#ifndef FALCON_PACK_PACK_H
#define FALCON_PACK_PACK_H

#include <stdint.h>

/*
 * Packs source (a GGUF file or a Hugging Face folder) into the empty file or memfd image_fd, writing progress and errors to
 * status_fd as shm/heritage.h describes. Opens all files first, then confines itself (seccomp), then parses.
 * The exit status is returned: 0 or 1.
 */
int pack_main(const char *source, const uint8_t set_id[16], int image_fd, int status_fd);

#endif
