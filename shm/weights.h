/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The weights image: a model as the kernels read it, written once by `falcon-engine --pack`, sealed, then mapped read-only
 * by every engine. The same bytes stand in a memfd and in the file that `falconctl pack` writes.
 *
 *	header (4,096 bytes) | tensor table | tokenizer | chat template | tensor data, each tensor 4,096-byte aligned
 *
 * The tensor table is sorted by (layer, role); the data stand in the order in which a forward pass reads them.
 *
 * Matrices are stored in strips of 16 output rows, the strip's blocks of 32 columns one after the other. A block:
 *
 *	Q4_0  16 f16 scales | 4 x 64 bytes: byte r*4+c of group g holds row r, columns 4g+c (low nibble) and 4(g+4)+c (high)
 *	Q4_1  16 f16 scales | 16 f16 minima | 4 x 64 bytes as Q4_0
 *	Q5_0  16 f16 scales | 4 x 64 bytes as Q4_0 | 64 bytes: bit g of byte r*4+c is bit 4 of row r, column 4g+c
 *	Q5_1  16 f16 scales | 16 f16 minima | 4 x 64 bytes | 64 bytes of high bits, as Q5_0
 *	Q8_0  16 f16 scales | 8 x 64 bytes: byte r*4+c of group g is row r, column 4g+c, signed
 *
 * Nibbles are the unsigned codes of the source format (value = d * (code - 8 or 16), or d * code + m). Dense matrices (F32,
 * F16, BF16) have no blocks: a strip is, for each column, the 16 rows' values. Rows are padded to 16 with zeros.
 */
#ifndef FALCON_SHM_WEIGHTS_H
#define FALCON_SHM_WEIGHTS_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define WEIGHTS_MAGIC UINT64_C(0x3154475743464c46) /* "FLFCWGT1" */
#define WEIGHTS_ABI 1u
#define WEIGHTS_ALIGN 4096u /* of every tensor's data and of the image's size */

enum { WEIGHTS_STRIP = 16, WEIGHTS_BLOCK = 32 };

enum weights_type {
	WEIGHTS_F32,
	WEIGHTS_F16,
	WEIGHTS_BF16,
	WEIGHTS_Q8_0,
	WEIGHTS_Q4_0,
	WEIGHTS_Q4_1,
	WEIGHTS_Q5_0,
	WEIGHTS_Q5_1,
	WEIGHTS_TYPES
};

/* Block families; model/ has a file for each. */
enum weights_family {
	WEIGHTS_FALCON = 1,    /* parallel attention and MLP, one or two layer norms, rotary: 7B, 40B, 180B, Falcon2-11B */
	WEIGHTS_FALCON_RW = 2, /* sequential, layer norms, biases, ALiBi or rotary: Falcon-RW */
	WEIGHTS_LLAMA = 3,     /* sequential, RMS norms, SwiGLU, rotary: Falcon3, SmolLM2 */
};

struct weights_hparams {
	uint32_t family;     /* enum weights_family */
	uint32_t n_layer;
	uint32_t n_embd;     /* columns of the residual stream */
	uint32_t n_head;     /* query heads */
	uint32_t n_kv_head;  /* key/value heads; divides n_head */
	uint32_t head_dim;
	uint32_t n_ff;       /* columns of the MLP's inside */
	uint32_t n_vocab;    /* rows of the head that may be sampled */
	uint32_t n_context;  /* positions the model was made for */
	uint32_t n_norm;     /* WEIGHTS_FALCON: norms in front of the block, 1 (shared) or 2 (attention, MLP) */
	uint32_t flags;      /* WEIGHTS_ALIBI, WEIGHTS_BIAS */
	float norm_eps;
	float rope_theta;    /* told to people; the tables are in the image */
	uint32_t reserved[3];
};
enum { WEIGHTS_ALIBI = 1, WEIGHTS_BIAS = 2 };
static_assert(sizeof(struct weights_hparams) == 64, "weights_hparams");

