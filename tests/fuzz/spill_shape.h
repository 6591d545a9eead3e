/* SPDX-License-Identifier: Apache-2.0 */
/* The model that the session files of spill_fuzz and spill_seeds are of: as small as one that has pages can be. */
#ifndef FALCON_TESTS_FUZZ_SPILL_SHAPE_H
#define FALCON_TESTS_FUZZ_SPILL_SHAPE_H

#include "daemon/spill_format.h"

enum { CONTEXT = 256, VOCAB = 100, PAGE = 64, PAGES = CONTEXT / PAGE_TOKENS };

static const struct spill_model model = {.n_vocab = VOCAB, .n_context = CONTEXT, .page_bytes = PAGE};

#endif
