/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Hugging Face folder: config.json says what the model is, model.safetensors or the files of its index hold the tensors,
 * tokenizer.json the vocabulary, and three more files what text generation adds (end-of-text tokens, whether a BOS is put in
 * front, the chat template).
 */
#include <errno.h>
#include <string.h>

#include "pack/checkpoint.h"
#include "pack/config_json.h"
#include "pack/json.h"
#include "pack/safetensors.h"
#include "pack/tokenizer_json.h"

/* All files that model.safetensors.index.json names, each once. */
static int read_index(struct files *files, const struct file *index, struct checkpoint *c, struct err *e)
{
	json_t *root;
	int r = json_open(index->data, index->size, index->name, &root, e);
	if (r < 0)
		return r;
	const char *tensor;
	json_t *value, *map = json_object_get(root, "weight_map");
	if (json_object_size(map) == 0)
		r = err_set(e, -EINVAL, "%s: weight_map is missing or empty", index->name);
	json_object_foreach(map, tensor, value) {
		bool seen = false;
		for (size_t i = 0; i < files->length; i++)
			seen = seen || (files->list[i].used && strcmp(files->list[i].name, json_text(value)) == 0);
		if (seen)
			continue;
		const struct file *f = files_use(files, json_text(value));
		if (f == NULL)
			r = err_set(e, -ENOENT, "%s: file '%.200s' (tensor %.100s) is missing", index->name, json_text(value),
				    tensor);
		else
			r = safetensors_read(f->data, f->size, f->name, &c->source, e);
		if (r < 0)
			break;
	}
	json_decref(root);
	return r;
}

static int read_tensors(struct files *files, struct checkpoint *c, struct err *e)
{
	const struct file *f = files_use(files, "model.safetensors.index.json");
	if (f != NULL)
		return read_index(files, f, c, e);
	f = files_use(files, "model.safetensors");
	if (f != NULL)
		return safetensors_read(f->data, f->size, f->name, &c->source, e);
	if (files->pickles) {
		err_set(e, -EINVAL, "%s: the weights are pickles (pytorch_model*.bin), which are programs and are not run",
			files->name);
		return err_hint(e, "convert with Transformers: AutoModelForCausalLM.from_pretrained('%.60s', dtype='auto')"
				".save_pretrained('new', safe_serialization=True)", files->name);
	}
	err_set(e, -ENOENT, "%s: neither model.safetensors nor model.safetensors.index.json is there", files->name);
	return err_hint(e, "a model is a GGUF file, or a folder with config.json and *.safetensors");
}

/* The text of a template, or of the entry named "default" in a list of named ones. */
static const json_t *default_template(const json_t *value)
{
	for (size_t i = 0; i < json_array_size(value); i++)
		if (strcmp(json_text(json_object_get(json_array_get(value, i), "name")), "default") == 0)
			return json_object_get(json_array_get(value, i), "template");
	return value;
}

/* tokenizer_config.json and chat_template.jinja; the latter wins. */
static int read_tokenizer_config(struct files *files, struct checkpoint *c, bool *ret_add_bos, struct err *e)
{
	const struct file *f = files_use(files, "tokenizer_config.json"), *jinja = files_use(files, "chat_template.jinja");
	json_t *root = NULL;
	int r = 0;
	if (f != NULL && (r = json_open(f->data, f->size, f->name, &root, e)) == 0) {
		const char *text = json_text(default_template(json_object_get(root, "chat_template")));
		if (jinja == NULL)
			buf_add(&c->template, text, strlen(text));
		if ((r = json_bool(root, "add_bos_token", ret_add_bos, e)) < 0 && r != -ENOENT)
			err_prefix(e, "%s", f->name);
		json_decref(root);
	}
	if (jinja != NULL && jinja->size > 0 && memchr(jinja->data, '\0', jinja->size) == NULL)
		buf_add(&c->template, jinja->data, jinja->size);
	return r == -ENOENT ? 0 : r;
}

static int add_specials(struct vocab *v, const struct config_ids *ids, bool add_bos, struct err *e)
{
	int r = 0;
	if (v->head.bos < 0 && ids->bos >= 0)
		r = vocab_set_bos(v, "bos_token_id", ids->bos, e);
	for (uint32_t i = 0; i < ids->n_eos && r == 0; i++)
		r = vocab_add_eos(v, "eos_token_id", ids->eos[i], e);
	if (r == 0 && add_bos && v->head.bos >= 0)
		v->head.flags |= WEIGHTS_ADD_BOS;
	return r;
}

static int read_tokenizer(struct files *files, struct checkpoint *c, const struct config_ids *ids, struct err *e)
{
	const struct file *f = files_use(files, "tokenizer.json");
	bool add_bos = false;
	json_t *root;
	struct vocab v;
	int r = read_tokenizer_config(files, c, &add_bos, e);
	if (r < 0)
		return r;
	if (f == NULL) {
		vocab_blob_none(&c->tokenizer);
		return 0;
	}
	if ((r = json_open(f->data, f->size, f->name, &root, e)) < 0)
		return r;
	if ((r = tokenizer_json_read(root, &v, e)) == 0 && (r = add_specials(&v, ids, add_bos, e)) == 0)
		r = vocab_blob(&v, &c->tokenizer, e);
	if (r < 0)
		err_prefix(e, "%s", f->name);
	vocab_done(&v);
	json_decref(root);
	return r;
}

int hf_checkpoint(struct files *files, struct checkpoint *c, struct err *e)
{
	const struct file *config = files_use(files, "config.json"), *generation = files_use(files, "generation_config.json");
	struct config_ids ids, more;
	c->file = "config.json";
	checkpoint_set_name(c, files->name, strlen(files->name));
	if (config == NULL) {
		err_set(e, -ENOENT, "%s: config.json is missing", files->name);
		return err_hint(e, "a model is a GGUF file, or a folder with config.json and *.safetensors");
	}
	int r = config_json_read(config->data, config->size, c, &ids, e);
	if (r == 0 && generation != NULL &&
	    (r = config_json_ids(generation->data, generation->size, generation->name, &more, e)) == 0) {
		if (more.bos >= 0)
			ids.bos = more.bos;
		if (more.n_eos > 0) { /* what generation stops at; config.json may be older */
			ids.n_eos = more.n_eos;
			memcpy(ids.eos, more.eos, sizeof ids.eos);
		}
	}
	if (r == 0 && (r = read_tensors(files, c, e)) == 0 && (r = read_tokenizer(files, c, &ids, e)) == 0)
		r = checkpoint_check(c, e);
	return r;
}
