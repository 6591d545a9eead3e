/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the table of docs/METRICS.md; tests/script/metrics_doc compares the two. */
#include <stdio.h>

#include "daemon/metrics.h"

int main(void)
{
	metrics_describe(stdout);
	return 0;
}
