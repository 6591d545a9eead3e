/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "daemon/child.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"

/* What a child may see of the environment: what heritage.h names, the journal for its log, and the sanitizers' settings. */
static const char *const inherited[] = {"FALCON_ISA", "JOURNAL_STREAM", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS",
#ifdef FALCON_TEST_HOOKS
					 "FALCON_TEST_HOOKS",
#endif
};
static const char one_blas_thread[] = "OPENBLAS_NUM_THREADS=1";
enum { INHERITED = sizeof inherited / sizeof inherited[0], FDS_MOST = 8 };

int child_find_engine(char *ret_path, size_t size, struct err *e)
{
	static const char name[] = "falcon-engine";
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n > 0) {
		self[n] = '\0';
		char *slash = strrchr(self, '/');
		*slash = '\0';
		if (snprintf(ret_path, size, "%s/%s", self, name) < (int)size && access(ret_path, X_OK) == 0)
			return 0;
	}
	if (snprintf(ret_path, size, "%s/%s", FALCON_LIBEXEC, name) < (int)size && access(ret_path, X_OK) == 0)
		return 0;
	err_set(e, -ENOENT, "no %s beside this program or in %s", name, FALCON_LIBEXEC);
	return err_hint(e, "install falcond with `make install`, or start it from its build folder");
}

int child_spawn(uv_loop_t *loop, uv_process_t *process, const char *path, char **argv, const int *fds, int n, uv_exit_cb on_exit,
		struct err *e)
{
	CHECK(n <= FDS_MOST);
	uv_stdio_container_t stdio[3 + FDS_MOST] = {{.flags = UV_IGNORE}};
	for (int i = 1; i < 3 + n; i++) {
		stdio[i].flags = UV_INHERIT_FD;
		stdio[i].data.fd = i < 3 ? STDERR_FILENO : fds[i - 3];
	}
	char *env[INHERITED + 2] = {xstrdup(one_blas_thread)};
	int n_env = 1;
	for (int i = 0; i < INHERITED; i++) {
		const char *value = getenv(inherited[i]);
		if (value != NULL && asprintf(&env[n_env], "%s=%s", inherited[i], value) > 0)
			n_env++;
	}
	env[n_env] = NULL;
	/* What whoever started falcond left open is not for its children. */
	close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
	uv_process_options_t o = {.file = path, .args = argv, .env = env, .stdio_count = 3 + n, .stdio = stdio, .exit_cb = on_exit};
	int r = uv_spawn(loop, process, &o);
	for (int i = 0; i < n_env; i++)
		free(env[i]);
	return r == 0 ? 0 : err_set(e, r, "cannot start %s: %s", path, uv_strerror(r));
}
