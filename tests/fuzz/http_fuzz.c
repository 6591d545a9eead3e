/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A body of OpenAI's API: an error that says what, or requests that the protocol takes or refuses in its own words. The first byte
 * says which path it came on; what it has of headers and addresses is read from the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/check.h"
#include "base/mem.h"
#include "http/identity.h"
#include "http/listen.h"
#include "http/openai.h"
#include "ipc/protocol.h"

enum { CONTEXT = 2048, ANSWERS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct openai *o, unsigned answer)
{
	struct ipc_request r;
	struct ipc_error e;
	json_t *request = openai_generate(o, answer, "request");
	CHECK(json_is_object(request));
	if (ipc_decode_json(request, &r, &e) == 0)
		ipc_request_done(&r);
	else
		CHECK(e.err.what[0] != '\0');
}

static void read_body(const char *bytes, size_t length, bool chat)
{
	struct openai o;
	struct err e = {0};
	json_t *body = json_loadb(bytes, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	if (!json_is_object(body)) { /* refused before anybody looks into it */
		json_decref(body);
		return;
	}
	int r = openai_read(body, chat, CONTEXT, &o, &e);
	CHECK(r == 0 || (r == e.code && e.what[0] != '\0'));
	for (unsigned i = 0; r == 0 && i < ANSWERS && i < o.n * json_array_size(o.prompts); i++)
		ask(&o, i);
	openai_done(&o);
	json_decref(body);
}

static void read_texts(const char *text, size_t length)
{
	struct err e = {0};
	const char *at = text;
	for (struct listen_at a; (a = listen_next(&at)).length > 0;)
		CHECK(listen_check(a, &e) == 0 || e.what[0] != '\0');
	identity_is_local(text, NULL);
	identity_is_local("localhost", text);
	uint8_t *bytes = xmalloc(length / 4 * 3 + 3);
	ptrdiff_t n = base64_decode(text, length, bytes);
	CHECK(n >= -1 && n <= (ptrdiff_t)(length / 4 * 3));
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	char *text = xmalloc(size); /* NUL-terminated */
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	read_body(text, size - 1, data[0] & 1);
	read_texts(text, size - 1);
	free(text);
	return 0;
}
