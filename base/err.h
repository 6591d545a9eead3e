/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An error that a person can act on: what went wrong and where, and a hint what to do. Functions return 0 or -errno and
 * fill the struct err that the caller passed; libraries never log, the caller logs or answers once.
 */
#ifndef FALCON_BASE_ERR_H
#define FALCON_BASE_ERR_H

struct err {
	int code;        /* negative errno, 0 while there is no error */
	char what[384];  /* what and where, one line, no final period */
	char hint[256];  /* what to do about it; may be empty */
};

/* Fills e (may be NULL) and returns code, so that `return err_set(e, -EINVAL, ...)` works. Clears the hint. */
int err_set(struct err *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Adds the hint to an error that is already set. Returns e->code (or -EINVAL if e is NULL). */
int err_hint(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " in front of what is there, for callers that know the file or the tensor. Returns e->code. */
int err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
