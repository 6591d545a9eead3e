/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a message: a request within the table's bounds, or an error that is itself a good reply. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "ipc/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_request(const struct ipc_request *r)
{
	const struct ipc_op_info *op = &ipc_ops[r->op];
	CHECK((r->present & op->required) == op->required);
	CHECK((r->present & ~(op->required | op->optional)) == 0);
	CHECK(r->n_stops <= 8 && r->n_biases <= 64 && r->wait_ms <= 30000 && r->seed <= INT64_MAX);
	for (size_t i = 0; i < r->ids.length; i++)
		CHECK(r->ids.data[i] >= 0);
	if (ipc_has(r, IPC_F_SESSION))
		CHECK(r->session.length >= 1 && strlen(r->session.data) == r->session.length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ipc_request r;
	struct ipc_error e;
	if (ipc_decode((const char *)data, size, &r, &e) == 0) {
		check_request(&r);
		ipc_request_done(&r);
		return 0;
	}
	struct buf reply = {0};
	ipc_encode(ipc_error_json(&e), &reply);
	json_t *back = json_loadb(reply.data, reply.length, 0, NULL);
	CHECK(json_is_object(json_object_get(back, "error")));
	json_decref(back);
	buf_done(&reply);
	return 0;
}
