/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/stream.h"

#include <stdlib.h>

#include "base/check.h"
#include "text/utf8.h"

static void note(struct stream *s, const struct board_record *r)
{
	uint32_t i = s->ending.position - s->n_given;
	if (i >= s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 64;
		s->visible = xreallocarray(s->visible, s->capacity, sizeof *s->visible);
	}
	s->visible[i] = s->ending.text.length > 0 ? (uint32_t)ending_visible(&s->ending, r, false) : 0;
}

void stream_follow(struct stream *s, const struct tokenizer *t, const struct board_record *r, const int32_t *log, uint32_t n_tokens)
{
	if (s->visible == NULL || s->n_given != r->n_given || s->ending.position > n_tokens) {
		s->n_given = r->n_given;
		ending_start(&s->ending, r->n_given);
		note(s, r);
	}
	while (s->ending.position < n_tokens) {
		ending_take(&s->ending, t, r, log[s->ending.position]);
		note(s, r);
	}
}

void stream_text(const struct stream *s, const struct board_record *r, uint32_t from, uint32_t to, bool rest, struct buf *out)
{
	CHECK(s->n_given <= from && from <= to && to <= s->ending.position);
	if (s->ending.text.length == 0)
		return;
	size_t begin = s->visible[from - s->n_given];
	size_t end = rest ? ending_visible(&s->ending, r, true) : s->visible[to - s->n_given];
	/* Text that may be sent ends between characters, so no piece begins or ends inside an invalid sequence either. */
	if (begin < end)
		utf8_repair(s->ending.text.data + begin, end - begin, out);
}

void stream_done(struct stream *s)
{
	ending_done(&s->ending);
	free(s->visible);
	*s = (struct stream){0};
}