/* What a tensor is. Vectors are WEIGHTS_F32 stored plainly (cols = length, rows = 1), not in strips. */
enum weights_role {
	WEIGHTS_EMBED = 1,  /* matrix, n_vocab x n_embd; read by row */
	WEIGHTS_HEAD,       /* matrix, n_vocab x n_embd; absent if tied: then WEIGHTS_EMBED is the head too */
	WEIGHTS_OUT_NORM,   /* vector, n_embd */
	WEIGHTS_OUT_NORM_BIAS,
	WEIGHTS_ROPE,       /* plain F32 table, rows = n_context, cols = head_dim: cos of head_dim/2 angles, then their sin */
	WEIGHTS_SLOPES,     /* ALiBi slopes, vector, n_head */
	/* the following once a layer */
	WEIGHTS_NORM,       /* attention's norm (and the MLP's where n_norm is 1 in WEIGHTS_FALCON) */
	WEIGHTS_NORM_BIAS,
	WEIGHTS_MLP_NORM,   /* ln_mlp; post_attention_layernorm in sequential blocks */
	WEIGHTS_MLP_NORM_BIAS,
	WEIGHTS_Q,          /* matrix, n_head * head_dim x n_embd; rotary pairs are (i, i + head_dim/2): NeoX order */
	WEIGHTS_Q_BIAS,
	WEIGHTS_K,          /* matrix, n_kv_head * head_dim x n_embd */
	WEIGHTS_K_BIAS,
	WEIGHTS_V,
	WEIGHTS_V_BIAS,
	WEIGHTS_GATE,       /* matrix, n_ff x n_embd, WEIGHTS_LLAMA alone */
	WEIGHTS_UP,         /* matrix, n_ff x n_embd */
	WEIGHTS_UP_BIAS,
	WEIGHTS_O,          /* matrix, n_embd x n_head * head_dim */
	WEIGHTS_O_BIAS,
	WEIGHTS_DOWN,       /* matrix, n_embd x n_ff */
	WEIGHTS_DOWN_BIAS,
	WEIGHTS_ROLES
};

struct weights_tensor {
	uint16_t role;  /* enum weights_role */
	uint16_t type;  /* enum weights_type */
	uint32_t layer; /* 0 for tensors that are there once */
	uint32_t rows, cols;
	uint64_t offset; /* from the image's start, a multiple of WEIGHTS_ALIGN */
	uint64_t size;   /* bytes, as weights_bytes() says for a matrix, rows * cols * 4 for a plain one */
	uint64_t checksum; /* XXH3-64 of those bytes */
	uint8_t plain;   /* 1: stored row by row as F32 (vectors, WEIGHTS_ROPE); 0: strips */
	uint8_t reserved[7];
};
static_assert(sizeof(struct weights_tensor) == 48, "weights_tensor");
static_assert(offsetof(struct weights_tensor, offset) == 16, "weights_tensor.offset");

/* Pre-splits that text/ knows; the image names one of them. */
enum weights_pre {
	WEIGHTS_PRE_NONE = 0, /* no tokenizer: ids only */
	WEIGHTS_PRE_FALCON,   /* punctuation, GPT-2 pattern, digits, groups of three */
	WEIGHTS_PRE_GPT2,
	WEIGHTS_PRE_SMOLLM,   /* digits one by one, then GPT-2's pattern */
	WEIGHTS_PRE_LLAMA3,   /* one pattern, at most three digits together */
	WEIGHTS_PRE_FALCON3,  /* as Falcon3's tokenizer.json has it */
	WEIGHTS_PRES
};

enum weights_token_kind {
	WEIGHTS_TOKEN_NORMAL = 0,
	WEIGHTS_TOKEN_CONTROL = 1, /* special: matched in text only where special tokens are parsed; no text of its own when detokenized by a client that asked for text */
	WEIGHTS_TOKEN_ADDED = 2,   /* matched as a whole before the pre-split, but ordinary text */
	WEIGHTS_TOKEN_UNUSED = 3,  /* never produced by the tokenizer */
};

/* One merge: the pair (left, right) becomes result. The table's order is the rank. */
struct weights_merge {
	int32_t left, right, result;
};

/*
 * Tokenizer tables, WEIGHTS_ALIGN-free, at header.tokenizer_offset:
 *
 *	struct weights_tokenizer | uint32 start[n_tokens + 1] | uint8 kind[n_tokens], padded to 4 | weights_merge[n_merges] | bytes
 *
 * Token i is bytes[start[i] .. start[i+1]), raw bytes (byte-level alphabets are undone). For WEIGHTS_PRE_NONE all is zero.
 */
