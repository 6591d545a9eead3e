/* SPDX-License-Identifier: Apache-2.0 */
/* What falcond tells systemd; nothing happens where it was not started by it or was built without libsystemd. */
#ifndef FALCON_DAEMON_NOTIFY_H
#define FALCON_DAEMON_NOTIFY_H

void notify_ready(void);
void notify_stopping(void);
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a line for `systemctl status` */

#endif
