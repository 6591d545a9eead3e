/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads memory as fast as N threads can and prints GB/s (10^9 bytes): the limit that a decode figure is held against. Each
 * thread sums its own part of a buffer far larger than any cache, several times. The median pass counts, as it does for what is
 * compared: on a shared machine the bandwidth changes from one moment to the next by more than half.
 *
 *	bandwidth [THREADS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

enum { MEGABYTES = 1024, PASSES = 15, MOST = 64, WIDTH = 64 };

/* A line's words at once, in whatever registers there are, so that the reads and not the additions are waited for. */
typedef uint64_t line __attribute__((vector_size(WIDTH)));

static pthread_barrier_t start, end;
static uint64_t sink[MOST];

struct part {
	const line *lines;
	size_t n;
	uint64_t *sum;
};

#if defined(__x86_64__) && defined(__GLIBC__)
__attribute__((target_clones("default", "avx2", "avx512f")))
#endif
static uint64_t read_all(const line *lines, size_t n)
{
	line sum[2] = {{0}, {0}};
	for (size_t i = 0; i + 2 <= n; i += 2) {
		sum[0] += lines[i];
		sum[1] += lines[i + 1];
	}
	sum[0] += sum[1];
	return sum[0][0] + sum[0][1];
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static void *work(void *arg)
{
	struct part *p = arg;
	for (int pass = 0; pass < PASSES; pass++) {
		pthread_barrier_wait(&start);
		*p->sum += read_all(p->lines, p->n);
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
	size_t bytes = (size_t)MEGABYTES << 20, each = bytes / WIDTH / (size_t)threads;
	line *lines = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (lines == MAP_FAILED)
		return 1;
	madvise(lines, bytes, MADV_HUGEPAGE);
	memset(lines, 1, bytes);
	pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
	pthread_barrier_init(&end, NULL, (unsigned)threads + 1);
	pthread_t thread[MOST];
	struct part part[MOST];
	for (int i = 0; i < threads; i++) {
		part[i] = (struct part){lines + each * (size_t)i, each, &sink[i]};
		if (pthread_create(&thread[i], NULL, work, &part[i]) != 0)
			return 1;
	}
	uint64_t took[PASSES];
	for (int pass = 0; pass < PASSES; pass++) {
		pthread_barrier_wait(&start);
		uint64_t began = clock_ns();
		pthread_barrier_wait(&end);
		took[pass] = clock_ns() - began;
	}
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	qsort(took, PASSES, sizeof took[0], compare);
	printf("%.1f\n", (double)(each * WIDTH * (size_t)threads) / (double)took[PASSES / 2]);
	return 0;
}
