/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl completion: scripts for bash and zsh, printed from the tables of commands and options, so that they know what this
 * program knows. `make install` puts them where the shells look.
 */
#include <stdio.h>
#include <string.h>

#include "client/command.h"

static void print_options(const struct option_info *options, unsigned n, const char *separator)
{
	for (unsigned i = 0; i < n; i++)
		printf("%s%s%s", options[i].name[1] ? "--" : "-", options[i].name, separator);
}

static void bash(void)
{
	printf("# bash completion of falconctl; made by `falconctl completion bash`\n"
	       "_falconctl()\n{\n\tlocal word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} command= i\n"
	       "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t-s | --wait) ((i++)) ;;\n\t\t-*) ;;\n"
	       "\t\t*) command=${COMP_WORDS[i]}; break ;;\n\t\tesac\n\tdone\n"
	       "\tcase $last in\n"
	       "\t--session) COMPREPLY=($(compgen -W \"$(falconctl sessions 2>/dev/null | awk 'NR > 1 { print $1 }')\" -- \"$word\")); return ;;\n"
	       "\t--template) COMPREPLY=($(compgen -W 'auto plain falcon-instruct falcon-180b-chat falcon2 falcon3 chatml' -- \"$word\")); return ;;\n"
	       "\tesac\n\tcase $command in\n\t'') COMPREPLY=($(compgen -W '");
	for (unsigned i = 0; i < n_commands; i++)
		printf("%s ", commands[i]->name);
	print_options(common_options, n_common_options, " ");
	printf("' -- \"$word\")) ;;\n"
	       "\tdrop | fork | export) COMPREPLY=($(compgen -W \"$(falconctl sessions 2>/dev/null | awk 'NR > 1 { print $1 }')\" -- \"$word\")) ;;\n"
	       "\tpack | run) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n");
	for (unsigned i = 0; i < n_commands; i++) {
		printf("\t%s) COMPREPLY=($(compgen -W '", commands[i]->name);
		print_options(commands[i]->options, commands[i]->n_options, " ");
		print_options(common_options, n_common_options, " ");
		printf("' -- \"$word\")) ;;\n");
	}
	printf("\tesac\n}\ncomplete -F _falconctl falconctl\n");
}

/* Text within single quotes and square brackets of zsh. */
static void print_quoted(const char *text)
{
	for (; *text != '\0'; text++)
		if (*text == '\'')
			printf("'\\''");
		else
			printf(strchr("[]:", *text) ? "\\%c" : "%c", *text);
}

static void zsh_options(const struct option_info *options, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct option_info *o = &options[i];
		printf("\t\t'%s%s[", o->name[1] ? "--" : "-", o->name);
		print_quoted(options_meaning(o));
		printf("]%s%s%s' \\\n", o->argument ? ":" : "", o->argument ? o->argument : "", o->argument ? ":" : "");
	}
}

static void zsh(void)
{
	printf("#compdef falconctl\n# zsh completion of falconctl; made by `falconctl completion zsh`\n_falconctl() {\n"
	       "\tlocal -a commands\n\tcommands=(\n");
	for (unsigned i = 0; i < n_commands; i++) {
		printf("\t\t'%s:", commands[i]->name);
		print_quoted(commands[i]->help);
		printf("'\n");
	}
	printf("\t)\n\tif ((CURRENT == 2)); then _describe command commands; return; fi\n\tcase $words[2] in\n");
	for (unsigned i = 0; i < n_commands; i++) {
		printf("\t%s) _arguments \\\n", commands[i]->name);
		zsh_options(commands[i]->options, commands[i]->n_options);
		zsh_options(common_options, n_common_options);
		printf("\t\t'*:argument:_files' ;;\n");
	}
	printf("\tesac\n}\n_falconctl \"$@\"\n");
}

static int completion(const struct arguments *a)
{
	if (strcmp(a->positional[0], "bash") == 0)
		bash();
	else if (strcmp(a->positional[0], "zsh") == 0)
		zsh();
	else
		return options_refuse("completion: expected bash or zsh, got '%s'", a->positional[0]);
	return COMMAND_OK;
}

const struct command command_completion = {.name = "completion", .synopsis = "bash|zsh", .help = "Prints a completion script for a shell",
	.min_positional = 1, .max_positional = 1, .run = completion};
