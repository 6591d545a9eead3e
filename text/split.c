/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte-level tokenizer first cuts text into words, numbers, symbols and white space. Models describe that as a chain of
 * splitters, each of which cuts the pieces of the one before. Cutting several times is slow and needs lists of pieces, so
 * each chain stands here as one pattern: where an earlier splitter isolates a class of characters, later alternatives leave
 * that class out and look-aheads take it for the end of the text. The patterns are ours; none from a model's file gets here.
 *
 * Falcon's chain ends with two splitters that run after text has become the byte alphabet, in which every byte is a character.
 * There the bytes B2, B3, B9, BC, BD and BE are the characters for superscripts and fractions, numbers for Unicode, so that an
 * "o" with acute (C3 B3) is cut in two. It is what the models were trained with, and a loop over bytes does it (cut_digits).
 *
 * Characters are classified by PCRE2's version of Unicode. A space is White_Space; PCRE2's \s would add U+180E.
 */
#include "text/split.h"

#include <errno.h>

#include "base/check.h"

#define SPACE "\\t-\\r\\x{85}\\p{Z}"
/*
 * Punctuation as the reference's splitter knows it: that of Unicode 8, and the ASCII symbols that are punctuation in C. LATER
 * became punctuation in Unicode 9 to 14, two characters ceased to be; elsewhere the reference goes by a recent version.
 */
#define PUNCTUATION "\\p{P}$+<=>^`|~\\x{166d}\\x{111c9}"
#define LATER "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b7d}\\x{1b7e}\\x{2e43}-\\x{2e4f}\\x{2e52}-\\x{2e5d}\\x{10ead}" \
	"\\x{10f55}-\\x{10f59}\\x{10f86}-\\x{10f89}\\x{1144b}-\\x{1144f}\\x{1145a}\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}" \
	"\\x{116b9}\\x{1183b}\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11a9c}\\x{11a9e}-\\x{11aa2}" \
	"\\x{11c41}-\\x{11c45}\\x{11c70}\\x{11c71}\\x{11ef7}\\x{11ef8}\\x{11fff}\\x{12ff1}\\x{12ff2}\\x{16e97}-\\x{16e9a}" \
	"\\x{16fe2}\\x{1e95e}\\x{1e95f}"
#define CONTRACTION "'(?:[stmd]|re|ve|ll)"

static const char *const patterns[WEIGHTS_PRES] = {
	/* runs of punctuation are isolated first, then GPT-2's pattern; ++: a group's repeats must not pile up on a stack */
	[WEIGHTS_PRE_FALCON] = "(?:(?![" LATER "])[" PUNCTUATION "])++"
		"| ?\\p{L}+| ?\\p{N}+| ?(?:[^" SPACE "\\p{L}\\p{N}" PUNCTUATION "]|[" LATER "])++"
		"|[" SPACE "]+(?![^" SPACE PUNCTUATION "]|[" LATER "])|[" SPACE "]+",
	[WEIGHTS_PRE_GPT2] = CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+"
		"|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+",
	/* each number character is isolated first */
	[WEIGHTS_PRE_SMOLLM] = CONTRACTION "| ?\\p{L}+|\\p{N}| ?[^" SPACE "\\p{L}\\p{N}]+"
		"|[" SPACE "]+(?![^" SPACE "\\p{N}])|[" SPACE "]+",
#define LLAMA3 "(?i:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*" \
	"|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
	[WEIGHTS_PRE_LLAMA3] = LLAMA3,
	[WEIGHTS_PRE_FALCON3] = LLAMA3, /* Falcon3 differs in its vocabulary, not here */
};

int split_init(struct split *s, uint32_t pre, struct err *e)
{
	if (pre >= WEIGHTS_PRES || patterns[pre] == NULL)
		return err_set(e, -EINVAL, "tokenizer: no pre-split has the number %u", pre);
	int error;
	size_t offset;
	s->code = pcre2_compile((PCRE2_SPTR)patterns[pre], PCRE2_ZERO_TERMINATED,
				PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK, &error, &offset, NULL);
	CHECK(s->code != NULL);
	/* All patterns are linear, so that PCRE2's limits on work would only refuse long pieces. */
	s->limits = pcre2_match_context_create(NULL);
	CHECK(s->limits != NULL);
	pcre2_set_match_limit(s->limits, UINT32_MAX);
	pcre2_set_heap_limit(s->limits, UINT32_MAX);
	/* Where a process may not map executable memory this fails, and pcre2_match() interprets the pattern. */
	(void)pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
	s->digit_bytes = pre == WEIGHTS_PRE_FALCON;
	return 0;
}

void split_done(struct split *s)
{
	pcre2_code_free(s->code);
	pcre2_match_context_free(s->limits);
	s->code = NULL;
	s->limits = NULL;
}

/* 0: no number in the byte alphabet, 1: one of B2 B3 B9 BC BD BE, 2: an ASCII digit. */
static inline int digit_class(unsigned char byte)
{
	if (byte < 0x80)
		return byte >= '0' && byte <= '9' ? 2 : 0;
	return byte == 0xb2 || byte == 0xb3 || byte == 0xb9 || (byte >= 0xbc && byte <= 0xbe);
}

/* Runs of numbers and of other bytes apart, and three ASCII digits at a time, from the left, isolated in the former. */
static int cut_digits(const char *piece, size_t length, split_take *take, void *context)
{
	const unsigned char *byte = (const unsigned char *)piece;
	size_t start = 0, i = 0;
	int r;
	while (i < length) {
		size_t next = i + 1;
		bool three = length - i >= 3 && digit_class(byte[i]) == 2 && digit_class(byte[i + 1]) == 2 &&
			     digit_class(byte[i + 2]) == 2;
		bool border = i > start && !digit_class(byte[i]) != !digit_class(byte[i - 1]);
		if (i > start && (three || border)) {
			if ((r = take(context, piece + start, i - start)) != 0)
				return r;
			start = i;
		}
		if (three) {
			if ((r = take(context, piece + i, 3)) != 0)
				return r;
			start = next = i + 3;
		}
		i = next;
	}
	return start < length ? take(context, piece + start, length - start) : 0;
}

int split_text(const struct split *s, pcre2_match_data *match, const char *text, size_t length, split_take *take, void *context)
{
	const size_t *bounds = pcre2_get_ovector_pointer(match);
	for (size_t at = 0; at < length; at = bounds[1]) {
		int found = pcre2_match(s->code, (PCRE2_SPTR)text, length, at, PCRE2_NO_UTF_CHECK, match, s->limits);
		if (found < 0 && found != PCRE2_ERROR_NOMATCH)
			return -E2BIG;
		/* Every character is in one of the alternatives, and none is empty. */
		CHECK(found > 0 && bounds[0] == at && bounds[1] > at);
		size_t n = bounds[1] - at;
		int r = s->digit_bytes ? cut_digits(text + at, n, take, context) : take(context, text + at, n);
		if (r != 0)
			return r;
	}
	return 0;
}
