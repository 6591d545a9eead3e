/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SmolLM2's tokenizer, read from its GGUF file, against the ids that llama.cpp gives for the same texts. The path of the file
 * comes from $FALCON_SMOLLM2_GGUF, without which these tests are skipped.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "pack/gguf.h"
#include "tests/support/vectors.h"
#include "text/template.h"

static struct tokenizer *tokenizer;

static void every_golden_text_has_the_ids_of_llama_cpp(void **state)
{
	(void)state;
	assert_int_equal(vectors_check(tokenizer, "smollm2-tokenizer.jsonl", NULL), 269);
}

static void a_chat_is_what_the_models_own_template_makes(void **state)
{
	(void)state;
	static const char whole[] = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
				    "<|im_end|>\n<|im_start|>user\nHello there!<|im_end|>\n<|im_start|>assistant\n";
	struct ids expected = {0}, list = {0};
	struct err e = {0};
	assert_int_equal(tokenizer_encode(tokenizer, whole, sizeof whole - 1, true, &expected, &e), 0);
	const struct template_message message = {TEMPLATE_USER, "Hello there!", 12};
	assert_int_equal(template_chat(template_find("chatml", &e), tokenizer, &(struct ids){0}, &message, 1, &list, &e), 0);
	assert_int_equal(list.length, expected.length);
	assert_memory_equal(list.data, expected.data, list.length * sizeof *list.data);
	ids_done(&expected);
	ids_done(&list);
}

static struct tokenizer *load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (data == MAP_FAILED)
		return NULL;
	struct buf blob = {0};
	struct tokenizer *t = NULL;
	struct err e = {0};
	if (gguf_tokenizer_blob(data, (size_t)st.st_size, &blob, &e) < 0 || tokenizer_new(blob.data, blob.length, &t, &e) < 0)
		print_error("%s: %s\n", path, e.what);
	munmap(data, (size_t)st.st_size);
	buf_done(&blob);
	return t;
}

int main(void)
{
	const char *path = getenv("FALCON_SMOLLM2_GGUF");
	if (path == NULL)
		return 77;
	tokenizer = load(path);
	if (tokenizer == NULL)
		return 1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_golden_text_has_the_ids_of_llama_cpp),
		cmocka_unit_test(a_chat_is_what_the_models_own_template_makes),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	tokenizer_free(tokenizer);
	return failed;
}
