/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl pack: a model file into a weights image, by falcon-engine as falcond runs it, with the caller's rights. falcond takes
 * such an image as its `model:` and copies it instead of packing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/spawn.h"
#include "client/command.h"
#include "client/console.h"

/* Follows the packer's lines, `progress N` and `error WHAT\tHINT` (shm/heritage.h), to their end. */
static void follow(int fd, const char *name)
{
	FILE *lines = fdopen(fd, "r");
	char line[4096];
	unsigned percent;
	while (lines != NULL && fgets(line, sizeof line, lines) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "progress %3u", &percent) == 1) {
			console_progress("packing %s: %u %%", name, percent);
		} else if (strncmp(line, "error ", 6) == 0) {
			char *tab = strchr(line, '\t');
			if (tab != NULL)
				*tab++ = '\0';
			console_progress(NULL);
			console_say("%s%s%s%s", line + 6, tab && *tab ? " (" : "", tab && *tab ? tab : "", tab && *tab ? ")" : "");
		}
	}
	console_progress(NULL);
	if (lines != NULL)
		fclose(lines);
}

static int run_packer(const char *source, int image)
{
	static const char no_set[] = "00000000000000000000000000000000";
	const char *const argv[] = {"falcon-engine", "--pack", source, "--set-id", no_set, NULL};
	char engine[4096];
	int status[2], ended = -1;
	pid_t pid;
	struct err e;
	if (command_find("falcon-engine", FALCON_LIBEXEC, engine, sizeof engine) < 0)
		return -1;
	if (pipe2(status, O_CLOEXEC) < 0) {
		console_say("cannot make a pipe: %s", strerror(errno));
		return -1;
	}
	int r = spawn(engine, argv, (int[]){image, status[1]}, 2, &pid, &e);
	close(status[1]);
	if (r < 0) {
		close(status[0]);
		console_say("%s", e.what);
		return -1;
	}
	follow(status[0], source);
	while (waitpid(pid, &ended, 0) < 0 && errno == EINTR)
		continue;
	return ended == 0 ? 0 : -1;
}

static int pack(const struct arguments *a)
{
	const char *source = a->positional[0], *target = a->positional[1];
	struct buf part = {0};
	buf_printf(&part, "%s.part", target);
	int fd = open(part.data, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), rc = COMMAND_FAILED;
	if (fd < 0) {
		console_say("cannot make %s: %s", part.data, strerror(errno));
	} else if (run_packer(source, fd) == 0) {
		if (fsync(fd) == 0 && rename(part.data, target) == 0)
			rc = COMMAND_OK;
		else
			console_say("cannot write %s: %s", target, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	if (fd >= 0 && rc != COMMAND_OK)
		unlink(part.data);
	buf_done(&part);
	return rc;
}

const struct command command_pack = {
	.name = "pack",
	.synopsis = "MODEL IMAGE",
	.help = "Packs a model file into a weights image, which falcond takes as its model",
	.details = "falcond packs a model each time that it starts without its segments; an image is copied instead, after its checksums\n"
		   "have been looked at.",
	.min_positional = 2,
	.max_positional = 2,
	.run = pack,
};
