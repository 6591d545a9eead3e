/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that falcond hands to the processes it starts: descriptors by number, arguments, environment. A child may rely on
 * this page and on nothing else.
 *
 *	falcon-engine --serve --threads N [--dense exact|openblas]
 *	falcon-engine --pack SOURCE --set-id 32HEX
 *
 * Environment: FALCON_ISA (portable|avx2|avx512|amx) holds the kernels to at most that instruction set; JOURNAL_STREAM says
 * that standard error is the journal; OPENBLAS_NUM_THREADS=1 keeps OpenBLAS from making threads of its own when it is loaded,
 * since the engine's pool splits the work. Besides these, settings of sanitizers.
 *
 * Limits: those of falcond. Each then takes its own away before it reads a byte that it should not trust: the engine's memory
 * (RLIMIT_DATA, engine/confine.c), the packer's memory and image (RLIMIT_AS, RLIMIT_FSIZE, pack/sandbox.c).
 *
 * Exit status of the packer: 0 the image is complete, 1 the source was refused (the reason is on HERITAGE_STATUS).
 */
#ifndef FALCON_SHM_HERITAGE_H
#define FALCON_SHM_HERITAGE_H

/* falcon-engine --serve */
enum heritage_engine_fd {
	HERITAGE_WEIGHTS = 3,      /* weights segment, opened O_RDONLY */
	HERITAGE_PAGES = 4,        /* pages segment, read-write */
	HERITAGE_BOARD = 5,        /* board segment, read-write */
	HERITAGE_WAKE_ENGINE = 6,  /* eventfd, non-blocking: falcond writes, the engine reads, then scans the board */
	HERITAGE_WAKE_FALCOND = 7, /* eventfd, non-blocking: the engine writes after publishing, falcond reads, then scans */
	HERITAGE_LIFELINE = 8,     /* read end of a pipe that falcond holds open: end of file means falcond is gone */
};

/* falcon-engine --pack */
enum heritage_pack_fd {
	HERITAGE_IMAGE = 3,  /* empty memfd or file to write the weights image to, read-write */
	HERITAGE_STATUS = 4, /* write end of a pipe: lines, see below */
};

/*
 * Lines of HERITAGE_STATUS, each ended by '\n':
 *	progress PERCENT
 *	error WHAT<TAB>HINT		at most one, then the packer exits 1
 */

/* POSIX write locks on the board: held for life by the process named, so that a kill -9 releases them. */
enum heritage_lock { HERITAGE_LOCK_ENGINE = 0, HERITAGE_LOCK_FALCOND = 1 };

#endif
