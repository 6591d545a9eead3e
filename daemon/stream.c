/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "text/utf8.h"

static void note(struct stream *s)
{
	uint32_t i = s->ending.position - s->n_given;
	if (i >= s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 64;
		s->visible = xreallocarray(s->visible, s->capacity, sizeof *s->visible);
	}
	s->visible[i] = s->ending.text.length > 0 ? (uint32_t)ending_visible(&s->ending, s->terms, false) : 0;
}

static void start(struct stream *s, const struct stream_run *run)
{
	if (s->terms == NULL)
		s->terms = xmalloc(sizeof *s->terms);
	memcpy(s->terms, run->r, sizeof *s->terms);
	if (s->terms->n_stops > BOARD_STOPS)
		s->terms->n_stops = 0;
	for (uint32_t i = 0; i < s->terms->n_stops; i++)
		if (s->terms->stop_length[i] > BOARD_STOP_BYTES)
			s->terms->stop_length[i] = 0;
	s->n_given = run->n_given;
	ending_start(&s->ending, run->n_given);
	note(s);
}

void stream_follow(struct stream *s, const struct tokenizer *t, const struct stream_run *run)
{
	if (s->visible == NULL || s->n_given != run->n_given || s->ending.position > run->n_tokens)
		start(s, run);
	while (s->ending.position < run->n_tokens) {
		ending_take(&s->ending, t, s->terms, run->log[s->ending.position]);
		note(s);
	}
}

void stream_text(const struct stream *s, uint32_t from, uint32_t to, bool rest, struct buf *out)
{
	CHECK(s->n_given <= from && from <= to && to <= s->ending.position);
	if (s->ending.text.length == 0)
		return;
	size_t begin = s->visible[from - s->n_given];
	size_t end = rest ? ending_visible(&s->ending, s->terms, true) : s->visible[to - s->n_given];
	/* Text that may be sent ends between characters, so no piece begins or ends inside an invalid sequence either. */
	if (begin < end)
		utf8_repair(s->ending.text.data + begin, end - begin, out);
}

void stream_done(struct stream *s)
{
	ending_done(&s->ending);
	free(s->terms);
	free(s->visible);
	*s = (struct stream){0};
}
