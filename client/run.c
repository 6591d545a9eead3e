/* SPDX-License-Identifier: Apache-2.0 */
/*
 * falconctl run: a falcond for one command. It serves the model on a private socket, answers, and is gone. Its log is shown only if
 * it does not come to serving.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/command.h"
#include "client/console.h"
#include "ipc/protocol.h"

enum { WAIT_MS = 200, WAITS = 5 * 3600 }; /* an hour for a model to be packed */

static const struct option_info options[] = {
	{"n", "N", IPC_F_N, NULL},
	OPTIONS_SAMPLING,
	{"stop", "STR", IPC_F_STOP, "end before this string; may be given up to 8 times"},
	{"ignore-eos", NULL, IPC_F_IGNORE_EOS, NULL},
	{"template", "NAME", IPC_F_TEMPLATE, NULL},
	{"threads", "N", OPTION_NO_FIELD, "threads that compute; 0 is one a core"},
};

struct private {
	char folder[64], url[96], log[96];
	pid_t pid;
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static int start(struct private *p, const struct arguments *a)
{
	char falcond[4096];
	const char *threads = options_value(a, "threads");
	if (command_find("falcond", FALCON_SBIN, falcond, sizeof falcond) < 0)
		return -1;
	snprintf(p->folder, sizeof p->folder, "%s/falconctl-XXXXXX", getenv("XDG_RUNTIME_DIR") && strlen(getenv("XDG_RUNTIME_DIR")) < 40
		 ? getenv("XDG_RUNTIME_DIR") : "/tmp");
	if (mkdtemp(p->folder) == NULL) {
		console_say("cannot make %s: %s", p->folder, strerror(errno));
		return -1;
	}
	snprintf(p->url, sizeof p->url, "ipc://%s/socket", p->folder);
	snprintf(p->log, sizeof p->log, "%s/log", p->folder);
	p->pid = fork();
	if (p->pid < 0)
		console_say("cannot start falcond: %s", strerror(errno));
	if (p->pid != 0)
		return p->pid < 0 ? -1 : 0;
	setpgid(0, 0); /* Ctrl-C is for falconctl, which ends the run first */
	int log = open(p->log, O_WRONLY | O_CREAT | O_APPEND, 0600), nothing = open("/dev/null", O_RDWR);
	dup2(nothing, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execl(falcond, "falcond", "-c", "/dev/null", "--model", a->positional[0], "--socket", p->url, "--threads", threads ? threads : "0",
	      (char *)NULL);
	_exit(127);
}

/* The last line of the log, without the program's name. */
static void last_words(const struct private *p, char *line, int size)
{
	FILE *f = fopen(p->log, "r");
	line[0] = '\0';
	while (f != NULL && fgets(line, size, f) != NULL)
		line[strcspn(line, "\n")] = '\0';
	if (f != NULL)
		fclose(f);
}

/* Connects once it serves; NULL: it ended, and has said why, or a signal came. */
static struct falcon *connect_to(struct private *p)
{
	struct falcon_error e;
	char line[512];
	for (int i = 0; i < WAITS && !console_signal(); i++) {
		struct falcon *f = falcon_open(p->url, WAIT_MS, &e);
		last_words(p, line, sizeof line);
		if (f != NULL) {
			console_progress(NULL);
			return f;
		}
		if (waitpid(p->pid, NULL, WNOHANG) == p->pid) {
			p->pid = -1;
			break;
		}
		console_progress("%s", line);
	}
	console_progress(NULL);
	if (!console_signal())
		console_say("%s", line[0] ? line : "falcond cannot be started");
	return NULL;
}

static void stop(struct private *p)
{
	if (p->pid > 0) {
		kill(p->pid, SIGTERM);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			continue;
	}
	nftw(p->folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static int answer(struct falcon *f, const struct arguments *a, struct falcon_request *r)
{
	struct buf prompt = {0};
	struct falcon_run run;
	struct falcon_error e;
	int rc = console_prompt(a->n_positional > 1 ? a->positional[1] : NULL, &prompt) < 0 ? COMMAND_FAILED : COMMAND_OK;
	if (rc == COMMAND_OK && (falcon_set_text(r, "prompt", prompt.data, prompt.length, &e) < 0 || falcon_generate(f, r, &run, &e) < 0))
		rc = command_fail(&e);
	if (rc == COMMAND_OK)
		rc = command_stream(f, &run);
	console_end_line();
	buf_done(&prompt);
	return rc;
}

static int run(const struct arguments *a)
{
	struct private p = {.pid = -1};
	struct falcon_request *r = falcon_request_new();
	int rc = options_fields(a, r);
	if (rc == COMMAND_OK) {
		console_signals();
		rc = start(&p, a) < 0 ? COMMAND_FAILED : COMMAND_OK;
		struct falcon *f = rc == COMMAND_OK ? connect_to(&p) : NULL;
		if (f != NULL)
			rc = answer(f, a, r);
		else
			rc = console_signal() ? COMMAND_SIGNAL + console_signal() : COMMAND_FAILED;
		falcon_close(f);
		if (p.folder[0] != '\0')
			stop(&p);
	}
	falcon_request_free(r);
	return rc;
}

const struct command command_run = {
	.name = "run",
	.synopsis = "MODEL [PROMPT]",
	.help = "Continues a text by a falcond of its own, which serves MODEL for this one command",
	.details = "The prompt is the argument, standard input, or both, as with generate.",
	.options = options,
	.n_options = sizeof options / sizeof *options,
	.min_positional = 1,
	.max_positional = 2,
	.run = run,
};
