/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes for identity and damage, not for secrets: xxHash's XXH3. 128-bit values are stored in its canonical byte order. */
#ifndef FALCON_BASE_HASH_H
#define FALCON_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

static inline uint64_t hash64(const void *data, size_t size)
{
	return XXH3_64bits(data, size);
}

static inline void hash128(const void *data, size_t size, uint8_t ret_hash[16])
{
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
	for (int i = 0; i < 16; i++)
		ret_hash[i] = canonical.digest[i];
}

#endif
