/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "http/listen.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128 };

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

struct listen_at listen_next(const char **at)
{
	static const char blanks[] = " \t\n";
	struct listen_at a = {.text = *at + strspn(*at, blanks)};
	a.length = strcspn(a.text, blanks);
	*at = a.text + a.length;
	return a;
}

static int refuse(struct listen_at a, const char *why, struct err *e)
{
	err_set(e, -EINVAL, "http: \"%.*s\" %s", (int)(a.length < 120 ? a.length : 120), a.text, why);
	return err_hint(e, "such as unix:/run/falcond/http.sock or 127.0.0.1:8080");
}

static int parse_unix(struct listen_at a, union address *ret, socklen_t *ret_size, struct err *e)
{
	const char *path = a.text + 5;
	size_t n = a.length - 5;
	if (n == 0 || path[0] != '/' || n >= sizeof ret->un.sun_path)
		return refuse(a, "is no absolute path that fits a socket's address", e);
	ret->un.sun_family = AF_UNIX;
	memcpy(ret->un.sun_path, path, n);
	ret->un.sun_path[n] = '\0';
	*ret_size = sizeof ret->un;
	return 0;
}

/* IPv4 127.0.0.0/8, or [::1]. */
static int parse_tcp(struct listen_at a, union address *ret, socklen_t *ret_size, struct err *e)
{
	char text[64], *colon, *end;
	if (a.length >= sizeof text)
		return refuse(a, "is no address", e);
	memcpy(text, a.text, a.length);
	text[a.length] = '\0';
	colon = strrchr(text, ':');
	unsigned long port = colon && isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
	if (port == 0 || port > 65535 || *end != '\0')
		return refuse(a, "is neither unix:PATH nor ADDRESS:PORT", e);
	*colon = '\0';
	if (strcmp(text, "[::1]") == 0) {
		ret->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		*ret_size = sizeof ret->in6;
		return 0;
	}
	ret->in.sin_family = AF_INET;
	ret->in.sin_port = htons((uint16_t)port);
	*ret_size = sizeof ret->in;
	if (inet_pton(AF_INET, text, &ret->in.sin_addr) != 1)
		return refuse(a, "is no numeric address", e);
	if (ntohl(ret->in.sin_addr.s_addr) >> 24 != 127)
		return refuse(a, "is not a loopback address: falcond serves this machine", e);
	return 0;
}

static bool is_unix(struct listen_at a)
{
	return a.length > 5 && memcmp(a.text, "unix:", 5) == 0;
}

static int parse(struct listen_at a, union address *ret, socklen_t *ret_size, struct err *e)
{
	memset(ret, 0, sizeof *ret);
	return is_unix(a) ? parse_unix(a, ret, ret_size, e) : parse_tcp(a, ret, ret_size, e);
}

int listen_check(struct listen_at a, struct err *e)
{
	union address address;
	socklen_t size;
	return parse(a, &address, &size, e);
}

/* Removes the file of a socket that nobody listens at. */
static int replace_stale(const union address *at, socklen_t size, struct err *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool live = fd >= 0 && connect(fd, &at->any, size) == 0;
	bool stale = !live && errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	if (live)
		return err_set(e, -EADDRINUSE, "http: %s: another process listens there", at->un.sun_path);
	if (stale)
		unlink(at->un.sun_path);
	return 0;
}

/* The file gets its mode before anyone can connect: listen() comes after. */
static int set_access(const char *path, uint32_t mode, gid_t group, struct err *e)
{
	if ((group == (gid_t)-1 || chown(path, (uid_t)-1, group) == 0) && chmod(path, mode) == 0)
		return 0;
	return err_set(e, -errno, "http: cannot set group and mode of %s: %s", path, strerror(errno));
}

int listen_open(struct listen_at a, uint32_t mode, gid_t group, struct err *e)
{
	union address at;
	socklen_t size;
	const int on = 1;
	int r = parse(a, &at, &size, e);
	if (r == 0 && at.any.sa_family == AF_UNIX)
		r = replace_stale(&at, size, e);
	if (r < 0)
		return r;
	int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && at.any.sa_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	mode_t mask = umask(0177);
	bool bound = fd >= 0 && bind(fd, &at.any, size) == 0;
	int code = -errno;
	umask(mask);
	if (!bound) {
		r = err_set(e, code, "http: cannot listen at %.*s: %s", (int)a.length, a.text, strerror(-code));
	} else if (at.any.sa_family == AF_UNIX && (r = set_access(at.un.sun_path, mode, group, e)) < 0) {
		unlink(at.un.sun_path);
	} else if (listen(fd, BACKLOG) < 0) {
		r = err_set(e, -errno, "http: cannot listen at %.*s: %s", (int)a.length, a.text, strerror(errno));
	}
	if (r < 0 && fd >= 0)
		close(fd);
	return r < 0 ? r : fd;
}

int listen_check_handed(int fd, struct err *e)
{
	union address at = {.any.sa_family = AF_UNSPEC};
	socklen_t n = sizeof at, m = sizeof(int), k = sizeof(int);
	int type = 0, listens = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &m) < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &k) < 0 ||
	    getsockname(fd, &at.any, &n) < 0 || type != SOCK_STREAM || !listens)
		return err_set(e, -ENOTSOCK, "http: descriptor %d is no socket that listens", fd);
	bool loopback = at.any.sa_family == AF_INET ? ntohl(at.in.sin_addr.s_addr) >> 24 == 127
						    : at.any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&at.in6.sin6_addr);
	if (at.any.sa_family == AF_UNIX || loopback)
		return 0;
	err_set(e, -EINVAL, "http: the socket handed over as descriptor %d is open to other machines: falcond serves this one", fd);
	return err_hint(e, "ListenStream= a path or a loopback address, such as 127.0.0.1:8080, in the socket unit");
}

int listen_duplicate(int fd, struct err *e)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy >= 0 && fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK) == 0)
		return copy;
	err_set(e, -errno, "http: cannot take over descriptor %d: %s", fd, strerror(errno));
	if (copy >= 0)
		close(copy);
	return e->code;
}

void listen_remove(struct listen_at a)
{
	union address at;
	socklen_t size;
	if (is_unix(a) && parse(a, &at, &size, NULL) == 0)
		unlink(at.un.sun_path);
}
