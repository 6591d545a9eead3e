/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol: JSON objects over nng REQ/REP, one table of operations with typed fields. Parser, `falconctl help` and
 * docs/PROTOCOL.md come from that table. Knows nothing of sockets, sessions or models.
 */
#ifndef FALCON_IPC_PROTOCOL_H
#define FALCON_IPC_PROTOCOL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

enum { IPC_VERSION = 1 };
#define IPC_DEFAULT_URL "ipc:///run/falcond/falcond.sock"

enum ipc_code {
	IPC_BAD_REQUEST, IPC_TOO_LARGE, IPC_TOO_MANY, IPC_NO_SESSION, IPC_EXISTS, IPC_BUSY, IPC_AT_MISMATCH, IPC_CONTEXT_FULL,
	IPC_NO_MEMORY, IPC_LOADING, IPC_FORBIDDEN, IPC_UNSUPPORTED, IPC_ENGINE_FAILED, IPC_CODES
};
const char *ipc_code_name(enum ipc_code code); /* "bad_request" ... */
const char *ipc_code_help(enum ipc_code code); /* what it means, for people */

enum ipc_op {
	IPC_HELLO, IPC_GENERATE, IPC_APPEND, IPC_NEXT, IPC_CANCEL, IPC_FORK, IPC_DROP, IPC_SESSIONS, IPC_TOKENIZE, IPC_DETOKENIZE,
	IPC_SCORE, IPC_EMBED, IPC_STATUS, IPC_DRAIN, IPC_EXPORT, IPC_IMPORT, IPC_UPGRADE, IPC_OPS
};

enum ipc_type {
	IPC_TEXT,    /* string: any valid UTF-8, NUL included */
	IPC_NAME,    /* string of 1 to 64 bytes [A-Za-z0-9._-], or ~N, or UID:name (administrators) */
	IPC_TOKEN,   /* string of 1 to 64 bytes: a request id */
	IPC_BOOL, IPC_INT, IPC_REAL,
	IPC_IDS,     /* array of token ids, 0 .. 2^31-1 */
	IPC_STOPS,   /* array of at most 8 strings of 1 to 64 bytes */
	IPC_BIAS,    /* object of at most 64: "id": number */
	IPC_MESSAGES, /* array of {"role": "system", "user" or "assistant", "content": text} */
};

/* Fields of all operations; a request says which are present. */
enum ipc_field {
	IPC_F_SESSION, IPC_F_NEW, IPC_F_REQUEST_ID, IPC_F_PROMPT, IPC_F_MESSAGES, IPC_F_IDS, IPC_F_TEMPLATE, IPC_F_TEXT, IPC_F_SPECIAL, IPC_F_N,
	IPC_F_TEMP, IPC_F_TOP_K, IPC_F_TOP_P, IPC_F_MIN_P, IPC_F_REPEAT_PENALTY, IPC_F_REPEAT_LAST_N, IPC_F_PRESENCE_PENALTY,
	IPC_F_FREQUENCY_PENALTY, IPC_F_LOGIT_BIAS, IPC_F_SEED, IPC_F_STOP, IPC_F_IGNORE_EOS, IPC_F_PRIORITY, IPC_F_AT,
	IPC_F_CURSOR, IPC_F_WAIT_MS, IPC_F_LOGPROBS, IPC_F_ROWS, IPC_F_SPILL,
	IPC_F_OFFSET, IPC_F_DATA, IPC_F_LAST, IPC_F_PAGES, IPC_FIELDS
};

struct ipc_field_info {
	const char *name;
	enum ipc_type type;
	double low, high; /* numbers: inclusive bounds; text: length bounds in bytes */
	const char *fallback; /* default as documentation shows it, or NULL */
	const char *choices;  /* "a|b": the texts that are allowed, or NULL */
	const char *help;
};

struct ipc_op_info {
	const char *name;
	uint64_t required, optional; /* bits of enum ipc_field */
	const char *reply; /* shape of the reply, for people */
	const char *help;
};

extern const struct ipc_field_info ipc_fields[IPC_FIELDS];
extern const struct ipc_op_info ipc_ops[IPC_OPS];
extern const uint64_t ipc_sampling_fields; /* those that `append` leaves as they were */

struct ipc_text { const char *data; size_t length; }; /* NUL-terminated too; points into the request's JSON */
struct ipc_message { struct ipc_text role, content; };

/*
 * A decoded request. A field that is absent (see `present`) has its default from the table if it has one, zero if not; but the
 * sampling fields of an `append` have no default: absent, they are zero, and the session's value stays.
 */
struct ipc_request {
	enum ipc_op op;
	uint64_t present; /* bit per enum ipc_field */
	struct ipc_text session, new_session, request_id, prompt, template, text, priority, data;
	struct ipc_message *messages; /* [n_messages] */
	size_t n_messages;
	struct ids ids;
	bool special, ignore_eos, rows, spill, last, pages;
	uint32_t n, top_k, repeat_last_n, at, cursor, wait_ms, logprobs;
	double temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
	uint64_t seed, offset;
	uint32_t n_stops, n_biases;
	struct ipc_text stops[8];
	struct { int32_t id; float bias; } biases[64];
	json_t *root; /* owns what the texts point to */
};

static inline bool ipc_has(const struct ipc_request *r, enum ipc_field f) { return r->present >> f & 1; }

/* An error as it goes over the wire. */
struct ipc_error {
	enum ipc_code code;
	struct err err;
};
int ipc_error_set(struct ipc_error *e, enum ipc_code code, const char *format, ...) __attribute__((format(printf, 3, 4))); /* -1 */

/*
 * Decodes one message (JSON of any bytes). 0, or -1 with e: what is wrong, in which field. Unknown fields are an error, as is a
 * duplicate key, a whole number written 1.0 or 1e3, invalid UTF-8, a prompt and ids both, or neither (but for append). A name that is to be
 * made (session of generate, new of fork) is a plain one, without ~ or UID:. Never reads beyond [bytes, bytes + length).
 * ret is untouched on failure; on success the caller ends it with ipc_request_done(). ipc_decode_json() takes parsed JSON instead,
 * and the reference to it in any case.
 */
int ipc_decode_json(json_t *root, struct ipc_request *ret, struct ipc_error *e);
int ipc_decode(const char *bytes, size_t length, struct ipc_request *ret, struct ipc_error *e);
void ipc_request_done(struct ipc_request *r);

/* How many of `prompt`, `messages` and `ids` are there. */
static inline unsigned ipc_prompts(const struct ipc_request *r)
{
	return (unsigned)ipc_has(r, IPC_F_PROMPT) + ipc_has(r, IPC_F_MESSAGES) + ipc_has(r, IPC_F_IDS);
}

/* {"error":{"code","message","hint"}} */
json_t *ipc_error_json(const struct ipc_error *e);

/* Compact JSON text of a reply; takes (and drops) the reference. */
void ipc_encode(json_t *reply, struct buf *out);

#endif
