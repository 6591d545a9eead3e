/* SPDX-License-Identifier: Apache-2.0 */
/* A safetensors file of arbitrary bytes; the data of every tensor that is accepted lie inside it. */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "pack/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct source s = {0};
	struct err e = {0};
	int r = safetensors_read(data, size, "fuzz.safetensors", &s, &e);
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	for (size_t i = 0; i < s.length; i++) {
		const struct source_tensor *t = &s.list[i];
		uint64_t bytes;
		CHECK(t->size > 0 && t->size <= size && t->data >= data && t->data <= data + size - t->size);
		CHECK(source_size(t->type, t->n_dims, t->dims, &bytes, NULL) == 0 && bytes == t->size);
		CHECK(source_find(&s, t->name) == t);
	}
	source_done(&s);
	return 0;
}
