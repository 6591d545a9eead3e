/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer.json of arbitrary bytes; what becomes tables is a tokenizer that text/ accepts. */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "pack/tokenizer_json.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf blob = {0};
	struct err e = {0};
	int r = tokenizer_json_blob(data, size, &blob, &e);
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	if (r == 0) {
		struct tokenizer *t;
		CHECK(tokenizer_new(blob.data, blob.length, &t, &e) == 0);
		tokenizer_free(t);
	}
	buf_done(&blob);
	return 0;
}
