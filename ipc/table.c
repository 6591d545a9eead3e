/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol's tables: every field with its type, bounds and default, every operation with its fields. The decoder, the
 * option parser of falconctl, its help and the reference part of docs/PROTOCOL.md read them; nothing else knows a bound.
 */
#include "ipc/protocol.h"

/* Positions and counts of tokens; a context is far shorter, and the session's own limits are told by the daemon. */
#define COUNT_MAX 2147483647.0
/* A message has at most this many bytes by default; the daemon's configuration decides, so texts are not bounded again. */
#define TEXT_MAX 1e9

const struct ipc_field_info ipc_fields[IPC_FIELDS] = {
	[IPC_F_SESSION] = {"session", IPC_NAME, 1, 64, NULL, NULL, "its name; `generate` without it gets one like ~7"},
	[IPC_F_NEW] = {"new", IPC_NAME, 1, 64, NULL, NULL, "the new session's name; without it one like ~7 is given"},
	[IPC_F_REQUEST_ID] = {"request_id", IPC_TOKEN, 1, 64, NULL, NULL,
			      "any text, new for each request; the same again gets the first reply again"},
	[IPC_F_PROMPT] = {"prompt", IPC_TEXT, 1, TEXT_MAX, NULL, NULL, "text that the daemon tokenizes; this, `messages` or `ids`"},
	[IPC_F_MESSAGES] = {"messages", IPC_MESSAGES, 0, 0, NULL, "system|user|assistant",
			    "a conversation that is put into `template`, ready for the next answer"},
	[IPC_F_IDS] = {"ids", IPC_IDS, 0, COUNT_MAX, NULL, NULL, "token ids, instead of text"},
	[IPC_F_TEMPLATE] = {"template", IPC_TEXT, 1, 64, NULL, NULL,
			    "chat template by name, or `auto` for the model's own; a `prompt` without it is taken as it is, `messages` are "
			    "put into the model's own"},
	[IPC_F_TEXT] = {"text", IPC_TEXT, 0, TEXT_MAX, NULL, NULL, "the text"},
	[IPC_F_SPECIAL] = {"special", IPC_BOOL, 0, 1, "true", NULL,
			   "whether the names of special tokens in the text mean those tokens; never inside a template"},
	[IPC_F_N] = {"n", IPC_INT, 1, COUNT_MAX, "256", NULL, "tokens to generate at most"},
	[IPC_F_TEMP] = {"temp", IPC_REAL, 0, 100, "0.8", NULL, "temperature; 0 takes the likeliest token, the lowest id on a tie"},
	[IPC_F_TOP_K] = {"top_k", IPC_INT, 0, COUNT_MAX, "40", NULL, "keep the K likeliest tokens; 0 keeps all"},
	[IPC_F_TOP_P] = {"top_p", IPC_REAL, 0, 1, "0.95", NULL,
			 "keep the likeliest tokens whose probabilities sum to P; 1 keeps all"},
	[IPC_F_MIN_P] = {"min_p", IPC_REAL, 0, 1, "0.05", NULL,
			 "drop tokens less likely than P times the likeliest; 0 keeps all"},
	[IPC_F_REPEAT_PENALTY] = {"repeat_penalty", IPC_REAL, 0.01, 100, "1", NULL,
				  "divides positive and multiplies negative logits of recent tokens; 1 changes nothing"},
	[IPC_F_REPEAT_LAST_N] = {"repeat_last_n", IPC_INT, 0, COUNT_MAX, "64", NULL,
				 "how many tokens count as recent, those of the prompt included"},
	[IPC_F_PRESENCE_PENALTY] = {"presence_penalty", IPC_REAL, -100, 100, "0", NULL,
				    "taken from the logit of every token generated before"},
	[IPC_F_FREQUENCY_PENALTY] = {"frequency_penalty", IPC_REAL, -100, 100, "0", NULL,
				     "taken from a token's logit once for each time that it was generated before"},
	[IPC_F_LOGIT_BIAS] = {"logit_bias", IPC_BIAS, -1000, 1000, NULL, NULL, "{\"id\": number}: added to the logits of these tokens"},
	[IPC_F_SEED] = {"seed", IPC_INT, 0, 0x1p63, NULL, NULL,
			"seed of the random numbers; without it the daemon draws one and tells it"},
	[IPC_F_STOP] = {"stop", IPC_STOPS, 1, 64, NULL, NULL, "strings that end the run; not part of its text"},
	[IPC_F_IGNORE_EOS] = {"ignore_eos", IPC_BOOL, 0, 1, "false", NULL, "go on after the end-of-text token"},
	[IPC_F_PRIORITY] = {"priority", IPC_TEXT, 1, 16, "interactive", "interactive|batch", "batch yields to interactive"},
	[IPC_F_AT] = {"at", IPC_INT, 0, COUNT_MAX, NULL, NULL, "position in the session that the prompt goes to: its n_tokens"},
	[IPC_F_CURSOR] = {"cursor", IPC_INT, 0, COUNT_MAX, NULL, NULL, "token position up to which everything has been read"},
	[IPC_F_WAIT_MS] = {"wait_ms", IPC_INT, 0, 30000, "0", NULL,
			   "how long to wait for something after the cursor, in milliseconds"},
	[IPC_F_LOGPROBS] = {"logprobs", IPC_INT, 0, 20, NULL, NULL,
			    "`next` also tells each token's log-probability and so many of the likeliest in its place; of this run alone"},
	[IPC_F_ROWS] = {"rows", IPC_BOOL, 0, 1, "false", NULL, "whether `next` also returns the logits"},
	[IPC_F_SPILL] = {"spill", IPC_BOOL, 0, 1, "false", NULL, "whether all sessions are written to the state folder"},
	[IPC_F_OFFSET] = {"offset", IPC_INT, 0, 0x1p50, NULL, NULL, "bytes of the session's file before this part"},
	[IPC_F_DATA] = {"data", IPC_TEXT, 0, TEXT_MAX, NULL, NULL, "bytes of the session's file, in base64"},
	[IPC_F_LAST] = {"last", IPC_BOOL, 0, 1, "false", NULL, "whether this is the last part: the session is then made"},
	[IPC_F_PAGES] = {"pages", IPC_BOOL, 0, 1, "true", NULL, "whether the file has keys and values; without them it is small"},
};

