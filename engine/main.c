/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falcon-engine: what falcond has computed, in processes that it may lose. `--serve` computes sessions, `--pack` turns a model
 * file into a weights image. People do not start it by hand; shm/heritage.h lists all that it is given.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/serve.h"
#include "engine/threads.h"
#include "model/forward.h"
#include "pack/pack.h"
#include "shm/heritage.h"

enum { USAGE = 2 };

struct arguments {
	bool serve;
	const char *pack; /* source */
	long threads;
	uint32_t dense;
	bool has_set_id;
	uint8_t set_id[16];
};

static int usage(void)
{
	fputs("usage: falcon-engine --serve --threads N [--dense exact|openblas]\n"
	      "       falcon-engine --pack SOURCE --set-id 32HEX\n"
	      "falcond starts it; shm/heritage.h says with which descriptors.\n", stderr);
	return USAGE;
}

static bool parse_number(const char *text, long most, long *ret)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || value < 1 || value > most)
		return false;
	*ret = value;
	return true;
}

static bool parse_dense(const char *text, uint32_t *ret)
{
	bool openblas = strcmp(text, "openblas") == 0;
	*ret = openblas ? FORWARD_OPENBLAS : FORWARD_EXACT;
	return openblas || strcmp(text, "exact") == 0;
}

static bool parse_set_id(const char *hex, uint8_t ret[16])
{
	static const char digits[] = "0123456789abcdef";
	if (strlen(hex) != 32)
		return false;
	for (int i = 0; i < 32; i++) {
		const char *digit = strchr(digits, hex[i]);
		if (digit == NULL)
			return false;
		ret[i / 2] = (uint8_t)(i % 2 ? ret[i / 2] | (digit - digits) : (digit - digits) << 4);
	}
	return true;
}

static bool parse(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{"serve", no_argument, NULL, 's'},          {"threads", required_argument, NULL, 't'},
		{"dense", required_argument, NULL, 'd'},    {"pack", required_argument, NULL, 'p'},
		{"set-id", required_argument, NULL, 'i'},   {NULL, 0, NULL, 0},
	};
	int c;
	bool good = true;
	while (good && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 's': a->serve = true; break;
		case 'p': a->pack = optarg; break;
		case 't': good = parse_number(optarg, THREADS_MAX, &a->threads); break;
		case 'd': good = parse_dense(optarg, &a->dense); break;
		case 'i': good = a->has_set_id = parse_set_id(optarg, a->set_id); break;
		default: good = false;
		}
	return good && optind == argc && a->serve == (a->pack == NULL);
}

int main(int argc, char **argv)
{
	struct arguments a = {0};
	log_open("falcon-engine", LOG_INFO);
	if (!parse(argc, argv, &a))
		return usage();
	if (a.serve)
		return a.threads > 0 ? serve_main((uint32_t)a.threads, a.dense) : usage();
	return a.has_set_id ? pack_main(a.pack, a.set_id, HERITAGE_IMAGE, HERITAGE_STATUS) : usage();
}
