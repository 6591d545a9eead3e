/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GGUF file of arbitrary bytes through all of the packer but its sandbox. Whatever is accepted has to become an image that
 * weights_check() accepts; images too large for a quick run are only planned.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "pack/checkpoint.h"
#include "pack/image.h"
#include "pack/plan.h"
#include "shm/segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IMAGE_MOST = 4 << 20 };

static void ignore(void *context, unsigned percent)
{
	(void)context;
	CHECK(percent < 100);
}

static void write_and_check(const uint8_t *data, size_t size, const struct checkpoint *c, struct plan *p)
{
	static const uint8_t set_id[16];
	char name[] = "fuzz.gguf";
	struct file file = {.name = name, .data = data, .size = size, .used = true};
	struct files files = {.list = &file, .length = 1, .name = name};
	struct err e = {0};
	void *image;
	uint64_t image_size;
	int fd = segment_create("fuzz", 0, &e);
	CHECK(fd >= 0 && image_write(fd, set_id, c, &files, p, ignore, NULL, &e) == 0);
	CHECK(segment_map(fd, false, &image, &image_size, &e) == 0);
	CHECK(weights_check(image, image_size, &e) == 0);
	munmap(image, image_size);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct checkpoint c = {0};
	struct plan p = {0};
	struct err e = {0};
	uint64_t bytes = 0;
	int r = gguf_checkpoint(data, size, "fuzz.gguf", &c, &e);
	if (r == 0 && (r = plan_make(&c, &p, &e)) == 0) {
		for (size_t i = 0; i < p.length; i++)
			bytes += p.parts[i].tensor.size;
		if (bytes <= IMAGE_MOST)
			write_and_check(data, size, &c, &p);
	}
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	plan_done(&p);
	checkpoint_done(&c);
	return 0;
}
