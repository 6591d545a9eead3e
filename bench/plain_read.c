/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/plain_read.h"

enum { LINE = 64 };

/* A line's words at once, in whatever registers there are, so that the reads and not the additions are waited for. */
typedef uint64_t line __attribute__((vector_size(LINE)));

#if defined(__x86_64__) && defined(__GLIBC__)
__attribute__((target_clones("default", "avx2", "avx512f")))
#endif
static uint64_t sum_lines(const line *lines, size_t n)
{
	line sum[2] = {{0}, {0}};
	for (size_t i = 0; i + 2 <= n; i += 2) {
		sum[0] += lines[i];
		sum[1] += lines[i + 1];
	}
	sum[0] += sum[1];
	return sum[0][0] + sum[0][1];
}

void plain_read(const void *base, size_t bytes, uint32_t part, uint32_t parts)
{
	size_t each = bytes / LINE / parts;
	uint64_t sum = sum_lines((const line *)base + each * part, each);
	__asm__ volatile("" : : "r"(sum)); /* or nobody would need the reads */
}
