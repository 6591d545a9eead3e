/* SPDX-License-Identifier: Apache-2.0 */
#include "shm/pages.h"

#include <errno.h>
#include <string.h>

static const char *const kv_names[] = {[PAGES_F16] = "f16", [PAGES_F32] = "f32", [PAGES_Q8] = "q8"};

uint32_t pages_element(uint32_t kv)
{
	static const uint32_t bytes[] = {[PAGES_F16] = 2, [PAGES_F32] = 4, [PAGES_Q8] = 1};
	return kv < sizeof bytes / sizeof bytes[0] ? bytes[kv] : 0;
}

const char *pages_kv_name(uint32_t kv)
{
	return kv < sizeof kv_names / sizeof kv_names[0] ? kv_names[kv] : NULL;
}

uint64_t pages_half(const struct weights_hparams *hp, uint32_t kv)
{
	uint64_t scales = kv == PAGES_Q8 ? PAGE_TOKENS * sizeof(float) : 0;
	return (uint64_t)hp->head_dim * PAGE_TOKENS * pages_element(kv) + scales;
}

uint64_t pages_offset(const struct weights_hparams *hp, uint32_t kv, uint32_t layer, uint32_t kv_head)
{
	return ((uint64_t)layer * hp->n_kv_head + kv_head) * 2 * pages_half(hp, kv);
}

uint64_t pages_payload(const struct weights_hparams *hp, uint32_t kv)
{
	return pages_offset(hp, kv, hp->n_layer, 0);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

void pages_plan(const struct weights_hparams *hp, uint32_t kv, uint32_t n_pages, struct pages_header *ret)
{
	memset(ret, 0, sizeof *ret);
	ret->magic = PAGES_MAGIC;
	ret->abi = PAGES_ABI;
	ret->kv = kv;
	ret->n_pages = n_pages;
	ret->heads_offset = 4096;
	ret->payload_offset = round_up(4096 + (uint64_t)n_pages * sizeof(struct pages_head), 4096);
	ret->stride = round_up(pages_payload(hp, kv), 4096);
	ret->size = ret->payload_offset + ret->stride * n_pages;
}

int pages_check(const struct pages_header *header, uint64_t size, const struct weights_hparams *hp, struct err *e)
{
	if (header->magic != PAGES_MAGIC)
		return err_set(e, -EINVAL, "not a pages segment");
	if (header->abi != PAGES_ABI || header->features != 0)
		return err_set(e, -EINVAL, "pages segment: layout %u, features %#x, this build reads layout %u", header->abi,
			       header->features, PAGES_ABI);
	if (pages_element(header->kv) == 0 || header->n_pages == 0)
		return err_set(e, -EINVAL, "pages segment: kind %u, %u pages", header->kv, header->n_pages);
	struct pages_header planned;
	pages_plan(hp, header->kv, header->n_pages, &planned);
	if (planned.heads_offset != header->heads_offset || planned.payload_offset != header->payload_offset ||
	    planned.stride != header->stride || planned.size != header->size || header->size != size)
		return err_set(e, -EINVAL, "pages segment: its geometry is not that of the model");
	return 0;
}
