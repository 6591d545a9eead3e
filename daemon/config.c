/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML by libyaml's events, because they carry the place of every scalar: a mistake in a configuration is answered with file,
 * line, column and what would be right. Only what the table needs is accepted: one mapping, scalars in it, and sections
 * (`limits:`) one level deep. Anchors, aliases, tags and lists have no use here and are refused, so that nothing that stands in
 * the file is ignored.
 */
#include "daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/check.h"
#include "base/mem.h"

enum { FILE_MAX_BYTES = 1 << 20 };

enum config_type {
	TYPE_TEXT,
	TYPE_COUNT,  /* whole number */
	TYPE_SIZE,   /* whole number of bytes, K, M, G, T are powers of 1024 */
	TYPE_MODE,   /* octal file mode */
	TYPE_CHOICE, /* one of choices; the number is its place */
};

static const struct config_key {
	const char *name;
	enum config_type type;
	size_t offset;
	uint64_t low, high;
	const char *fallback; /* NULL: unset */
	const char *choices;  /* "a|b" */
	const char *help;
} keys[CONFIG_KEYS] = {
#define AT(field) offsetof(struct config, field)
	[CONFIG_MODEL] = {"model", TYPE_TEXT, AT(model), 0, 0, NULL, NULL,
			  "the model: a GGUF file or a Hugging Face folder"},
	[CONFIG_SOCKET] = {"socket", TYPE_TEXT, AT(socket), 0, 0, "ipc:///run/falcond/falcond.sock", NULL,
			   "where clients connect: ipc:// and an absolute path"},
	[CONFIG_SOCKET_MODE] = {"socket_mode", TYPE_MODE, AT(socket_mode), 0, 0777, "0660", NULL,
				"mode of the socket file, octal: who may connect"},
	[CONFIG_SOCKET_GROUP] = {"socket_group", TYPE_TEXT, AT(socket_group), 0, 0, "falcond", NULL,
				 "group of the socket file; the default only where that group exists"},
	[CONFIG_ADMIN_GROUP] = {"admin_group", TYPE_TEXT, AT(admin_group), 0, 0, "falcond-admin", NULL,
				"its members administer falcond, as root and its own user do; the default only where it exists"},
	[CONFIG_EVENTS] = {"events", TYPE_TEXT, AT(events), 0, 0, NULL, NULL,
			   "PUB socket of progress and counters for administrators: ipc:// and an absolute path; unset: none"},
	[CONFIG_STATE] = {"state", TYPE_TEXT, AT(state), 0, 0, NULL, NULL, "folder for what outlives a reboot; created if missing"},
	[CONFIG_SPILL_AFTER] = {"spill_after", TYPE_COUNT, AT(spill_after), 0, 1000000000, "600", NULL,
				"seconds until an idle session is written to the state folder and its memory given back; 0 is never"},
	[CONFIG_SEGMENTS] = {"segments", TYPE_TEXT, AT(segments), 0, 0, NULL, NULL,
			     "folder of a tmpfs that keeps weights and sessions if falcond dies; without it systemd keeps them"},
	[CONFIG_THREADS] = {"threads", TYPE_COUNT, AT(threads), 0, 1024, "0", NULL, "threads that compute; 0 is one a core"},
	[CONFIG_KV] = {"kv", TYPE_CHOICE, AT(kv), 0, 0, "f16", "f16|f32|q8", "how keys and values are stored"},
	[CONFIG_DENSE] = {"dense", TYPE_CHOICE, AT(dense), 0, 0, "exact", "exact|openblas",
			  "who multiplies unquantised matrices"},
	[CONFIG_MEMORY] = {"memory", TYPE_SIZE, AT(memory), 0, 1ull << 46, "0", NULL,
			   "bytes for weights and sessions together; 0 is the weights and half of what is left"},
	[CONFIG_CHUNK_MS] = {"chunk_ms", TYPE_COUNT, AT(chunk_ms), 1, 10000, "50", NULL,
			     "milliseconds of prompts in one step while others generate"},
	[CONFIG_SPECULATE] = {"speculate", TYPE_CHOICE, AT(speculate), 0, 0, "on", "on|off",
			      "drafts of tokens where a session repeats itself; no byte depends on it"},
	[CONFIG_DETACH_AFTER] = {"detach_after", TYPE_COUNT, AT(detach_after), 0, 1000000, "60", NULL,
				 "seconds until a run that nobody reads is paused; 0 is never"},
	[CONFIG_STEP_DEADLINE] = {"step_deadline", TYPE_COUNT, AT(step_deadline), 1, 3600, "10", NULL,
				  "seconds after which an engine without a sign of life is replaced; 20 times a step's usual time if that is more"},
	[CONFIG_LIMIT_MESSAGE] = {"limits.message", TYPE_SIZE, AT(limits.message), 4096, 1 << 28, "1M", NULL,
				  "bytes of a request"},
	[CONFIG_LIMIT_REQUESTS] = {"limits.requests", TYPE_COUNT, AT(limits.requests), 1, 1 << 20, "2048", NULL,
				   "open requests of one user"},
	[CONFIG_LIMIT_SESSIONS] = {"limits.sessions", TYPE_COUNT, AT(limits.sessions), 1, 1 << 17, "16384", NULL,
				   "sessions of one user"},
	[CONFIG_LIMIT_PAGES] = {"limits.pages", TYPE_COUNT, AT(limits.pages), 0, 1 << 30, "0", NULL,
				"pages of 32 tokens that the running sessions of one user may need; 0 is no limit"},
	[CONFIG_LIMIT_QUEUED_TOKENS] = {"limits.queued_tokens", TYPE_COUNT, AT(limits.queued_tokens), 1, 1ull << 40, "1048576", NULL,
					"tokens of prompts of one user that wait to be computed"},
	[CONFIG_LIMIT_LOGPROBS] = {"limits.logprobs", TYPE_SIZE, AT(limits.logprobs), 0, 1ull << 46, "256M", NULL,
				   "bytes that the log-probabilities of one user's sessions may need"},
	[CONFIG_HTTP_LISTEN] = {"http.listen", TYPE_TEXT, AT(http.listen), 0, 0, NULL, NULL,
				"addresses for HTTP with blanks between: unix:PATH, 127.0.0.1:PORT; unset: no HTTP"},
	[CONFIG_HTTP_KEYS] = {"http.keys", TYPE_TEXT, AT(http.keys), 0, 0, NULL, NULL,
			      "file of API keys, NAME KEY a line; unset: over TCP too the uid counts"},
#undef AT
};

