/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of one owner share the full pages of the beginning that their texts have in common.
 *
 * What has been computed is found in the index (daemon/prefix.h), where a session puts each page once it is full, so also while
 * it still reads its prompt or generates. What is being computed right now is found by comparing logs: if a running session,
 * the leader, is about to fill pages of the same beginning, a new one follows it, that is, it is not published yet and holds no
 * pages. Each time pages may have moved falcond asks share_waits() of those that follow. It says no when the leader has
 * passed the common part, and also when the leader is cancelled, paused, dropped or failed or gave its pages away: then the
 * follower takes what is in the index by now, and computes the rest itself unless it finds another leader. As the oldest follower
 * is asked first and is running when the next one is asked, exactly one takes over.
 *
 * Why nobody waits for ever: a leader is always published and running, and one that follows is not, so there are no cycles; a
 * leader that waits for pages gets them from others as any run does (daemon/pressure.h), and one that follows has none that
 * could be missed. An engine that dies changes nothing: the next one goes on with the leader.
 *
 * The text that is looked for ends before the last token, whose logits are needed. Score runs neither give nor take.
 */
#ifndef FALCON_DAEMON_SHARE_H
#define FALCON_DAEMON_SHARE_H

#include "daemon/session.h"

/* What there is of a text's beginning. */
struct share {
	uint32_t n_pages;       /* full pages of it that are in memory */
	uint32_t n_live;        /* of these, held by sessions: the others are among the arena's free ones */
	uint32_t n_coming;      /* full pages that there will be once the leader has passed them, > n_pages; 0: no leader */
	const struct session *leader;
};

/* priority: of the run that begins with the text; it waits for none of a lower one, which might not get on. */
struct share share_find(const struct sessions *t, const struct owner *o, enum board_priority priority, const int32_t *ids,
			uint32_t n_tokens);

/* Tokens that need no computing by whoever begins with that text. */
static inline uint32_t share_tokens(const struct share *h)
{
	return (h->n_coming > h->n_pages ? h->n_coming : h->n_pages) * PAGE_TOKENS;
}

/* The session, which holds no pages, gets the first n_pages of what share_find() found just now. Sets n_pages and n_kv. */
void share_take(struct sessions *t, struct session *s, uint32_t n_pages);

/* The session's full pages that are new come into the index; its n_kv says how far it is. */
void share_add(struct sessions *t, struct session *s);

/* Its pages were filled from elsewhere than the engine: writes their heads, then as share_add(). */
void share_restored(struct sessions *t, struct session *s);

/* The session follows this leader; and whether it still has to. */
void share_follow(struct session *s, const struct share *h);
bool share_waits(const struct sessions *t, const struct session *s);

#endif
