/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/confine.h"

#include <errno.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
int confine(struct err *e)
{
	(void)e;
	return 0;
}
#else
static const int allowed[] = {
	/* the board's wake-ups, log lines */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(poll), SCMP_SYS(ppoll),
	/* threads */
	SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall),
	SCMP_SYS(clock_gettime), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(sched_getaffinity),
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), /* the first calls of a thread that has just been made */
	/* memory; see also executable_never[] */
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(getrandom), SCMP_SYS(mbind),
	/* signals and the end */
	SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

/* Allowed while their third argument, the protection, does not ask for PROT_EXEC. */
static const int executable_never[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};

static int add_rules(scmp_filter_ctx filter)
{
	int r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1); /* the pool's threads too */
	for (size_t i = 0; r == 0 && i < sizeof allowed / sizeof allowed[0]; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; r == 0 && i < sizeof executable_never / sizeof executable_never[0]; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, executable_never[i], 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0) /* abort() */
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return r;
}

/* Of its own: the shared segments, where the model and the sessions are, do not count. */
static int limit_memory(struct err *e)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (f == NULL || fscanf(f, "%*u %*u %*u %*u %*u %llu", &pages) != 1)
		pages = 0;
	if (f != NULL)
		fclose(f);
	if (pages == 0)
		return err_set(e, -EIO, "cannot read in /proc/self/statm how much memory the engine has");
	rlim_t most = pages * (rlim_t)sysconf(_SC_PAGESIZE) + CONFINE_GROWTH;
	const struct rlimit limit = {.rlim_cur = most, .rlim_max = most};
	return setrlimit(RLIMIT_DATA, &limit) == 0 ? 0 : err_set(e, -errno, "cannot limit the engine's memory: %s", strerror(errno));
}

int confine(struct err *e)
{
	int r = limit_memory(e);
	if (r < 0)
		return r;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (filter == NULL)
		return err_set(e, -ENOMEM, "cannot make a system call filter");
	r = add_rules(filter);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r == 0 ? 0 : err_set(e, r, "cannot load the system call filter: %s", strerror(-r));
}
#endif
