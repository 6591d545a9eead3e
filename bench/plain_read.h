/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading memory and doing nothing else: what decoding, which is bound by memory, is held against.
 */
#ifndef FALCON_BENCH_PLAIN_READ_H
#define FALCON_BENCH_PLAIN_READ_H

#include <stddef.h>
#include <stdint.h>

/* Reads part `part` of `parts` equal ones of [base, base + bytes), whole lines of 64 bytes; base is aligned to a line. */
void plain_read(const void *base, size_t bytes, uint32_t part, uint32_t parts);

#endif
