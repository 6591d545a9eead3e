/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main of a fuzz program that is built without a fuzzing engine: runs it once over every file given, and every file in the
 * folders given. Without arguments, as `make check` calls it, over tests/fuzz/corpus/NAME for a program called NAME_fuzz; a
 * corpus that is not there or empty is a failure. With --enable-fuzz (CC=clang) libFuzzer's main takes this one's place:
 * `tests/fuzz/NAME_fuzz -max_total_time=60 CORPUS`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	if (file == NULL) {
		perror(path);
		return 1;
	}
	struct buf content = {0};
	size_t got;
	while ((got = fread(buf_reserve(&content, 4096), 1, 4096, file)) > 0)
		content.length += got;
	fclose(file);
	/* A copy of just this size, so that a sanitizer sees a read behind its end. */
	uint8_t *exact = xmalloc(content.length);
	memcpy(exact, content.data, content.length);
	printf("%s: %zu bytes\n", path, content.length);
	fflush(stdout); /* names the culprit of a crash */
	(void)LLVMFuzzerTestOneInput(exact, content.length);
	free(exact);
	buf_done(&content);
	return 0;
}

static int run(const char *path)
{
	struct stat st;
	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return run_file(path);
	DIR *folder = opendir(path);
	if (folder == NULL) {
		perror(path);
		return 1;
	}
	int failed = 0, files = 0;
	for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		struct buf inside = {0};
		buf_printf(&inside, "%s/%s", path, entry->d_name);
		failed |= run(inside.data);
		files++;
		buf_done(&inside);
	}
	closedir(folder);
	if (files == 0)
		fprintf(stderr, "%s: empty\n", path);
	return failed || files == 0;
}

int main(int argc, char **argv)
{
	int failed = 0;
	for (int i = 1; i < argc; i++)
		failed |= run(argv[i]);
	if (argc > 1)
		return failed;
	const char *name = program_invocation_short_name, *source = getenv("srcdir");
	size_t length = strlen(name), suffix = strlen("_fuzz");
	if (length <= suffix || strcmp(name + length - suffix, "_fuzz") != 0) {
		fprintf(stderr, "usage: %s FILE|FOLDER...\n", name);
		return 2;
	}
	struct buf path = {0};
	buf_printf(&path, "%s/tests/fuzz/corpus/%.*s", source ? source : ".", (int)(length - suffix), name);
	failed = run(path.data);
	buf_done(&path);
	return failed;
}