/* A place in a file, or a command line's option if there is none. */
struct place {
	const char *file; /* NULL: no place */
	unsigned long line, column;
};

static struct place place_of(const char *file, yaml_mark_t mark)
{
	return (struct place){.file = file, .line = mark.line + 1, .column = mark.column + 1};
}

static int fail_at(struct err *e, const struct place *at, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail_at(struct err *e, const struct place *at, const char *format, ...)
{
	char what[300];
	va_list args;
	va_start(args, format);
	vsnprintf(what, sizeof what, format, args);
	va_end(args);
	err_set(e, -EINVAL, "%s", what);
	return at->file ? err_prefix(e, "%s:%lu:%lu", at->file, at->line, at->column) : -EINVAL;
}

/* Letters of a value as an error shows them: the first ones, printable. */
struct shown { char text[48]; };

static struct shown show(const char *value)
{
	struct shown s;
	size_t n = 0;
	while (value[n] != '\0' && n < 40) {
		s.text[n] = isprint((unsigned char)value[n]) ? value[n] : '?';
		n++;
	}
	snprintf(s.text + n, sizeof s.text - n, "%s", value[n] ? "..." : "");
	return s;
}

static bool parse_digits(const char *text, int base, uint64_t *ret, const char **ret_end)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, base);
	if (!isdigit((unsigned char)text[0]) || errno != 0)
		return false;
	*ret = value;
	*ret_end = end;
	return true;
}

static bool parse_size(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	const char *end, *unit;
	uint64_t value;
	if (!parse_digits(text, 10, &value, &end))
		return false;
	if (*end != '\0' && (unit = strchr(units, *end)) != NULL) {
		unsigned shift = 10 * (unsigned)(unit - units + 1);
		if (value > UINT64_MAX >> shift)
			return false;
		value <<= shift;
		end++;
	}
	*ret = value;
	return *end == '\0';
}

static bool parse_choice(const char *choices, const char *text, uint64_t *ret)
{
	size_t length = strlen(text);
	uint64_t place = 0;
	for (const char *at = choices; length > 0;) {
		size_t n = strcspn(at, "|");
		if (n == length && memcmp(at, text, n) == 0) {
			*ret = place;
			return true;
		}
		if (at[n] == '\0')
			return false;
		at += n + 1;
		place++;
	}
	return false;
}

