/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that tests read: a model packed by falcon-engine, as falcond has it packed, and the tensors of a safetensors file.
 * A file that cannot be read ends the test program with a message.
 */
#ifndef FALCON_TESTS_SUPPORT_FILES_H
#define FALCON_TESTS_SUPPORT_FILES_H

#include <stddef.h>
#include <stdint.h>

/* "NAME" below the source folder, where the tests' data are. The caller frees it. */
char *lab_path(const char *name);

/* Runs ./falcon-engine --pack on the source folder's NAME and maps the image. */
void *lab_pack(const char *name, uint64_t *ret_size);

/* The file's bytes; the caller frees them. */
uint8_t *lab_read(const char *name, size_t *ret_size);

/* Where the named tensor of a safetensors file in memory begins; its bytes must be `bytes` many. */
const void *lab_tensor(const uint8_t *file, size_t size, const char *name, size_t bytes);

#endif