#define F(name) (1ull << IPC_F_##name)
#define PROMPT (F(PROMPT) | F(IDS))
#define CONVERSATION (PROMPT | F(MESSAGES) | F(TEMPLATE))
#define SAMPLING                                                                                                               \
	(F(N) | F(TEMP) | F(TOP_K) | F(TOP_P) | F(MIN_P) | F(REPEAT_PENALTY) | F(REPEAT_LAST_N) | F(PRESENCE_PENALTY) |        \
	 F(FREQUENCY_PENALTY) | F(LOGIT_BIAS) | F(SEED) | F(STOP) | F(IGNORE_EOS) | F(PRIORITY))

const uint64_t ipc_sampling_fields = SAMPLING;

const struct ipc_op_info ipc_ops[IPC_OPS] = {
	[IPC_HELLO] = {"hello", 0, 0, "{protocol, version, model, context, vocab, limits, uid, admin}",
		       "who is there: the protocol's version, the daemon's, the model and the caller's rights"},
	[IPC_GENERATE] = {"generate", F(REQUEST_ID), F(SESSION) | CONVERSATION | F(SPECIAL) | SAMPLING | F(LOGPROBS),
			  "{session, cursor, n_given, n_cached, seed}",
			  "makes a session from a prompt and starts a run; the answer comes at once, the text by `next`"},
	[IPC_APPEND] = {"append", F(SESSION) | F(AT), CONVERSATION | F(SPECIAL) | SAMPLING | F(LOGPROBS),
			"{session, cursor, n_given, n_cached, seed}",
			"puts more text, or none, at the end of a session and starts its next run; what is left out stays as it was"},
	[IPC_NEXT] = {"next", F(SESSION) | F(CURSOR), F(WAIT_MS), "{ids, text, cursor, done, finish?, computed?, logprobs?, top_logprobs?}",
		      "everything after the cursor, as soon as there is something or at the wait's end"},
	[IPC_CANCEL] = {"cancel", F(SESSION), 0, "{cursor}", "ends the run; the session stays"},
	[IPC_FORK] = {"fork", F(SESSION) | F(REQUEST_ID), F(NEW) | F(SEED), "{session, cursor}",
		      "makes a second session with the same tokens, sharing what is computed"},
	[IPC_DROP] = {"drop", F(SESSION), 0, "{dropped}", "ends the session and frees what it held"},
	[IPC_SESSIONS] = {"sessions", 0, 0, "{sessions:[{session, uid, state, n_tokens, where, idle_s}]}",
			  "the caller's sessions; for administrators everybody's"},
	[IPC_TOKENIZE] = {"tokenize", F(TEXT), F(SPECIAL), "{ids}", "the token ids of a text"},
	[IPC_DETOKENIZE] = {"detokenize", F(IDS), 0, "{text}", "the text of token ids"},
	[IPC_SCORE] = {"score", F(REQUEST_ID), PROMPT | F(SPECIAL) | F(ROWS) | F(LOGPROBS), "{session, n_tokens}",
		       "how likely the model finds each token; read by `next`, then to be dropped"},
	[IPC_EMBED] = {"embed", F(REQUEST_ID), PROMPT | F(SPECIAL) | F(PRIORITY), "{session, n_tokens}",
		       "a text as a vector: the mean of its tokens' last hidden states; read by `next`, then to be dropped"},
	[IPC_STATUS] = {"status", 0, 0,
			"{ready, model, context, isa, threads, kv, batch_invariant, huge_share, engine:{pid, restarts, crashes, failed}, "
			"tokens:{prefill, cached, decode}, batch, batch_max, pages:{total, free, kept}, "
			"state:{written, read, failed, error}, sessions, states:{running, waiting, paused, idle}}",
			"how the daemon is; others than administrators see health and their own counters"},
	[IPC_DRAIN] = {"drain", 0, F(SPILL), "{sessions, saved}",
		       "for administrators, before a stop: pauses all runs and starts no new ones"},
	[IPC_EXPORT] = {"export", F(SESSION) | F(REQUEST_ID) | F(OFFSET), F(PAGES), "{offset, data, last, size}",
			"a part of the session as a file, as it was when offset 0 was asked for"},
	[IPC_IMPORT] = {"import", F(REQUEST_ID) | F(OFFSET) | F(DATA), F(SESSION) | F(LAST), "{offset}, or {session, n_tokens}",
			"takes a part of such a file, and makes a session of the caller's with the last one"},
	[IPC_UPGRADE] = {"upgrade", 0, 0, "{upgrading}",
			 "the daemon becomes the program that is installed now, once that is known to start; sessions go on. For administrators"},
};