struct weights_tokenizer {
	uint32_t pre; /* enum weights_pre */
	uint32_t n_tokens, n_merges, n_bytes;
	uint32_t flags;     /* WEIGHTS_ADD_BOS, WEIGHTS_IGNORE_MERGES */
	int32_t bos;        /* -1: none */
	uint32_t n_eos;     /* at most 8: any of them ends a run */
	int32_t eos[8];
	uint32_t reserved;
};
static_assert(sizeof(struct weights_tokenizer) == 64, "weights_tokenizer");
enum {
	WEIGHTS_ADD_BOS = 1,       /* the model's files say that text prompts start with bos */
	WEIGHTS_IGNORE_MERGES = 2, /* a piece that is a whole token is taken without merging (Llama 3) */
};

enum { WEIGHTS_HEADER_SIZE = 4096 };

/* Written by the packer alone; `complete` last, by a release store. */
struct weights_header {
	uint64_t magic;
	uint32_t abi;
	uint32_t features;      /* incompatible-feature flags; a reader refuses bits that it does not know */
	uint8_t set_id[16];     /* as given to the packer; zero in a file */
	uint8_t fingerprint[16]; /* identifies what is computed: source hash, layout version, pack options */
	uint8_t source_hash[16]; /* XXH3-128 over the source files' contents */
	uint64_t source_dev, source_inode, source_size, source_mtime_ns; /* recognise an unchanged source without reading it */
	uint64_t size;          /* of the image, a multiple of WEIGHTS_ALIGN */
	struct weights_hparams hparams;
	uint32_t n_tensors;
	uint32_t reserved;
	uint64_t tensors_offset;
	uint64_t tokenizer_offset, tokenizer_size;
	uint64_t template_offset, template_size; /* chat template as the model's files have it, UTF-8, no NUL */
	char name[64];          /* NUL-terminated, printable: what `status` calls the model */
	uint32_t complete;      /* 1 once everything else is written */
};
static_assert(offsetof(struct weights_header, set_id) == 16, "weights_header.set_id");
static_assert(offsetof(struct weights_header, source_dev) == 64, "weights_header.source_dev");
static_assert(offsetof(struct weights_header, hparams) == 104, "weights_header.hparams");
static_assert(offsetof(struct weights_header, tensors_offset) == 176, "weights_header.tensors_offset");
static_assert(offsetof(struct weights_header, name) == 216, "weights_header.name");
static_assert(offsetof(struct weights_header, complete) == 280, "weights_header.complete");

#include "base/err.h"

/* Bytes of one strip (16 rows x cols), or 0 for an unknown type or, in a quantised one, cols that are no multiple of 32. */
uint64_t weights_strip_bytes(uint32_t type, uint32_t cols);

/* Bytes of a rows x cols matrix in strips, or 0 as above. */
uint64_t weights_bytes(uint32_t type, uint32_t rows, uint32_t cols);

/* "Q4_0" and so on; NULL for an unknown type. */
const char *weights_type_name(uint32_t type);

/* Hyperparameters are within the bounds that make sizes and shapes computable in 64 bits. 0 or -EINVAL. */
int weights_check_hparams(const struct weights_hparams *hp, struct err *e);

/* The shape that a role has in a model of these (checked) hyperparameters; rows 0: its family has no such tensor. */
struct weights_shape {
	uint32_t rows, cols;
	int plain;    /* stored row by row as F32 */
	int optional; /* may be absent */
	int once;     /* once a model, not once a layer */
};
struct weights_shape weights_shape(const struct weights_hparams *hp, enum weights_role role);

/* "keys", "MLP norm" and so on; NULL for an unknown role. */
const char *weights_role_name(uint32_t role);

/*
 * Checks everything that a reader relies on: header, hyperparameters, that each tensor the family needs is there once with
 * the right shape, type and bounds, and the tokenizer's tables. Looks at [image, image + size) alone; what it accepts is
 * safe to compute from. 0 or -EINVAL.
 */
int weights_check(const void *image, uint64_t size, struct err *e);

/* The tensor of this role and layer in a checked image, or NULL if the family has none. */
const struct weights_tensor *weights_find(const void *image, enum weights_role role, uint32_t layer);

#endif
