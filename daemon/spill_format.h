/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session as a file: what the state folder holds, and what `export` and `import` move between daemons. docs/STATE.md explains
 * it to people. Little endian, fixed width, no padding that is not said:
 *
 *	header (256 bytes) | record (2,048, shm/board.h) | token log (n_tokens int32) | log-probabilities (probs_bytes, shm/probs.h) |
 *	checksum (16) | pages of n_kv positions
 *
 * The first checksum is XXH3-128 of all before it. A page is a checksum and page_bytes of payload (shm/pages.h). The head, all before the pages, is good or the file is
 * no session; it suffices to go on, since pages are a cache of the log. So a damaged page costs time alone: it and those after it
 * are computed again. A file without pages (n_kv 0) is a token log.
 *
 * The bytes may come from a client: nothing here trusts a length, a count or an id.
 */
#ifndef FALCON_DAEMON_SPILL_FORMAT_H
#define FALCON_DAEMON_SPILL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "shm/board.h"

#define SPILL_MAGIC UINT64_C(0x314c505343464c46) /* "FLFCSPL1" */
#define SPILL_VERSION 1u

struct spill_header {
	uint64_t magic;
	uint32_t version;
	uint32_t features;       /* 0: a reader refuses bits that it does not know */
	uint8_t source[16];      /* hash of the model's source files: of what model the token ids are */
	uint8_t fingerprint[16]; /* state fingerprint (board_fingerprint): what the pages can be used for */
	uint32_t n_tokens, n_kv; /* n_kv <= n_tokens */
	uint64_t page_bytes;     /* of a payload */
	uint64_t salt;           /* of the pages' checksums: drawn for each file, so that no page of another one fits */
	uint32_t unfinished;     /* 1: its run was not over */
	uint32_t finish;         /* enum board_reason of the last run, 0: none, or unfinished */
	/* The reply to the op that made the session, to be given again when its request id comes again. */
	uint32_t first_given, first_cached, first_cursor;
	uint32_t pad;
	uint64_t first_seed;
	uint64_t probs_bytes;    /* of tokens [record.n_given, n_tokens), if its run asked for them; 0 without SPILL_PROBS */
	uint8_t reserved[144];
};
static_assert(sizeof(struct spill_header) == 256, "spill_header");
static_assert(offsetof(struct spill_header, source) == 16, "spill_header.source");
static_assert(offsetof(struct spill_header, n_tokens) == 48, "spill_header.n_tokens");
static_assert(offsetof(struct spill_header, page_bytes) == 56, "spill_header.page_bytes");
static_assert(offsetof(struct spill_header, unfinished) == 72, "spill_header.unfinished");
static_assert(offsetof(struct spill_header, first_seed) == 96, "spill_header.first_seed");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files and segments are little endian");

enum { SPILL_CHECKSUM = 16 };
enum spill_features { SPILL_PROBS = 1 };

/* The model that a file is held against. */
struct spill_model {
	uint8_t source[16], fingerprint[16];
	uint32_t n_vocab, n_context;
	uint64_t page_bytes;
};

/* A head that was checked. */
struct spill_head {
	struct spill_header header;
	struct board_record record;
	const uint8_t *log; /* [n_tokens] int32, perhaps not aligned, in the bytes that were parsed */
	const uint8_t *probs; /* [probs_bytes] the same */
	uint32_t n_kv;      /* positions whose pages can be used: 0 if they are of another arithmetic or kind */
};

/* Bytes before the pages (at most, of any session), of one page, and of n_kv positions' pages. */
uint64_t spill_head_bytes(const struct spill_header *h);
uint64_t spill_head_most(uint32_t n_context);
uint64_t spill_page_stride(uint64_t page_bytes);
uint64_t spill_pages_bytes(uint32_t n_kv, uint64_t page_bytes);

/* Bytes of the head that begins here, from its first 256: 0 or -EINVAL, if it can be none of this model. */
int spill_head_length(const uint8_t *bytes, size_t length, const struct spill_model *m, uint64_t *ret, struct err *e);

/*
 * Checks a whole head against model and board (record and ids included). 0 or -EINVAL: damaged, of another version; -EXDEV: of
 * another model. The name in the record is one that a session can have.
 */
int spill_parse(const uint8_t *bytes, size_t length, const struct spill_model *m, struct spill_head *ret, struct err *e);

/* A name that a session can have: 1 to 64 of [A-Za-z0-9._-], or ~N. */
bool spill_name_valid(const char *name, size_t length);

/*
 * A head as bytes, which the caller frees: header, record, log, log-probabilities. spill_seal() writes n_kv and the checksum into it once its pages
 * are written.
 */
uint8_t *spill_compose(const struct spill_header *h, const struct board_record *r, const int32_t *log, const void *probs,
		       size_t *ret_bytes);
void spill_seal(uint8_t *head, size_t bytes, uint32_t n_kv);

void spill_page_checksum(uint64_t salt, uint32_t page, const void *payload, uint64_t bytes, uint8_t ret[SPILL_CHECKSUM]);

#endif