static const struct {
	const char *name, *help;
} codes[IPC_CODES] = {
	[IPC_BAD_REQUEST] = {"bad_request", "the message is not what the table says; `message` names the field"},
	[IPC_TOO_LARGE] = {"too_large", "the message is larger than `limits.message`"},
	[IPC_TOO_MANY] = {"too_many", "the caller has too many open requests, sessions or queued tokens"},
	[IPC_NO_SESSION] = {"no_session", "there is no such session, or it is somebody else's"},
	[IPC_EXISTS] = {"exists", "a session of that name is there, made by another request_id"},
	[IPC_BUSY] = {"busy", "the session is generating"},
	[IPC_AT_MISMATCH] = {"at_mismatch", "`at` is not the session's end, and other tokens stand there"},
	[IPC_CONTEXT_FULL] = {"context_full", "the tokens do not fit the model's context"},
	[IPC_NO_MEMORY] = {"no_memory", "the tokens do not fit the memory that the daemon may use"},
	[IPC_LOADING] = {"loading", "the daemon cannot serve yet; ask again"},
	[IPC_FORBIDDEN] = {"forbidden", "only administrators may do that"},
	[IPC_UNSUPPORTED] = {"unsupported", "the model or this daemon cannot do that"},
	[IPC_ENGINE_FAILED] = {"engine_failed", "the compute process failed on this session, twice"},
};

const char *ipc_code_name(enum ipc_code code)
{
	return codes[code].name;
}

const char *ipc_code_help(enum ipc_code code)
{
	return codes[code].help;
}
