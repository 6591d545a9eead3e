/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/auth.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

enum { OVERFLOW_UID = 65534, PRIVATE_MODE = 0600, OTHERS = 0066 };

static int find_group(const struct config *c, enum config_id id, const char *key, const char *name, struct group **ret, struct err *e)
{
	*ret = NULL;
	if (name == NULL || (*ret = getgrnam(name)) != NULL || !config_is_set(c, id))
		return 0;
	err_set(e, -ENOENT, "%s: there is no group \"%s\"", key, name);
	return err_hint(e, "make it with `groupadd --system %s`, or name another", name);
}

static int read_admins(struct auth *a, const struct config *c, struct err *e)
{
	struct group *g;
	int r = find_group(c, CONFIG_ADMIN_GROUP, "admin_group", c->admin_group, &g, e);
	if (r < 0 || g == NULL)
		return r;
	a->admin_group = g->gr_gid;
	for (char **member = g->gr_mem; *member != NULL; member++) {
		struct passwd *p = getpwnam(*member);
		if (p == NULL)
			continue;
		a->admins = xreallocarray(a->admins, a->n_admins + 1, sizeof *a->admins);
		a->admins[a->n_admins++] = p->pw_uid;
	}
	return 0;
}

bool auth_map_is_whole(const char *uid_map)
{
	unsigned long inside, outside, count;
	return sscanf(uid_map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 && outside == 0 && count == UINT32_MAX;
}

static bool namespace_is_whole(void)
{
	char map[4096];
	FILE *f = fopen("/proc/self/uid_map", "re");
	if (f == NULL)
		return true; /* a kernel without user namespaces */
	size_t n = fread(map, 1, sizeof map - 1, f);
	map[n] = '\0';
	fclose(f);
	return auth_map_is_whole(map);
}

static int check_namespace(struct auth *a, const struct config *c, struct err *e)
{
	if (!(a->socket_mode & OTHERS) || namespace_is_whole())
		return 0;
	if (!config_is_set(c, CONFIG_SOCKET_MODE)) {
		a->socket_mode = PRIVATE_MODE;
		log_notice("this user namespace does not map every uid: the socket is for uid %d alone", (int)a->self);
		return 0;
	}
	err_set(e, -EPERM, "socket_mode %04o admits other users, and in this user namespace falcond cannot tell them apart",
		(unsigned)a->socket_mode);
	return err_hint(e, "set socket_mode: 0600, or start falcond outside of the namespace (no PrivateUsers=)");
}

int auth_init(struct auth *a, const struct config *c, struct err *e)
{
	*a = (struct auth){.self = geteuid(), .admin_group = (gid_t)-1, .socket_group = (gid_t)-1, .socket_mode = (uint32_t)c->socket_mode};
	struct group *g;
	int r = find_group(c, CONFIG_SOCKET_GROUP, "socket_group", c->socket_group, &g, e);
	if (r == 0 && g != NULL)
		a->socket_group = g->gr_gid;
	if (r == 0)
		r = read_admins(a, c, e);
	return r == 0 ? check_namespace(a, c, e) : r;
}

void auth_done(struct auth *a)
{
	free(a->admins);
	a->admins = NULL;
}

bool auth_known(uid_t uid)
{
	return uid != (uid_t)-1 && uid != OVERFLOW_UID;
}

bool auth_admin(const struct auth *a, uid_t uid)
{
	if (uid == 0 || uid == a->self)
		return true;
	for (size_t i = 0; i < a->n_admins; i++)
		if (a->admins[i] == uid)
			return true;
	return false;
}
