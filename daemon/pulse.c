/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pulse.h"

enum { TIMES_EXPECTED = 20 };

void pulse_start(struct pulse *p, uint64_t now, uint64_t step)
{
	*p = (struct pulse){.looked = now, .step = step};
}

void pulse_look(struct pulse *p, uint64_t now, uint64_t step, bool untaken)
{
	uint64_t passed = (now - p->looked) / 1000000;
	bool owes = step % 2 != 0 || untaken;
	if (step != p->step || !owes)
		p->silent_ms = 0;
	else
		p->silent_ms += passed < PULSE_LOOK_MOST_MS ? passed : PULSE_LOOK_MOST_MS;
	p->looked = now;
	p->step = step;
}

uint64_t pulse_deadline(const struct pulse *p, bool ready, uint64_t least, uint64_t expected)
{
	if (!ready)
		return PULSE_START_MS;
	uint64_t ms = expected / 1000000;
	if (ms > PULSE_STEP_MOST_MS / TIMES_EXPECTED)
		ms = PULSE_STEP_MOST_MS / TIMES_EXPECTED;
	ms *= TIMES_EXPECTED;
	return p->step % 2 != 0 && ms > least ? ms : least;
}
