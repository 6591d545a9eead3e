/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/spill_format.h"

#include <errno.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "shm/probs.h"

enum { HEADER = sizeof(struct spill_header) };

static uint64_t head_bytes(uint32_t n_tokens, uint64_t probs)
{
	return HEADER + BOARD_RECORD_SIZE + (uint64_t)n_tokens * sizeof(int32_t) + probs + SPILL_CHECKSUM;
}

uint64_t spill_head_bytes(const struct spill_header *h)
{
	return head_bytes(h->n_tokens, h->probs_bytes);
}

uint64_t spill_head_most(uint32_t n_context)
{
	return head_bytes(n_context, probs_bytes(board_logprobs(BOARD_TOP), n_context));
}

uint64_t spill_page_stride(uint64_t page_bytes)
{
	return SPILL_CHECKSUM + page_bytes;
}

uint64_t spill_pages_bytes(uint32_t n_kv, uint64_t page_bytes)
{
	return ((uint64_t)n_kv + PAGE_TOKENS - 1) / PAGE_TOKENS * spill_page_stride(page_bytes);
}

int spill_head_length(const uint8_t *bytes, size_t length, const struct spill_model *m, uint64_t *ret, struct err *e)
{
	struct spill_header h;
	if (length < HEADER)
		return err_set(e, -EINVAL, "not a session: %zu bytes, a header has %d", length, HEADER);
	memcpy(&h, bytes, sizeof h);
	if (h.magic != SPILL_MAGIC)
		return err_set(e, -EINVAL, "not a session: its first bytes are not those of one");
	if (h.version != SPILL_VERSION || (h.features & ~(uint32_t)SPILL_PROBS) != 0)
		return err_set(e, -EINVAL, "version %u, features %#x of the session format, this build reads version %u", h.version,
			       h.features, SPILL_VERSION);
	if (h.n_tokens > m->n_context)
		return err_set(e, -EINVAL, "%u tokens, a session may have %u", h.n_tokens, m->n_context);
	if (h.probs_bytes > probs_bytes(board_logprobs(BOARD_TOP), m->n_context) || (h.probs_bytes > 0) != ((h.features & SPILL_PROBS) != 0))
		return err_set(e, -EINVAL, "%llu bytes of log-probabilities, features %#x", (unsigned long long)h.probs_bytes, h.features);
	*ret = spill_head_bytes(&h);
	return 0;
}

bool spill_name_valid(const char *name, size_t length)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	bool given = length > 1 && name[0] == '~';
	if (length < 1 || length > (given ? 20 : BOARD_NAME))
		return false;
	for (size_t i = given; i < length; i++)
		if (name[i] == '\0' || (given ? name[i] < '0' || name[i] > '9' : strchr(letters, name[i]) == NULL))
			return false;
	return true;
}

static int check_log(const uint8_t *log, uint32_t n, const struct spill_model *m, struct err *e)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id;
		memcpy(&id, log + (size_t)i * sizeof id, sizeof id);
		if (id >= m->n_vocab)
			return err_set(e, -EINVAL, "token %u is %d, the vocabulary has %u", i, (int32_t)id, m->n_vocab);
	}
	return 0;
}

/* What a head with a good checksum says, which may be a lie all the same: a client can compute checksums. */
static int check_content(const struct spill_head *s, const struct spill_model *m, struct err *e)
{
	const struct spill_header *h = &s->header;
	const struct board_record *r = &s->record;
	const struct board board = {.n_context = m->n_context};
	int code = board_record_check(&board, r, m->n_vocab, e);
	if (code < 0)
		return code;
	if (!spill_name_valid(r->name, r->name_length))
		return err_set(e, -EINVAL, "its name is none that a session can have");
	if (r->flags & ~(uint32_t)(BOARD_IGNORE_EOS | BOARD_LOGPROBS | BOARD_TOPS))
		return err_set(e, -EINVAL, "flags %#x, a session that continues has no such", r->flags);
	if (r->n_given > h->n_tokens || h->n_kv > h->n_tokens || h->first_given > h->n_tokens || h->first_cursor > h->n_tokens)
		return err_set(e, -EINVAL, "%u tokens given and %u computed of %u", r->n_given, h->n_kv, h->n_tokens);
	if (h->probs_bytes != probs_bytes(r->flags, h->n_tokens - r->n_given))
		return err_set(e, -EINVAL, "%llu bytes of log-probabilities of %u tokens, flags %#x", (unsigned long long)h->probs_bytes,
			       h->n_tokens - r->n_given, r->flags);
	if (h->unfinished > 1 || h->finish > BOARD_ERROR)
		return err_set(e, -EINVAL, "unfinished is %u, finish %u", h->unfinished, h->finish);
	return check_log(s->log, h->n_tokens, m, e);
}

int spill_parse(const uint8_t *bytes, size_t length, const struct spill_model *m, struct spill_head *ret, struct err *e)
{
	uint64_t need = 0;
	struct spill_head s = {0};
	uint8_t sum[SPILL_CHECKSUM];
	int r = spill_head_length(bytes, length, m, &need, e);
	if (r < 0)
		return r;
	if (length < need)
		return err_set(e, -EINVAL, "cut off: %zu bytes, record and tokens have %llu", length, (unsigned long long)need);
	memcpy(&s.header, bytes, sizeof s.header);
	hash128(bytes, need - SPILL_CHECKSUM, sum);
	if (memcmp(sum, bytes + need - SPILL_CHECKSUM, SPILL_CHECKSUM) != 0)
		return err_set(e, -EINVAL, "damaged: the checksum of record and tokens is wrong");
	if (memcmp(s.header.source, m->source, sizeof m->source) != 0)
		return err_set(e, -EXDEV, "a session of another model");
	memcpy(&s.record, bytes + HEADER, sizeof s.record);
	s.log = bytes + HEADER + BOARD_RECORD_SIZE;
	s.probs = s.log + s.header.n_tokens * sizeof(int32_t);
	if ((r = check_content(&s, m, e)) < 0)
		return r;
	bool usable = memcmp(s.header.fingerprint, m->fingerprint, sizeof m->fingerprint) == 0 && s.header.page_bytes == m->page_bytes;
	s.n_kv = usable ? s.header.n_kv : 0;
	*ret = s;
	return 0;
}

uint8_t *spill_compose(const struct spill_header *h, const struct board_record *r, const int32_t *log, const void *probs,
		       size_t *ret_bytes)
{
	size_t bytes = spill_head_bytes(h);
	uint8_t *head = xcalloc(1, bytes);
	memcpy(head, h, sizeof *h);
	memcpy(head + HEADER, r, sizeof *r);
	memcpy(head + HEADER + BOARD_RECORD_SIZE, log, h->n_tokens * sizeof *log);
	if (h->probs_bytes > 0)
		memcpy(head + HEADER + BOARD_RECORD_SIZE + h->n_tokens * sizeof *log, probs, h->probs_bytes);
	*ret_bytes = bytes;
	return head;
}

void spill_seal(uint8_t *head, size_t bytes, uint32_t n_kv)
{
	memcpy(head + offsetof(struct spill_header, n_kv), &n_kv, sizeof n_kv);
	hash128(head, bytes - SPILL_CHECKSUM, head + bytes - SPILL_CHECKSUM);
}

void spill_page_checksum(uint64_t salt, uint32_t page, const void *payload, uint64_t bytes, uint8_t ret[SPILL_CHECKSUM])
{
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(payload, bytes, salt + page));
	memcpy(ret, canonical.digest, SPILL_CHECKSUM);
}
