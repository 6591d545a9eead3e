/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "http/identity.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"

static int add_line(struct identity_keys *k, char *line, struct err *e)
{
	static const char blanks[] = " \t\r\n";
	char *rest, *name = strtok_r(line, blanks, &rest), *key = strtok_r(NULL, blanks, &rest);
	char *word = key ? strtok_r(NULL, blanks, &rest) : NULL;
	if (name == NULL || name[0] == '#')
		return 0;
	bool admin = word != NULL && strcmp(word, "admin") == 0;
	if (key == NULL || (word != NULL && (!admin || strtok_r(NULL, blanks, &rest) != NULL)))
		return err_set(e, -EINVAL, "expected NAME KEY, or NAME KEY admin");
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->list[i].key, key) == 0 || strcmp(k->list[i].name, name) == 0)
			return err_set(e, -EINVAL, "the name or the key of \"%.64s\" stands there twice", name);
	k->list = xreallocarray(k->list, k->n + 1, sizeof *k->list);
	k->list[k->n++] = (struct identity_key){.name = xstrdup(name), .key = xstrdup(key), .admin = admin};
	return 0;
}

int identity_load(struct identity_keys *k, const char *file, struct err *e)
{
	*k = (struct identity_keys){0};
	if (file == NULL)
		return 0;
	FILE *f = fopen(file, "re");
	struct stat st;
	if (f == NULL || fstat(fileno(f), &st) < 0) {
		int code = -errno;
		if (f != NULL)
			fclose(f);
		return err_set(e, code, "http.keys: cannot read %s: %s", file, strerror(-code));
	}
	int r = 0;
	if (st.st_mode & 077) {
		r = err_set(e, -EPERM, "http.keys: %s has mode %04o", file, (unsigned)st.st_mode & 07777);
		err_hint(e, "chmod 600 it: a key that others can read is no key");
	}
	char *line = NULL;
	size_t size = 0;
	for (unsigned number = 1; r == 0 && getline(&line, &size, f) >= 0; number++)
		if ((r = add_line(k, line, e)) < 0)
			err_prefix(e, "http.keys: %s:%u", file, number);
	free(line);
	fclose(f);
	if (r == 0 && k->n == 0)
		r = err_set(e, -EINVAL, "http.keys: %s has no keys", file);
	if (r < 0)
		identity_done(k);
	return r;
}

void identity_done(struct identity_keys *k)
{
	for (size_t i = 0; i < k->n; i++) {
		free(k->list[i].name);
		free(k->list[i].key);
	}
	free(k->list);
	*k = (struct identity_keys){0};
}

/* Takes as long for a key that is nearly right as for any other. */
static bool same(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned differ = n != m;
	for (size_t i = 0; i < n; i++)
		differ |= (unsigned)((unsigned char)a[i] ^ (unsigned char)b[m ? i % m : 0]);
	return differ == 0;
}

uint64_t identity_of_key(const struct identity_keys *k, const char *header, bool *ret_admin)
{
	static const char scheme[] = "Bearer ";
	if (header == NULL || strncasecmp(header, scheme, sizeof scheme - 1) != 0)
		return 0;
	uint64_t owner = 0;
	for (size_t i = 0; i < k->n; i++) {
		const struct identity_key *key = &k->list[i];
		if (!same(header + sizeof scheme - 1, key->key))
			continue;
		owner = IDENTITY_KEY_OWNER | hash64(key->name, strlen(key->name)) >> 3;
		*ret_admin = key->admin;
	}
	return owner;
}

/* An end of a connection as /proc/net/tcp writes it: the address in words of the machine's byte order, and the port. */
static bool print_end(const struct sockaddr_storage *at, char *out, size_t size)
{
	if (at->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)at;
		snprintf(out, size, "%08X:%04X", in->sin_addr.s_addr, ntohs(in->sin_port));
	} else if (at->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const void *)at;
		uint32_t w[4];
		memcpy(w, &in->sin6_addr, sizeof w);
		snprintf(out, size, "%08X%08X%08X%08X:%04X", w[0], w[1], w[2], w[3], ntohs(in->sin6_port));
	} else {
		return false;
	}
	return true;
}

/* The owner of the socket whose local end is `local` and whose other end is `remote`. */
static uid_t find_connection(const char *table, const char *local, const char *remote)
{
	char line[512], a[64], b[64];
	unsigned uid;
	FILE *f = fopen(table, "re");
	uid_t found = (uid_t)-1;
	while (f != NULL && found == (uid_t)-1 && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, " %*[0-9]: %63s %63s %*x %*x:%*x %*x:%*x %*x %u", a, b, &uid) == 3 && strcmp(a, local) == 0 &&
		    strcmp(b, remote) == 0)
			found = uid;
	if (f != NULL)
		fclose(f);
	return found;
}

uid_t identity_of_socket(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.uid : (uid_t)-1;
}

uid_t identity_of_peer(int fd, bool *ret_tcp)
{
	struct sockaddr_storage ours, theirs;
	socklen_t n = sizeof ours, m = sizeof theirs;
	char here[64], there[64];
	*ret_tcp = true;
	if (getsockname(fd, (struct sockaddr *)&ours, &n) < 0)
		return (uid_t)-1;
	*ret_tcp = ours.ss_family != AF_UNIX;
	if (!*ret_tcp)
		return identity_of_socket(fd);
	if (getpeername(fd, (struct sockaddr *)&theirs, &m) < 0 || !print_end(&ours, here, sizeof here) ||
	    !print_end(&theirs, there, sizeof there))
		return (uid_t)-1;
	return find_connection(ours.ss_family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6", there, here);
}

bool identity_is_local(const char *host, const char *origin)
{
	static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
	static const char scheme[] = "http://";
	if (origin != NULL && (host == NULL || strncmp(origin, scheme, sizeof scheme - 1) != 0 ||
			       strcasecmp(origin + sizeof scheme - 1, host) != 0))
		return false;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		size_t n = strlen(names[i]);
		if (host != NULL && strncasecmp(host, names[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
			return true;
	}
	return host == NULL; /* HTTP/1.0 of a tool; browsers send it */
}
