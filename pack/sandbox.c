/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list is what the parsers, malloc, glibc's threads and the writing of the image need. Nothing on it opens, connects,
 * executes or signals another process, and no memory becomes executable. The sanitizers' runtimes do all of that, so a build
 * with one runs unconfined.
 */
#define _GNU_SOURCE /* AT_EMPTY_PATH */
#include "pack/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED

int sandbox_enter(uint64_t source_bytes, struct err *e)
{
	(void)source_bytes;
	(void)e;
	return 0;
}

#else

static const int allowed[] = {
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(ftruncate),
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(futex), SCMP_SYS(gettid),
	SCMP_SYS(getpid), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_yield), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(clock_gettime), SCMP_SYS(getrandom), SCMP_SYS(restart_syscall), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(sysinfo), /* glibc's qsort asks how much memory there is */
};

/* Allowed while their third argument, the protection, does not ask for PROT_EXEC. */
static const int executable_never[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};

static int add_rules(scmp_filter_ctx filter)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < sizeof allowed / sizeof allowed[0]; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; r == 0 && i < sizeof executable_never / sizeof executable_never[0]; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, executable_never[i], 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0) /* threads; no processes */
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	if (r == 0) /* its flags are in memory, where a filter does not see them: glibc then takes clone */
		r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0) /* abort() signals its own process */
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	if (r == 0) /* glibc's fstat() */
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
				     SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
	return r;
}

static int limit(uint64_t source_bytes, struct err *e)
{
	const rlim_t image = 2 * source_bytes + (UINT64_C(1) << 30), all = 2 * source_bytes + (UINT64_C(2) << 30);
	const struct rlimit file = {.rlim_cur = image, .rlim_max = image}, space = {.rlim_cur = all, .rlim_max = all};
	if (setrlimit(RLIMIT_FSIZE, &file) < 0 || setrlimit(RLIMIT_AS, &space) < 0)
		return err_set(e, -errno, "cannot limit the packer's memory: %s", strerror(errno));
	return 0;
}

int sandbox_enter(uint64_t source_bytes, struct err *e)
{
	int r = limit(source_bytes, e);
	if (r < 0)
		return r;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (filter == NULL)
		return err_set(e, -ENOMEM, "cannot make a seccomp filter");
	r = add_rules(filter);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r == 0 ? 0 : err_set(e, r, "cannot confine the packer by seccomp: %s", strerror(-r));
}

#endif
