/* SPDX-License-Identifier: Apache-2.0 */
#include "pack/json.h"

#include <errno.h>
#include <float.h>

int json_open(const void *text, size_t length, const char *file, json_t **ret, struct err *e)
{
	json_error_t error;
	json_t *root = json_loadb(length > 0 ? text : "", length, JSON_REJECT_DUPLICATES, &error);
	if (root == NULL)
		return err_set(e, -EINVAL, "%s:%d:%d: %s", file, error.line, error.column, error.text);
	if (!json_is_object(root)) {
		json_decref(root);
		return err_set(e, -EINVAL, "%s: not a JSON object", file);
	}
	*ret = root;
	return 0;
}

json_t *json_value(const json_t *object, const char *key, const char *other)
{
	json_t *v = json_object_get(object, key);
	if ((v == NULL || json_is_null(v)) && other != NULL)
		v = json_object_get(object, other);
	return v == NULL || json_is_null(v) ? NULL : v;
}

int json_u32(const json_t *object, const char *key, const char *other, uint32_t *ret, struct err *e)
{
	const json_t *v = json_value(object, key, other);
	if (v == NULL)
		return -ENOENT;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > (json_int_t)UINT32_MAX)
		return err_set(e, -EINVAL, "%s is not a number of 32 bits", key);
	*ret = (uint32_t)json_integer_value(v);
	return 0;
}

int json_f32(const json_t *object, const char *key, float *ret, struct err *e)
{
	const json_t *v = json_value(object, key, NULL);
	if (v == NULL)
		return -ENOENT;
	double value = json_number_value(v);
	if (!json_is_number(v) || !(value >= -(double)FLT_MAX && value <= (double)FLT_MAX))
		return err_set(e, -EINVAL, "%s is not a number of single precision", key);
	*ret = (float)value;
	return 0;
}

int json_bool(const json_t *object, const char *key, bool *ret, struct err *e)
{
	const json_t *v = json_value(object, key, NULL);
	if (v == NULL)
		return -ENOENT;
	if (!json_is_boolean(v))
		return err_set(e, -EINVAL, "%s is neither true nor false", key);
	*ret = json_is_true(v);
	return 0;
}

const char *json_text(const json_t *value)
{
	return json_is_string(value) ? json_string_value(value) : "";
}
