/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/support/files.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/spawn.h"
#include "shm/segment.h"

static void give_up(const char *what, const char *name)
{
	fprintf(stderr, "%s: %s\n", name, what);
	exit(1);
}

char *lab_path(const char *name)
{
	struct buf b = {0};
	const char *folder = getenv("srcdir");
	buf_printf(&b, "%s/%s", folder ? folder : ".", name);
	return b.data;
}

/* Waits for the packer and shows what it had to say if it failed. */
static void await_packer(pid_t child, int status, const char *name)
{
	struct buf said = {0};
	for (ssize_t n = 1; n > 0; said.length += n > 0 ? (size_t)n : 0)
		n = read(status, buf_reserve(&said, 4096), 4096);
	buf_add(&said, "", 0);
	int code;
	if (waitpid(child, &code, 0) != child || !WIFEXITED(code) || WEXITSTATUS(code) != 0) {
		fprintf(stderr, "%.*s", (int)said.length, said.data ? said.data : "");
		give_up("falcon-engine --pack failed", name);
	}
	buf_done(&said);
}

void *lab_pack(const char *name, uint64_t *ret_size)
{
	struct err e = {0};
	char *source = lab_path(name);
	int image = segment_create("weights", 0, &e), status[2];
	if (image < 0 || pipe2(status, O_CLOEXEC) < 0)
		give_up("no memfd or pipe", name);
	const char *argv[] = {"falcon-engine", "--pack", source, "--set-id", "00112233445566778899aabbccddeeff", NULL};
	const int fds[] = {image, status[1]}; /* HERITAGE_IMAGE, HERITAGE_STATUS */
	pid_t child;
	if (spawn("./falcon-engine", argv, fds, 2, &child, &e) < 0)
		give_up(e.what, name);
	close(status[1]);
	await_packer(child, status[0], name);
	close(status[0]);
	free(source);
	void *base;
	if (segment_map(image, false, &base, ret_size, &e) < 0)
		give_up(e.what, name);
	close(image);
	return base;
}

uint8_t *lab_read(const char *name, size_t *ret_size)
{
	char *path = lab_path(name);
	FILE *f = fopen(path, "rb");
	if (f == NULL || fseek(f, 0, SEEK_END) < 0)
		give_up("cannot be read", path);
	long size = ftell(f);
	rewind(f);
	uint8_t *data = xmalloc((size_t)size + 1);
	if (fread(data, 1, (size_t)size, f) != (size_t)size)
		give_up("cannot be read", path);
	fclose(f);
	free(path);
	*ret_size = (size_t)size;
	return data;
}

const void *lab_tensor(const uint8_t *file, size_t size, const char *name, size_t bytes)
{
	uint64_t length;
	if (size < 8)
		give_up("is no safetensors file", name);
	memcpy(&length, file, 8);
	json_t *table = length <= size - 8 ? json_loadb((const char *)file + 8, length, 0, NULL) : NULL;
	json_t *offsets = json_object_get(json_object_get(table, name), "data_offsets");
	json_int_t first = json_integer_value(json_array_get(offsets, 0)), end = json_integer_value(json_array_get(offsets, 1));
	if (offsets == NULL || first < 0 || end - first != (json_int_t)bytes || (uint64_t)end > size - 8 - length)
		give_up("is not in the safetensors file as expected", name);
	json_decref(table);
	return file + 8 + length + first;
}
