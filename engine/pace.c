/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/pace.h"

uint64_t pace_expect(const struct pace *p, uint32_t prompt, uint32_t tokens)
{
	uint64_t pass = p->pass_ns ? p->pass_ns : p->weights * 1000 / (PACE_BYTES / 1000000) + 1;
	uint64_t more = p->pass_ns ? prompt : tokens; /* how much the tokens of others cost is in pass_ns */
	return pass + more * (p->token_ns ? p->token_ns : pass);
}

static void smooth(uint64_t *ns, uint64_t sample)
{
	*ns = *ns ? (3 * *ns + sample) / 4 : sample;
}

void pace_measure(struct pace *p, uint32_t prompt, uint64_t ns)
{
	if (prompt == 0)
		smooth(&p->pass_ns, ns + 1);
	else if (ns > p->pass_ns)
		smooth(&p->token_ns, (ns - p->pass_ns) / prompt + 1);
}
