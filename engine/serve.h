/* SPDX-License-Identifier: Apache-2.0 */
/* `falcon-engine --serve`: computes from the segments it was handed (shm/heritage.h) until falcond is gone. */
#ifndef FALCON_ENGINE_SERVE_H
#define FALCON_ENGINE_SERVE_H

#include <stdint.h>

/* dense: enum forward_dense. Returns the exit status: 0 falcond closed the lifeline, 1 it could not start (said on stderr). */
int serve_main(uint32_t threads, uint32_t dense);

#endif
