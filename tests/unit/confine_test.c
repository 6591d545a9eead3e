/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cages of engine and packer, from inside: each call that they forbid is made by a process of its own, which has to die of
 * it, and what computing needs has to work. A build with sanitizers has no cages, so there is nothing to test.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/confine.h"
#include "pack/sandbox.h"

enum { SOURCE_BYTES = 1 << 20, CLOSED = 90 /* the cage could not be closed */ };

static int close_engine(void)
{
	struct err e;
	return confine(&e);
}

static int close_packer(void)
{
	struct err e;
	return sandbox_enter(SOURCE_BYTES, &e);
}

/* Runs `what` in a cage: its return value, or -signal. */
static int caged(int (*cage)(void), int (*what)(void))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGXFSZ, SIG_IGN);
		_exit(cage() < 0 ? CLOSED : what());
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int make_socket(void) { return socket(AF_UNIX, SOCK_STREAM, 0) < 0; }
static int make_inet_socket(void) { return socket(AF_INET, SOCK_STREAM, 0) < 0; }
static int connect_socket(void) { return connect(0, NULL, 0) < 0; }
static int open_file(void) { return open("/dev/null", O_RDONLY) < 0; }
static int make_file(void) { return memfd_create("probe", 0) < 0; }
static int remove_file(void) { return unlink("/nonexistent/probe") < 0; }
static int rename_file(void) { return rename("/nonexistent/a", "/nonexistent/b") < 0; }
static int execute(void) { return execl("/bin/true", "true", (char *)NULL) < 0; }
static int fork_process(void) { return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) < 0; }
static int signal_parent(void) { return kill(getppid(), 0) < 0; }
static int trace_parent(void) { return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) < 0; }
static int read_parent(void)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {&byte, 1};
	return process_vm_readv(getppid(), &here, 1, &there, 1, 0) < 0;
}
static int raise_limit(void)
{
	const struct rlimit limit = {0, 0};
	return setrlimit(RLIMIT_CORE, &limit) < 0;
}
static int change_process(void) { return prctl(PR_SET_DUMPABLE, 1) < 0; }
static int duplicate(void) { return dup(0) < 0; }
static int control_file(void) { return fcntl(0, F_GETFL) < 0; }
static int map_executable(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
}
static int make_executable(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0;
}
static int ring(void) { return syscall(SYS_io_uring_setup, 1, NULL) < 0; }

static const struct {
	const char *what;
	int (*call)(void);
} forbidden[] = {
	{"a socket", make_socket}, {"a network socket", make_inet_socket}, {"a connection", connect_socket},
	{"opening a file", open_file}, {"a new file", make_file}, {"removing a file", remove_file}, {"renaming a file", rename_file},
	{"another program", execute}, {"another process", fork_process}, {"a signal to its parent", signal_parent},
	{"tracing its parent", trace_parent}, {"reading its parent", read_parent}, {"another limit", raise_limit},
	{"another state", change_process}, {"another descriptor", duplicate}, {"a descriptor's flags", control_file},
	{"executable memory", map_executable}, {"memory made executable", make_executable}, {"an io_uring", ring},
};

static void expect_forbidden(int (*cage)(void))
{
	for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
		int got = caged(cage, forbidden[i].call);
		if (got != -SIGSYS)
			fail_msg("%s: %d, not death by SIGSYS", forbidden[i].what, got);
	}
}

static void what_the_engine_does_not_need_kills_it(void **state)
{
	(void)state;
	expect_forbidden(close_engine);
}

static void what_the_packer_does_not_need_kills_it(void **state)
{
	(void)state;
	expect_forbidden(close_packer);
}

static int write_and_compute(void)
{
	char *block = malloc(64 << 20);
	if (block == NULL || write(STDERR_FILENO, "", 0) != 0)
		return 1;
	memset(block, 1, 64 << 20);
	char *more = realloc(block, 128 << 20);
	free(more);
	return more == NULL;
}

static int take_too_much(void)
{
	return mmap(NULL, 4ull << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM ? 0 : 1;
}

static void engine_and_packer_compute_within_their_memory(void **state)
{
	(void)state;
	assert_int_equal(caged(close_engine, write_and_compute), 0);
	assert_int_equal(caged(close_packer, write_and_compute), 0);
	assert_int_equal(caged(close_engine, take_too_much), 0);
	assert_int_equal(caged(close_packer, take_too_much), 0);
}

static void *nothing(void *arg)
{
	return arg;
}

static int start_thread(void)
{
	pthread_t thread;
	return pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0;
}

static void the_packer_makes_threads_and_the_engine_has_all_of_its_own(void **state)
{
	(void)state;
	assert_int_equal(caged(close_packer, start_thread), 0);
	assert_int_equal(caged(close_engine, start_thread), -SIGSYS);
}

static int image; /* a memfd that the caged process has inherited */

static int write_small_image(void)
{
	return ftruncate(image, 2 * SOURCE_BYTES) < 0 || write(image, "x", 1) != 1;
}

static int write_huge_image(void)
{
	return ftruncate(image, (off_t)4 << 30) < 0 && errno == EFBIG ? 0 : 1;
}

static void an_image_far_larger_than_its_source_is_refused(void **state)
{
	(void)state;
	image = memfd_create("image", MFD_CLOEXEC);
	assert_true(image >= 0);
	assert_int_equal(caged(close_packer, write_small_image), 0);
	assert_int_equal(caged(close_packer, write_huge_image), 0);
	close(image);
}

static int give_up(void)
{
	abort();
}

static void a_failed_check_ends_a_caged_process_by_sigabrt(void **state)
{
	(void)state;
	assert_int_equal(caged(close_engine, give_up), -SIGABRT);
	assert_int_equal(caged(close_packer, give_up), -SIGABRT);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return 77;
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_engine_does_not_need_kills_it),
		cmocka_unit_test(what_the_packer_does_not_need_kills_it),
		cmocka_unit_test(engine_and_packer_compute_within_their_memory),
		cmocka_unit_test(the_packer_makes_threads_and_the_engine_has_all_of_its_own),
		cmocka_unit_test(an_image_far_larger_than_its_source_is_refused),
		cmocka_unit_test(a_failed_check_ends_a_caged_process_by_sigabrt),
	};
	return cmocka_run_group_tests_name("confine", tests, NULL, NULL);
}
