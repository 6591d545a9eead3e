/* SPDX-License-Identifier: Apache-2.0 */
/* The page, as page.html stands in the source: the assembler puts the file into the program. */
#include "http/routes.h"

__asm__(".section .rodata\n"
	"page_begin: .incbin \"http/page.html\"\n"
	"page_end:\n"
	".previous\n");
extern const char page_begin[] __attribute__((visibility("hidden"))), page_end[] __attribute__((visibility("hidden")));

void page_get(struct exchange *x, const char *rest)
{
	struct buf body = {0};
	(void)rest;
	buf_add(&body, page_begin, (size_t)(page_end - page_begin));
	exchange_reply(x, 200, "text/html; charset=utf-8", &body);
}
