/* SPDX-License-Identifier: Apache-2.0 */
/* A config.json of arbitrary bytes, and a plan for the model that it describes, none of whose tensors is there. */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "pack/config_json.h"
#include "pack/plan.h"
#include "pack/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct checkpoint c = {.file = "config.json"};
	struct config_ids ids;
	struct plan p = {0};
	struct err e = {0};
	vocab_blob_none(&c.tokenizer);
	int r = config_json_read(data, size, &c, &ids, &e);
	if (r == 0 && (r = checkpoint_check(&c, &e)) == 0) {
		r = plan_make(&c, &p, &e);
		CHECK(r < 0);
	}
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	plan_done(&p);
	checkpoint_done(&c);
	return 0;
}
