/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: one table of keys, from which the YAML parser, the command line, `falcond --help`, the checks and the
 * manual come. etc/falcond.yaml explains each key to people.
 */
#ifndef FALCON_DAEMON_CONFIG_H
#define FALCON_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum config_id {
	CONFIG_MODEL, CONFIG_SOCKET, CONFIG_SOCKET_MODE, CONFIG_SOCKET_GROUP, CONFIG_ADMIN_GROUP, CONFIG_EVENTS,
	CONFIG_STATE, CONFIG_SPILL_AFTER, CONFIG_SEGMENTS,
	CONFIG_THREADS, CONFIG_KV, CONFIG_DENSE, CONFIG_MEMORY, CONFIG_CHUNK_MS, CONFIG_SPECULATE,
	CONFIG_DETACH_AFTER, CONFIG_STEP_DEADLINE, CONFIG_LIMIT_MESSAGE, CONFIG_LIMIT_REQUESTS,
	CONFIG_LIMIT_SESSIONS, CONFIG_LIMIT_PAGES, CONFIG_LIMIT_QUEUED_TOKENS, CONFIG_LIMIT_LOGPROBS,
	CONFIG_HTTP_LISTEN, CONFIG_HTTP_KEYS, CONFIG_KEYS
};

/* Texts are owned by the struct and NULL where nothing is set; numbers are within the table's bounds. */
struct config {
	char *model, *socket, *socket_group, *admin_group, *events, *state, *segments;
	uint64_t socket_mode;
	uint64_t threads;      /* 0: one a core */
	uint64_t kv;           /* enum pages_kv */
	uint64_t dense;        /* 0 exact, 1 openblas */
	uint64_t memory;       /* bytes, 0: half of what is available */
	uint64_t chunk_ms;
	uint64_t speculate;    /* 0 on, 1 off */
	uint64_t detach_after; /* seconds, 0: never */
	uint64_t spill_after;  /* seconds, 0: never */
	uint64_t step_deadline; /* seconds that a step of the engine has at least */
	struct {
		uint64_t message;       /* bytes */
		uint64_t requests, sessions, pages, queued_tokens; /* of one owner; pages 0: no limit */
		uint64_t logprobs;      /* bytes, of one owner */
	} limits;
	struct { char *listen, *keys; } http;
	uint32_t set; /* bit per enum config_id: set by the file or the command line */
};

static inline bool config_is_set(const struct config *c, enum config_id id) { return c->set >> id & 1; }

/* Every key at its default. */
void config_init(struct config *c);
void config_done(struct config *c);

/*
 * Reads YAML text over what is there; `file` names it in errors, which say line, column and what would be right. Bounded by the
 * text alone. 0 or -EINVAL; c may be changed in part then.
 */
int config_parse(struct config *c, const char *file, const char *text, size_t length, struct err *e);

/* The same of a file's content. 0, -EINVAL, or -errno of reading it. */
int config_load(struct config *c, const char *file, struct err *e);

/* One key from a text of its own, such as an option's argument. 0 or -EINVAL. */
int config_set(struct config *c, enum config_id id, const char *value, struct err *e);

/* A key as people are told of it. */
struct config_about {
	const char *name, *fallback, *help; /* fallback NULL: unset */
	char expected[96];                  /* "a whole number from 0 to 1024" */
};
struct config_about config_about(enum config_id id);

/* Name, default and meaning of every key, a line each. */
void config_help(FILE *out);

#endif
