/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Typed access to a model's JSON files. A key that is null counts as absent, as the files' writers mean it. Readers of a
 * value return 0, -ENOENT (absent: *ret is left as it is and e untouched) or -EINVAL with e set (another type, out of range).
 */
#ifndef FALCON_PACK_JSON_H
#define FALCON_PACK_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Parses a text that must be one object, no key in it twice. 0 and a reference to json_decref(), or -EINVAL with e set. */
int json_open(const void *text, size_t length, const char *file, json_t **ret, struct err *e);

/* The value of the first of the keys that is there, or NULL; other may be NULL. */
json_t *json_value(const json_t *object, const char *key, const char *other);

int json_u32(const json_t *object, const char *key, const char *other, uint32_t *ret, struct err *e);
int json_f32(const json_t *object, const char *key, float *ret, struct err *e);
int json_bool(const json_t *object, const char *key, bool *ret, struct err *e);

/* The text of a string, or "" for anything else. */
const char *json_text(const json_t *value);

#endif
