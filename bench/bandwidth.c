/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads memory as fast as N threads can and prints GB/s (10^9 bytes): the limit that a decode figure is held against. Each
 * thread sums its own part of a buffer far larger than any cache, several times; the best pass counts.
 *
 *	bandwidth [THREADS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

enum { MEGABYTES = 1024, PASSES = 7, MOST = 64 };

static pthread_barrier_t start, end;
static uint64_t sink[MOST];

struct part {
	const uint64_t *words;
	size_t n;
	uint64_t *sum;
};

/* Eight running sums, so that the reads and not the additions are what is waited for. */
static uint64_t read_all(const uint64_t *words, size_t n)
{
	uint64_t sum[8] = {0};
	for (size_t i = 0; i + 8 <= n; i += 8)
		for (size_t j = 0; j < 8; j++)
			sum[j] += words[i + j];
	return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static void *work(void *arg)
{
	struct part *p = arg;
	for (int pass = 0; pass < PASSES; pass++) {
		pthread_barrier_wait(&start);
		*p->sum += read_all(p->words, p->n);
		pthread_barrier_wait(&end);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 2;
	if (threads < 1 || threads > MOST) {
		fprintf(stderr, "usage: bandwidth [THREADS]   (1 to %d)\n", MOST);
		return 2;
	}
	size_t bytes = (size_t)MEGABYTES << 20, each = bytes / 8 / (size_t)threads;
	uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED)
		return 1;
	madvise(words, bytes, MADV_HUGEPAGE);
	memset(words, 1, bytes);
	pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
	pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
	pthread_t thread[MOST];
	struct part part[MOST];
	for (int i = 0; i < threads; i++) {
		part[i] = (struct part){words + each * (size_t)i, each, &sink[i]};
		if (pthread_create(&thread[i], NULL, work, &part[i]) != 0)
			return 1;
	}
	uint64_t best = UINT64_MAX;
	for (int pass = 0; pass < PASSES; pass++) {
		pthread_barrier_wait(&start);
		uint64_t began = clock_ns();
		pthread_barrier_wait(&end);
		uint64_t took = clock_ns() - began;
		best = took < best ? took : best;
	}
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("%.1f\n", (double)(each * 8 * (size_t)threads) / (double)best);
	return 0;
}
