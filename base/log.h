/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines go to stderr, one write each. Under systemd ($JOURNAL_STREAM is set) a line starts with "<level>", which the
 * journal strips and files; elsewhere with the program's name. Only daemon/, engine/main.c and the command line log.
 */
#ifndef FALCON_BASE_LOG_H
#define FALCON_BASE_LOG_H

enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_NOTICE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

/* Names the program in every line and sets the least urgent level that is printed (default LOG_INFO). */
void log_open(const char *program, enum log_level least);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_notice(...) log_line(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
