/* SPDX-License-Identifier: Apache-2.0 */
/* What falcond tells systemd; nothing happens where it was not started by it or was built without libsystemd. */
#ifndef FALCON_DAEMON_NOTIFY_H
#define FALCON_DAEMON_NOTIFY_H

#include <stdbool.h>
#include <uv.h>

void notify_ready(void);
void notify_stopping(void);
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a line for `systemctl status` */

/*
 * Feeds the watchdog, if the unit has one, several times in each of its periods: from this loop, so that one that does not turn
 * is noticed, and only while alive(arg) says so. The handle does not keep the loop running; it is closed with the loop's others.
 */
void notify_watch(uv_loop_t *loop, bool (*alive)(void *arg), void *arg);

/*
 * Whether there is somebody to keep descriptors while falcond is dead (FileDescriptorStoreMax=). They come back with the names that
 * they were stored under: daemon/inherit.h.
 */
bool notify_keeps(void);

/* Stores n descriptors under one name, and waits until systemd has them. 0 or -errno. */
int notify_store(const char *name, const int *fds, unsigned n);
/* Lets go of all descriptors of this name. */
void notify_forget(const char *name);

#endif
