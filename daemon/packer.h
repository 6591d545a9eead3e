/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the packer, `falcon-engine --pack`, and waits for its end: falcond serves nobody before there are weights. */
#ifndef FALCON_DAEMON_PACKER_H
#define FALCON_DAEMON_PACKER_H

#include <uv.h>

#include "base/err.h"

/*
 * Packs the model at `source` into the empty segment `image`. `progress` is called with percents. Runs the loop until the
 * packer has ended; a signal handler may end it early by packer_stop(). 0, -EINTR when stopped, or -errno with the packer's
 * own words.
 */
int packer_run(uv_loop_t *loop, const char *engine, const char *source, int image, const uint8_t set_id[16],
	       void (*progress)(unsigned percent), struct err *e);

/* Kills a packer that runs; packer_run() then returns -EINTR. */
void packer_stop(void);

#endif
