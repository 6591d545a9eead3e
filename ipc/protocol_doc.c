/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the reference part of docs/PROTOCOL.md from the protocol's tables; tests/script/protocol_doc compares the two. */
#include <stdio.h>
#include <string.h>

#include "ipc/protocol.h"

static void print_bounds(const struct ipc_field_info *f, const char *unit)
{
	if (f->high < 1e9)
		printf(", %g to %g%s", f->low, f->high, unit);
	else if (f->high >= 0x1p63)
		printf(", %g to 2^63-1%s", f->low, unit);
	else if (f->high > 2e9)
		printf(", %g to 2^31-1%s", f->low, unit);
	else if (f->low > 0)
		printf(", not empty");
}

static void print_type(const struct ipc_field_info *f)
{
	switch (f->type) {
	case IPC_TEXT:
		printf("string");
		print_bounds(f, " bytes");
		break;
	case IPC_NAME:
		printf("session");
		break;
	case IPC_TOKEN:
		printf("string");
		print_bounds(f, " bytes");
		break;
	case IPC_BOOL:
		printf("boolean");
		break;
	case IPC_INT:
		printf("integer");
		print_bounds(f, "");
		break;
	case IPC_REAL:
		printf("number");
		print_bounds(f, "");
		break;
	case IPC_IDS:
		printf("array of ids");
		break;
	case IPC_STOPS:
		printf("array of at most 8 strings");
		print_bounds(f, " bytes");
		break;
	case IPC_MESSAGES:
		printf("array of {role, content}, role");
		break;
	case IPC_BIAS:
		printf("object of at most 64");
		print_bounds(f, "");
		break;
	}
	if (f->choices != NULL) {
		printf(": ");
		for (const char *c = f->choices; *c != '\0'; c++)
			printf(*c == '|' ? " or " : "%c", *c);
	}
}

/* A cell of a Markdown table: a bar would end it. */
static void print_cell(const char *text)
{
	for (; *text != '\0'; text++)
		printf(*text == '|' ? "\\|" : "%c", *text);
}

static void print_field(const struct ipc_op_info *op, enum ipc_op number, unsigned field)
{
	const struct ipc_field_info *f = &ipc_fields[field];
	uint64_t bit = 1ull << field;
	printf("| `%s` | ", f->name);
	print_type(f);
	printf(" | ");
	if (op->required & bit)
		printf("required");
	else if (number == IPC_APPEND && (ipc_sampling_fields & bit))
		printf("as it was");
	else
		printf("%s", f->fallback ? f->fallback : "");
	printf(" | ");
	print_cell(f->help);
	printf(" |\n");
}

static void print_op(enum ipc_op number)
{
	const struct ipc_op_info *op = &ipc_ops[number];
	printf("### %s\n\n%c%s.\n\nReply: `%s`\n", op->name, op->help[0] - 'a' + 'A', op->help + 1, op->reply);
	if ((op->required | op->optional) == 0) {
		printf("\nNo fields.\n\n");
		return;
	}
	printf("\n| field | type | default | |\n|---|---|---|---|\n");
	for (int required = 1; required >= 0; required--)
		for (unsigned i = 0; i < IPC_FIELDS; i++)
			if ((required ? op->required : op->optional) >> i & 1)
				print_field(op, number, i);
	printf("\n");
}

int main(void)
{
	printf("## Operations\n\n");
	for (unsigned i = 0; i < IPC_OPS; i++)
		print_op((enum ipc_op)i);
	printf("## Errors\n\n| code | |\n|---|---|\n");
	for (unsigned i = 0; i < IPC_CODES; i++)
		printf("| `%s` | %s |\n", ipc_code_name((enum ipc_code)i), ipc_code_help((enum ipc_code)i));
	return 0;
}
