/* SPDX-License-Identifier: Apache-2.0 */
/* A falcond of a test's own: the bundled model on a socket in a folder of its own. */
#ifndef FALCON_TESTS_DAEMON_H
#define FALCON_TESTS_DAEMON_H

#include <stdbool.h>
#include <sys/types.h>

struct daemon {
	pid_t pid;
	unsigned threads; /* of its engine; 0: two */
	char folder[64], path[80], url[88], log[80];
	const char *program; /* "./falcond" */
};

/* Makes the folder. */
void daemon_prepare(struct daemon *d);
/* Starts falcond with these lines of configuration (NULL: none) and does not wait. */
void daemon_launch(struct daemon *d, const char *yaml);
/* Waits until a line of the log has this text. */
void daemon_expect(const struct daemon *d, const char *text);
/* All three: it is ready when this returns. */
void daemon_start(struct daemon *d, const char *yaml);
/* The same of an engine of so many threads that is held to this instruction set (NULL: the best). */
void daemon_start_as(struct daemon *d, const char *isa, unsigned threads, const char *yaml);
/* Starts it once more in the same folder, with a log of its own, after it has ended: it is ready when this returns. */
void daemon_restart(struct daemon *d, const char *yaml);
/* The same after kill -9. */
void daemon_replace(struct daemon *d, const char *yaml);
/* SIGTERM, and waits for its end: the exit status, or -signal. */
int daemon_stop(struct daemon *d);
/* Waits for its end. */
int daemon_reap(struct daemon *d);
/* Removes the folder. */
void daemon_clean(struct daemon *d);
/* The content of the log, which the caller frees. */
char *daemon_log(const struct daemon *d);

/* Whether the process is there, zombies not counted. */
bool daemon_process_alive(pid_t pid);

#endif
