/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a configuration: they are accepted, or refused with a place and a reason. */
#include <stdint.h>

#include "base/check.h"
#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config c;
	struct err e = {0};
	config_init(&c);
	if (config_parse(&c, "fuzz", (const char *)data, size, &e) < 0)
		CHECK(e.code < 0 && e.what[0] != '\0');
	config_done(&c);
	return 0;
}
