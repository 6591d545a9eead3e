/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages segment: an arena of key/value pages, each holding 32 consecutive tokens of all layers.
 *
 *	header (4,096 bytes) | heads, 128 bytes a page | payloads, stride bytes a page
 *
 * A page's payload is, for each layer, for each key/value head: keys [head_dim][32 tokens], then values [32 tokens][head_dim],
 * in the element type of header.kv. With PAGES_Q8 the elements are signed 8-bit codes, and behind the keys, as behind the
 * values, stand 32 floats: each token's scale. Pages start at absolute positions that are multiples of 32.
 *
 * Access: falcond creates the segment and never maps it; it copies with pread and pwrite and punches out what it frees.
 * falcond alone decides which session owns a page (the page tables on the board). The engine writes keys and values of
 * positions at or beyond a session's n_kv in pages that the session holds, and the head of a page that it has filled; falcond writes
 * the head of a page that it has filled from a file.
 */
#ifndef FALCON_SHM_PAGES_H
#define FALCON_SHM_PAGES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/weights.h"

#define PAGES_MAGIC UINT64_C(0x3153475043464c46) /* "FLFCPGS1" */
#define PAGES_ABI 1u

enum {
	PAGE_TOKENS = 32,
	PAGES_ARITHMETIC = 1, /* version of docs/ARITHMETIC.md that keys and values were computed by */
};

enum pages_kv { PAGES_F16 = 0, PAGES_F32 = 1, PAGES_Q8 = 2 };

/* Written by falcond before any engine starts; constant from then on. */
struct pages_header {
	uint64_t magic;
	uint32_t abi;
	uint32_t features;
	uint8_t set_id[16];
	uint8_t fingerprint[16]; /* the image's: these are its keys and values */
	uint32_t kv;             /* enum pages_kv */
	uint32_t n_pages;
	uint64_t heads_offset;
	uint64_t payload_offset;
	uint64_t stride;         /* bytes a payload, a multiple of 4,096 */
	uint64_t size;
};
static_assert(offsetof(struct pages_header, kv) == 48, "pages_header.kv");
static_assert(offsetof(struct pages_header, size) == 80, "pages_header.size");

/* Written by the engine when the page is full: the ids it holds, to confirm a prefix after its donor is gone. */
struct pages_head {
	int32_t ids[PAGE_TOKENS];
};
static_assert(sizeof(struct pages_head) == 128, "pages_head");

/* Bytes of one element, 0 for an unknown kind. */
uint32_t pages_element(uint32_t kv);
const char *pages_kv_name(uint32_t kv); /* "f16", "f32", "q8" */

/* Offset within a payload of the keys (values: + pages_half()) of a layer and key/value head; pages_payload() is the whole. */
uint64_t pages_half(const struct weights_hparams *hp, uint32_t kv); /* head_dim * 32 elements, scales */
uint64_t pages_offset(const struct weights_hparams *hp, uint32_t kv, uint32_t layer, uint32_t kv_head);
uint64_t pages_payload(const struct weights_hparams *hp, uint32_t kv);

/* Fills a header for n_pages pages of this model (set id and fingerprint are the caller's). */
void pages_plan(const struct weights_hparams *hp, uint32_t kv, uint32_t n_pages, struct pages_header *ret);

/* Checks a header read from a segment of `size` bytes against the model. 0 or -EINVAL. */
int pages_check(const struct pages_header *header, uint64_t size, const struct weights_hparams *hp, struct err *e);

#endif