static bool parse_number(const struct config_key *k, const char *text, uint64_t *ret)
{
	const char *end;
	switch (k->type) {
	case TYPE_COUNT: return parse_digits(text, 10, ret, &end) && *end == '\0';
	case TYPE_MODE: return parse_digits(text, 8, ret, &end) && *end == '\0';
	case TYPE_SIZE: return parse_size(text, ret);
	case TYPE_CHOICE: return parse_choice(k->choices, text, ret);
	case TYPE_TEXT: break;
	}
	CHECK(!"a text is no number");
	return false;
}

/* What a value of this key looks like. */
static const char *expected(const struct config_key *k, char *out, size_t size)
{
	switch (k->type) {
	case TYPE_TEXT: snprintf(out, size, "a text"); break;
	case TYPE_COUNT:
		snprintf(out, size, "a whole number from %llu to %llu", (unsigned long long)k->low, (unsigned long long)k->high);
		break;
	case TYPE_SIZE:
		snprintf(out, size, "bytes from %llu to %llu, such as 512M or 6G", (unsigned long long)k->low,
			 (unsigned long long)k->high);
		break;
	case TYPE_MODE: snprintf(out, size, "an octal file mode from 0 to %llo", (unsigned long long)k->high); break;
	case TYPE_CHOICE: snprintf(out, size, "one of %s", k->choices); break;
	}
	return out;
}

static int set(struct config *c, const struct config_key *k, const char *value, const struct place *at, struct err *e)
{
	char want[96];
	void *field = (char *)c + k->offset;
	uint64_t number;
	if (k->type == TYPE_TEXT) {
		if (value[0] == '\0')
			return fail_at(e, at, "%s: expected a text, got nothing", k->name);
		free(*(char **)field);
		*(char **)field = xstrdup(value);
		return 0;
	}
	if (!parse_number(k, value, &number) || (k->type != TYPE_CHOICE && (number < k->low || number > k->high)))
		return fail_at(e, at, "%s: expected %s, got \"%s\"", k->name, expected(k, want, sizeof want), show(value).text);
	*(uint64_t *)field = number;
	return 0;
}

void config_init(struct config *c)
{
	struct err e;
	struct place nowhere = {0};
	*c = (struct config){0};
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (keys[i].fallback != NULL)
			CHECK(set(c, &keys[i], keys[i].fallback, &nowhere, &e) == 0);
}

void config_done(struct config *c)
{
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (keys[i].type == TYPE_TEXT)
			free(*(char **)((char *)c + keys[i].offset));
	*c = (struct config){0};
}

int config_set(struct config *c, enum config_id id, const char *value, struct err *e)
{
	struct place nowhere = {0};
	int r = set(c, &keys[id], value, &nowhere, e);
	if (r == 0)
		c->set |= 1u << id;
	return r;
}

/* Levenshtein's distance of two names. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64];
	size_t n = strlen(b);
	CHECK(n < 64);
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 0; a[i] != '\0'; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i + 1;
		for (size_t j = 1; j <= n; j++) {
			unsigned changed = diagonal + (a[i] != b[j - 1]);
			diagonal = row[j];
			row[j] = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
			row[j] = row[j] < changed ? row[j] : changed;
		}
	}
	return row[n];
}

static const struct config_key *nearest(const char *name)
{
	const struct config_key *best = &keys[0];
	unsigned least = UINT32_MAX;
	const char *dot;
	for (int i = 0; i < CONFIG_KEYS; i++) {
		unsigned d = distance(name, keys[i].name);
		/* A key that was left outside its section is as near as can be. */
		if ((dot = strchr(keys[i].name, '.')) != NULL && strcmp(dot + 1, name) == 0)
			d = 1;
		if (d < least) {
			least = d;
			best = &keys[i];
		}
	}
	return best;
}

static const struct config_key *find_key(const char *name)
{
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
	return NULL;
}

/* A bit per key of a section; 0: no section is called so. */
static uint32_t section_keys(const char *name)
{
	uint32_t bits = 0;
	size_t n = strlen(name);
	for (int i = 0; i < CONFIG_KEYS; i++)
		if (strncmp(keys[i].name, name, n) == 0 && keys[i].name[n] == '.')
			bits |= 1u << i;
	return bits;
}

