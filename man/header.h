/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client/falcon.h as a manual page. The header is written so that it reads as one: a comment, then what it is about, then an empty
 * line. Its first comment is about the whole.
 */
#ifndef FALCON_MAN_HEADER_H
#define FALCON_MAN_HEADER_H

#include <stdio.h>

void header_names(FILE *out, const char *text);       /* "falcon_open, falcon_close, ..." */
void header_prototypes(FILE *out, const char *text);  /* of all functions, for the synopsis */
void header_about(FILE *out, const char *text);       /* the first comment */
void header_description(FILE *out, const char *text); /* each group: functions and types, and their comment */

#endif
