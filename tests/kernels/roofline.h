/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel's benchmark is held against, measured in the same run on one thread: the bytes a second of plain reads, and the
 * operations a cycle of the instructions that do the kernel's arithmetic, in loops of nothing else over registers. The longer
 * of the two times is the least that the kernel can take; which one it is says whether memory or arithmetic binds it.
 */
#ifndef FALCON_TESTS_KERNELS_ROOFLINE_H
#define FALCON_TESTS_KERNELS_ROOFLINE_H

#include <stddef.h>

/* What does the arithmetic. A product and its sum are two operations. */
enum roofline_mix {
	ROOFLINE_FMA,    /* products of floats, and all float arithmetic that takes their units */
	ROOFLINE_DIVIDE, /* divisions of floats */
	ROOFLINE_CODES,  /* products of 4- or 5-bit codes with bytes */
	ROOFLINE_BYTES,  /* products of bytes: AVX2 takes them as two planes of nibbles */
	ROOFLINE_MIXES
};

enum { ROOFLINE_MEMORY = 128 << 20 }; /* bytes that no cache holds */

struct roofline {
	double hertz;
	double peak[ROOFLINE_MIXES]; /* operations a second, 0 if unknown */
	double memory;               /* bytes a second, from memory */
};

/* Bytes a second of reads of a buffer of this size, again and again. */
double roofline_reads(size_t bytes);

/* Measures clock and memory; roofline_use() measures the peaks of a table's instruction set (enum names of kernels.h). */
void roofline_open(struct roofline *r);
void roofline_use(struct roofline *r, const char *isa);

/* One kernel's work. */
struct roofline_work {
	double operations[ROOFLINE_MIXES], bytes, seconds;
};

/* Prints "  98.7 op/cycle   12.3 GB/s   96 % of arithmetic" without a newline; bandwidth is that of where the bytes lie. */
void roofline_print(const struct roofline *r, const struct roofline_work *w, double bandwidth);

#endif