static const char *event_name(yaml_event_type_t type)
{
	switch (type) {
	case YAML_ALIAS_EVENT: return "an alias";
	case YAML_SEQUENCE_START_EVENT: return "a list";
	case YAML_MAPPING_START_EVENT: return "a mapping";
	case YAML_SCALAR_EVENT: return "a single value";
	default: return "the end";
	}
}

/* The parser, and what it has seen. */
struct reading {
	struct config *config;
	const char *file;
	yaml_parser_t parser;
	uint32_t seen;     /* bit per key in this file */
	uint32_t sections; /* the keys of the sections that were there */
	struct err *e;
};

static int next_event(struct reading *r, yaml_event_t *ret)
{
	if (yaml_parser_parse(&r->parser, ret))
		return 0;
	const yaml_parser_t *p = &r->parser;
	struct place at = place_of(r->file, p->problem_mark);
	return fail_at(r->e, &at, "not YAML: %s%s%s", p->problem ? p->problem : "out of memory", p->context ? " " : "",
		       p->context ? p->context : "");
}

/* A scalar without anchor, tag and NUL, or an error that says what else it is. */
static int check_scalar(struct reading *r, const yaml_event_t *v, const char *what)
{
	struct place at = place_of(r->file, v->start_mark);
	if (v->type != YAML_SCALAR_EVENT)
		return fail_at(r->e, &at, "%s: expected a single value, got %s", what, event_name(v->type));
	if (v->data.scalar.anchor != NULL || (v->data.scalar.tag != NULL && v->data.scalar.tag[0] != '\0'))
		return fail_at(r->e, &at, "%s: anchors and tags are not used here", what);
	if (strlen((const char *)v->data.scalar.value) != v->data.scalar.length)
		return fail_at(r->e, &at, "%s: a NUL byte", what);
	return 0;
}

static int read_value(struct reading *r, const struct config_key *k)
{
	yaml_event_t v;
	int code = next_event(r, &v);
	if (code < 0)
		return code;
	struct place at = place_of(r->file, v.start_mark);
	const char *text = (const char *)v.data.scalar.value;
	char want[96];
	if ((code = check_scalar(r, &v, k->name)) < 0)
		goto out;
	if (k->type != TYPE_TEXT && k->type != TYPE_CHOICE && v.data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		code = fail_at(r->e, &at, "%s: expected %s, got the text \"%s\"", k->name, expected(k, want, sizeof want),
			       show(text).text);
	else
		code = set(r->config, k, text, &at, r->e);
	if (code == 0)
		r->config->set |= 1u << (k - keys);
out:
	yaml_event_delete(&v);
	return code;
}

static int read_mapping(struct reading *r, const char *section);

static int read_section(struct reading *r, const char *name, const struct place *at)
{
	uint32_t bits = section_keys(name);
	if (r->sections & bits)
		return fail_at(r->e, at, "%s: the section is there twice", name);
	r->sections |= bits;
	yaml_event_t v;
	int code = next_event(r, &v);
	if (code < 0)
		return code;
	struct place where = place_of(r->file, v.start_mark);
	if (v.type != YAML_MAPPING_START_EVENT || v.data.mapping_start.anchor != NULL || v.data.mapping_start.tag != NULL) {
		code = fail_at(r->e, &where, "%s: expected keys of this section, got %s", name, event_name(v.type));
		err_hint(r->e, "write its keys below it, each a line that begins with two spaces");
	}
	yaml_event_delete(&v);
	return code < 0 ? code : read_mapping(r, name);
}

/* One key, whose event has come already, and its value. */
static int read_pair(struct reading *r, const char *section, const yaml_event_t *key)
{
	struct place at = place_of(r->file, key->start_mark);
	int code = check_scalar(r, key, "a key");
	if (code < 0)
		return code;
	const char *name = (const char *)key->data.scalar.value;
	if (section == NULL && section_keys(name) != 0)
		return read_section(r, name, &at);
	char full[96];
	int n = snprintf(full, sizeof full, "%s%s%s", section ? section : "", section ? "." : "", name);
	const struct config_key *k = n < (int)sizeof full && (section != NULL || strchr(name, '.') == NULL) ? find_key(full) : NULL;
	if (k == NULL) {
		fail_at(r->e, &at, "unknown key \"%s\"", show(full).text);
		const char *near = nearest(full)->name, *dot = strchr(near, '.');
		if (dot == NULL)
			return err_hint(r->e, "the nearest key is \"%s\"", near);
		return err_hint(r->e, "the nearest key is \"%s\" in the section \"%.*s\"", dot + 1, (int)(dot - near), near);
	}
	uint32_t bit = 1u << (k - keys);
	if (r->seen & bit)
		return fail_at(r->e, &at, "%s: the key is there twice", k->name);
	r->seen |= bit;
	return read_value(r, k);
}

/* Keys and values until the mapping ends. */
static int read_mapping(struct reading *r, const char *section)
{
	for (;;) {
		yaml_event_t key;
		int code = next_event(r, &key);
		if (code < 0)
			return code;
		bool end = key.type == YAML_MAPPING_END_EVENT;
		if (!end)
			code = read_pair(r, section, &key);
		yaml_event_delete(&key);
		if (end || code < 0)
			return code;
	}
}

/* The next event's type alone, for those that carry no value, and where it stands. */
static int next_type(struct reading *r, yaml_event_type_t *ret_type, struct place *ret_at)
{
	yaml_event_t v;
	int code = next_event(r, &v);
	if (code < 0)
		return code;
	*ret_type = v.type;
	*ret_at = place_of(r->file, v.start_mark);
	yaml_event_delete(&v);
	return 0;
}

/* Goes to the first key, or finds that there is none. */
static int open_document(struct reading *r, bool *ret_empty)
{
	static const yaml_event_type_t order[] = {YAML_STREAM_START_EVENT, YAML_DOCUMENT_START_EVENT, YAML_MAPPING_START_EVENT};
	*ret_empty = false;
	for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
		yaml_event_type_t type;
		struct place at;
		int code = next_type(r, &type, &at);
		if (code < 0)
			return code;
		if (type == YAML_STREAM_END_EVENT) {
			*ret_empty = true;
			return 0;
		}
		if (type != order[i]) {
			fail_at(r->e, &at, "expected keys and values, got %s", event_name(type));
			return err_hint(r->e, "write a key a line, such as \"threads: 4\"");
		}
	}
	return 0;
}

