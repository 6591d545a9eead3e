/* SPDX-License-Identifier: Apache-2.0 */
/* config.json of a Hugging Face folder. */
#ifndef FALCON_PACK_CONFIG_JSON_H
#define FALCON_PACK_CONFIG_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "pack/checkpoint.h"

/* Token ids of a file: -1 and 0 where it has none. */
struct config_ids {
	int64_t bos;
	uint32_t n_eos;
	int64_t eos[8];
};

/*
 * FalconForCausalLM, RWForCausalLM (with the key names of before Transformers had Falcon) and LlamaForCausalLM: fills
 * hparams, naming and head_optional of c, and the ids. What we would compute differently from the reference is refused by
 * name. 0 or -EINVAL with e set.
 */
int config_json_read(const void *json, size_t length, struct checkpoint *c, struct config_ids *ids, struct err *e);

/* bos_token_id and eos_token_id (a number or a list) of config.json or generation_config.json. */
int config_json_ids(const void *json, size_t length, const char *file, struct config_ids *ids, struct err *e);

#endif