static int close_document(struct reading *r)
{
	static const yaml_event_type_t order[] = {YAML_DOCUMENT_END_EVENT, YAML_STREAM_END_EVENT};
	for (size_t i = 0; i < 2; i++) {
		yaml_event_type_t type;
		struct place at;
		int code = next_type(r, &type, &at);
		if (code < 0)
			return code;
		if (type != order[i])
			return fail_at(r->e, &at, "a second document; expected the end of the file");
	}
	return 0;
}

int config_parse(struct config *c, const char *file, const char *text, size_t length, struct err *e)
{
	struct reading r = {.config = c, .file = file, .e = e};
	if (!yaml_parser_initialize(&r.parser))
		return err_set(e, -ENOMEM, "%s: no memory for a parser", file);
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
	bool empty;
	int code = open_document(&r, &empty);
	if (code == 0 && !empty)
		code = read_mapping(&r, NULL);
	if (code == 0 && !empty)
		code = close_document(&r);
	yaml_parser_delete(&r.parser);
	return code;
}

int config_load(struct config *c, const char *file, struct err *e)
{
	FILE *f = fopen(file, "re");
	if (f == NULL)
		return err_set(e, -errno, "%s: cannot open the configuration: %s", file, strerror(errno));
	char *text = xmalloc(FILE_MAX_BYTES);
	size_t length = fread(text, 1, FILE_MAX_BYTES, f);
	int code = ferror(f) ? err_set(e, -EIO, "%s: cannot read the configuration", file) : 0;
	fclose(f);
	if (code == 0 && length == FILE_MAX_BYTES)
		code = err_set(e, -EINVAL, "%s: a configuration has less than %d bytes", file, FILE_MAX_BYTES);
	if (code == 0)
		code = config_parse(c, file, text, length, e);
	free(text);
	return code;
}

struct config_about config_about(enum config_id id)
{
	const struct config_key *k = &keys[id];
	struct config_about a = {.name = k->name, .fallback = k->fallback, .help = k->help};
	expected(k, a.expected, sizeof a.expected);
	return a;
}

void config_help(FILE *out)
{
	for (int i = 0; i < CONFIG_KEYS; i++)
		fprintf(out, "  %-22s %s%s%s%s\n", keys[i].name, keys[i].help, keys[i].fallback ? " [" : "",
			keys[i].fallback ? keys[i].fallback : "", keys[i].fallback ? "]" : "");
}
