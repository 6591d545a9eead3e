# SPDX-License-Identifier: Apache-2.0
"""HTTP as OpenAI's own client and plain sockets see it. $FALCOND_HTTP is host:port and $FALCOND_HTTP_SOCKET the path of a Unix
socket of the same falcond with the bundled model; $FALCOND_SOCKET is its nng socket, $FALCOND_EVENTS its PUB socket."""
import asyncio
import http.client
import json
import os
import signal
import socket
import struct
import threading
import time
import unittest

import httpx2 as httpx
import openai
import pynng

from falcon_client import Client

ADDRESS = os.environ["FALCOND_HTTP"]
PATH = os.environ["FALCOND_HTTP_SOCKET"]
PROMPT = "Once upon a time"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self):
        super().__init__("localhost", timeout=60)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(PATH)


def ask(method, path, body=None, headers={}, unix=True):
    c = UnixConnection() if unix else http.client.HTTPConnection(ADDRESS, timeout=60)
    try:
        c.request(method, path, body if body is None or isinstance(body, (bytes, str)) else json.dumps(body), headers)
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def single(values):
    """Numbers as float32 has them: JSON has 15 digits of each, which name it exactly."""
    return list(struct.unpack(f"{len(values)}f", struct.pack(f"{len(values)}f", *values)))


def sessions():
    with Client(os.environ["FALCOND_SOCKET"]) as c:
        return c.call("sessions")["sessions"]


class OpenAI(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://{ADDRESS}/v1", api_key="none", max_retries=0, timeout=60)
        self.addCleanup(self.client.close)

    def test_the_model_is_listed_and_can_be_asked_for(self):
        (model,) = self.client.models.list().data
        self.assertEqual(self.client.models.retrieve(model.id).id, model.id)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another")

    def test_a_completion_is_what_the_protocol_gives(self):
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            run = c.generate(PROMPT, seed=5, n=12, temp=1, top_k=0, top_p=1, min_p=0, ignore_eos=True)
            ids, text, _, _ = c.read(run["session"], run["cursor"])
            c.call("drop", session=run["session"])
        got = self.client.completions.create(model="any", prompt=PROMPT, max_tokens=12, seed=5, extra_body={"ignore_eos": True})
        self.assertEqual(got.choices[0].text, text)
        self.assertEqual(got.choices[0].finish_reason, "length")
        self.assertEqual((got.usage.prompt_tokens, got.usage.completion_tokens), (run["n_given"], len(ids)))

    def test_a_stream_is_the_whole_answer_in_pieces(self):
        asked = dict(model="any", messages=[{"role": "user", "content": PROMPT}], max_tokens=30, seed=7,
                     extra_body={"ignore_eos": True})
        whole = self.client.chat.completions.create(**asked)
        pieces, usage, finish = "", None, None
        for chunk in self.client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces += choice.delta.content or ""
                finish = choice.finish_reason or finish
        self.assertEqual(pieces, whole.choices[0].message.content)
        self.assertEqual((finish, usage.completion_tokens), ("length", 30))

    def test_several_answers_have_seeds_of_their_own(self):
        got = self.client.completions.create(model="any", prompt=[PROMPT, "The king"], n=2, seed=3, max_tokens=10)
        self.assertEqual([c.index for c in got.choices], [0, 1, 2, 3])
        second = self.client.completions.create(model="any", prompt=PROMPT, seed=4, max_tokens=10)
        self.assertEqual(got.choices[1].text, second.choices[0].text)

    def test_logprobs_of_a_completion_are_what_the_protocol_gives(self):
        no_end = {str(i): -1000 for i in range(16)}  # tokens that are no text are not told
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            run = c.generate(PROMPT, seed=5, n=40, temp=1, top_k=0, top_p=1, min_p=0, logit_bias=no_end, logprobs=3)
            told, cursor, done = {"ids": [], "logprobs": [], "top_logprobs": []}, run["cursor"], False
            while not done:
                reply = c.call("next", session=run["session"], cursor=cursor, wait_ms=20000)
                cursor, done = reply["cursor"], reply["done"]
                for name in told:
                    told[name] += reply[name]
            c.call("drop", session=run["session"])
            words = {i: c.call("detokenize", ids=[i])["text"]
                     for i in {*told["ids"], *(i for top in told["top_logprobs"] for i, _ in top)}}
        asked = dict(model="any", prompt=PROMPT, max_tokens=40, seed=5, logprobs=3, logit_bias=no_end)
        choice = self.client.completions.create(**asked).choices[0]
        self.assertEqual(choice.logprobs.token_logprobs, told["logprobs"])
        self.assertEqual(choice.logprobs.tokens, [words[i] for i in told["ids"]])
        self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        for i, top in enumerate(told["top_logprobs"]):
            self.assertEqual(choice.logprobs.top_logprobs[i],
                             {**{words[i]: p for i, p in top}, words[told["ids"][i]]: told["logprobs"][i]})
            offset = choice.logprobs.text_offset[i]
            self.assertTrue(choice.text[offset:].startswith(choice.logprobs.tokens[i]))
        pieces = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for chunk in self.client.completions.create(stream=True, **asked):
            for name in pieces:
                pieces[name] += getattr(chunk.choices[0].logprobs, name) if chunk.choices[0].logprobs else []
        self.assertEqual(pieces, choice.logprobs.model_dump())

    def test_logprobs_of_a_chat_have_tokens_bytes_and_alternatives(self):
        asked = dict(model="any", messages=[{"role": "user", "content": PROMPT}], max_tokens=12, seed=7, n=2, logprobs=True,
                     logit_bias={str(i): -1000 for i in range(16)})
        whole = self.client.chat.completions.create(top_logprobs=4, **asked)
        for choice in whole.choices:
            content = choice.logprobs.content
            self.assertEqual(len(content), 12)
            self.assertEqual(b"".join(bytes(t.bytes) for t in content).decode(), choice.message.content)
            for t in content:
                self.assertEqual(len(t.top_logprobs), 4)
                self.assertEqual(t.top_logprobs, sorted(t.top_logprobs, key=lambda x: -x.logprob))
                self.assertTrue(t.logprob <= 0 and all(x.logprob <= 0 for x in t.top_logprobs))
                for x in t.top_logprobs:
                    self.assertEqual(x.logprob == t.logprob, x.token == t.token)
        pieces = [[], []]
        for chunk in self.client.chat.completions.create(stream=True, top_logprobs=4, **asked):
            for choice in chunk.choices:
                pieces[choice.index] += choice.logprobs.content if choice.logprobs else []
        self.assertEqual(pieces, [c.logprobs.content for c in whole.choices])
        without = self.client.chat.completions.create(**asked)
        self.assertEqual([t.logprob for t in without.choices[1].logprobs.content], [t.logprob for t in pieces[1]])
        self.assertEqual(without.choices[1].logprobs.content[0].top_logprobs, [])

    def test_an_echoed_prompt_has_logprobs_as_a_harness_reads_them(self):
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            ids = c.call("tokenize", text=PROMPT + " there was a king")["ids"]
            run = c.call("score", request_id="echoed", ids=ids)
            reply = {"done": False}
            while not reply["done"]:
                reply = c.call("next", session=run["session"], cursor=0, wait_ms=20000)
            c.call("drop", session=run["session"])
        asked = dict(model="any", echo=True, logprobs=2, temperature=0, max_tokens=1, n=2)
        as_text = self.client.completions.create(prompt=PROMPT + " there was a king", **asked)
        as_ids = self.client.completions.create(prompt=ids, **asked)
        self.assertEqual(as_text.choices, as_ids.choices)
        for choice in as_ids.choices:
            told = choice.logprobs
            self.assertEqual(len(told.tokens), len(ids) + 1)
            self.assertEqual((told.token_logprobs[:-1], told.top_logprobs[0]), ([None, *reply["logprobs"]], None))
            self.assertEqual("".join(told.tokens), choice.text)
            self.assertTrue(choice.text.startswith(PROMPT + " there was a king"))
            self.assertTrue(all(max(top.values()) >= p for top, p in zip(told.top_logprobs[1:], told.token_logprobs[1:])))
            self.assertEqual(max(told.top_logprobs[-1].values()), told.token_logprobs[-1])  # greedy
            self.assertEqual(told.text_offset, [len("".join(told.tokens[:i])) for i in range(len(told.tokens))])
        pieces = []
        for chunk in self.client.completions.create(prompt=ids, stream=True, **{**asked, "n": 1}):
            pieces += chunk.choices[0].logprobs.token_logprobs if chunk.choices[0].logprobs else []
        self.assertEqual(pieces, as_ids.choices[0].logprobs.token_logprobs)
        alone = self.client.completions.create(prompt=ids, **{**asked, "max_tokens": 0, "n": 1})
        self.assertEqual((alone.choices[0].logprobs.token_logprobs, alone.choices[0].finish_reason, alone.usage.completion_tokens),
                         ([None, *reply["logprobs"]], "length", 0))
        plain = self.client.completions.create(model="any", prompt=ids, echo=True, max_tokens=1, temperature=0).choices[0]
        self.assertEqual((plain.text, plain.logprobs), (as_ids.choices[0].text, None))
        with self.assertRaises(openai.BadRequestError):
            self.client.completions.create(model="any", prompt=ids, max_tokens=0, logprobs=1)
        self.assertTrue(eventually(lambda: not sessions()))

    def test_an_end_of_text_is_no_token_of_the_answer(self):
        end = next(i for i in range(16) if self.ends(i))
        got = self.client.completions.create(model="any", prompt=PROMPT, max_tokens=5, temperature=0, logprobs=1,
                                             logit_bias={str(end): 1000}).choices[0]
        self.assertEqual((got.text, got.finish_reason), ("", "stop"))
        self.assertEqual(got.logprobs.tokens if got.logprobs else [], [])

    def ends(self, token):
        """Whether a run that is made to say this token ends there."""
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            run = c.generate(PROMPT, n=2, temp=0, logit_bias={str(token): 1000})
            finish = c.read(run["session"], run["cursor"])[3]
            c.call("drop", session=run["session"])
        return finish == "eos"

    def test_embeddings_are_what_the_protocol_gives(self):
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            ids = c.call("tokenize", text=PROMPT)["ids"]
            run = c.call("embed", request_id="embedding", ids=ids)
            reply = {"done": False}
            while not reply["done"]:
                reply = c.call("next", session=run["session"], cursor=0, wait_ms=20000)
            c.call("drop", session=run["session"])
        wanted, before = single(reply["embedding"]), len(sessions())
        got = self.client.embeddings.create(model="any", input=PROMPT)  # the package asks for base64
        self.assertEqual(got.data[0].embedding, wanted)
        self.assertEqual((got.usage.prompt_tokens, got.usage.total_tokens, got.object), (len(ids), len(ids), "list"))
        texts = [PROMPT, "The king", *(f"{i} wolves" for i in range(20))]
        for inputs in (texts, [ids, *([i] for i in range(300, 321))]):
            several = self.client.embeddings.create(model="any", input=inputs, encoding_format="float")
            self.assertEqual([d.index for d in several.data], list(range(22)))
            self.assertEqual(single(several.data[0].embedding), wanted)
            self.assertEqual(len({tuple(d.embedding) for d in several.data}), 22)
        self.assertEqual(self.client.embeddings.create(model="any", input=ids).data[0].embedding, wanted)
        self.assertEqual(len(sessions()), before)

    def test_what_cannot_be_embedded_is_told(self):
        for body in ({}, {"input": ""}, {"input": []}, {"input": [[]]}, {"input": ["a", ""]}, {"input": 7}, {"input": {"a": 1}},
                     {"input": ["a"] * 2049}, {"input": "a", "encoding_format": "int8"}, {"input": "a", "dimensions": 8},
                     {"input": [99999]}, {"input": ["a", [1]] * 4 + [[-1]]}):
            status, reply = ask("POST", "/v1/embeddings", body)
            self.assertEqual((status, json.loads(reply)["error"]["type"]), (400, "invalid_request_error"), str(body)[:80])
            self.assertIn(json.loads(reply)["error"]["param"], ("input", "encoding_format", "dimensions"), str(body)[:80])
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.embeddings.create(model="any", input=["word " * 5000, "short"])
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        self.assertTrue(eventually(lambda: not sessions()))

    def test_wrong_logprobs_are_told(self):
        for body in ({"logprobs": 21}, {"logprobs": -1}, {"logprobs": True}, {"logprobs": "1"}, {"logprobs": 1.0}):
            status, reply = ask("POST", "/v1/completions", {"prompt": PROMPT, **body})
            self.assertEqual((status, "`logprobs`" in json.loads(reply)["error"]["message"]), (400, True), body)
        for body in ({"logprobs": 1}, {"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": False, "top_logprobs": 1}):
            status, reply = ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **body})
            self.assertEqual((status, "logprobs`" in json.loads(reply)["error"]["message"]), (400, True), body)

    def test_stop_strings_end_an_answer(self):
        whole = self.client.completions.create(model="any", prompt=PROMPT, max_tokens=40, temperature=0).choices[0].text
        stop = whole.split()[3]
        got = self.client.completions.create(model="any", prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop]).choices[0]
        self.assertEqual((got.text, got.finish_reason), (whole[: whole.index(stop)], "stop"))

    def test_a_dropped_answer_stops_and_its_conversation_computes_only_what_is_new(self):
        talk = [{"role": "user", "content": "The fisherman and his wife lived by the sea. " * 8}]
        ask = dict(model="any", max_tokens=1500, seed=1, extra_body={"ignore_eos": True})
        with self.client.chat.completions.create(messages=talk, stream=True, **ask) as stream:
            text = ""
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if len(text) > 200:
                    break
        self.assertTrue(eventually(lambda: sessions() == []))  # it generates no more
        talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
        ask["max_tokens"] = 1
        usage = self.client.chat.completions.create(messages=talk, **ask).usage
        # All but the last pages, of 32 tokens each: the answer's last one was not full, and behind it stands what is new.
        self.assertGreater(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens - 3 * 32)
        self.assertEqual(usage.prompt_tokens_details.cached_tokens % 32, 0)

    def test_fifty_streams_at_once_are_the_answers_that_they_are_alone(self):
        ask = dict(model="any", prompt=PROMPT, max_tokens=24, extra_body={"ignore_eos": True})
        wanted = [self.client.completions.create(seed=s, **ask).choices[0].text for s in range(5)]

        async def one(client, seed):
            stream = await client.completions.create(seed=seed, stream=True, **ask)
            return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

        async def all():
            async with openai.AsyncOpenAI(base_url=f"http://{ADDRESS}/v1", api_key="none", max_retries=0, timeout=120) as client:
                return await asyncio.gather(*[one(client, i % 5) for i in range(50)])

        self.assertEqual(asyncio.run(all()), wanted * 10)

    def test_errors_have_the_shape_that_the_package_knows(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="any", prompt=PROMPT, temperature=-1)
        self.assertIn("field `temperature`: ", caught.exception.message)
        self.assertEqual((caught.exception.param, caught.exception.code), ("temperature", "bad_request"))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="any", prompt=[1 << 30])
        self.assertEqual(caught.exception.param, "prompt")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="any", prompt="word " * 5000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        self.assertEqual(caught.exception.param, None)

    def test_what_would_change_the_answer_and_is_not_served_is_refused_by_name(self):
        schema = {"name": "age", "schema": {"type": "object", "properties": {"age": {"type": "integer"}}}}
        for stream in (False, True):
            for field, value in (("response_format", {"type": "json_object"}),
                                 ("response_format", {"type": "json_schema", "json_schema": schema}),
                                 ("tools", [{"type": "function", "function": {"name": "f"}}])):
                with self.assertRaises(openai.BadRequestError) as caught:
                    self.client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x"}], stream=stream,
                                                        **{field: value})
                e = caught.exception
                self.assertEqual((e.status_code, e.type, e.code, e.param), (400, "invalid_request_error", "unsupported", field))
                self.assertIn(f"field `{field}`", e.message)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="any", prompt=PROMPT, n=2, best_of=3)
        self.assertEqual((caught.exception.code, caught.exception.param), ("unsupported", "best_of"))
        self.assertEqual(len(self.client.completions.create(model="any", prompt=PROMPT, n=2, best_of=2, max_tokens=1).choices), 2)
        text = self.client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x"}], max_tokens=1,
                                                   response_format={"type": "text"})
        self.assertEqual(text.usage.completion_tokens, 1)

    def test_fifty_at_once_over_both_addresses(self):
        def make(unix):
            transport = httpx.HTTPTransport(uds=PATH) if unix else None
            return openai.OpenAI(base_url=f"http://{ADDRESS}/v1", api_key="none", max_retries=0, timeout=120,
                                 http_client=httpx.Client(transport=transport))
        wanted = {s: self.client.completions.create(model="any", prompt=PROMPT, seed=s, max_tokens=8).choices[0].text for s in range(4)}
        failures, ready = [], threading.Barrier(50)

        def one(i):
            try:
                with make(i % 2 == 0) as client:
                    ready.wait()
                    if i % 3 == 0:
                        stream = client.completions.create(model="any", prompt=PROMPT, seed=i % 4, max_tokens=8, stream=True)
                        text = "".join(c.choices[0].text for c in stream if c.choices)
                    else:
                        text = client.completions.create(model="any", prompt=PROMPT, seed=i % 4, max_tokens=8).choices[0].text
                if text != wanted[i % 4]:
                    failures.append((i, text))
            except Exception as e:  # told by the main thread
                failures.append((i, repr(e)))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(50)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failures, [])
        self.assertTrue(eventually(lambda: sessions() == []))


class Watching(unittest.TestCase):
    def metrics(self):
        status, body = ask("GET", "/metrics")
        self.assertEqual(status, 200)
        lines = body.decode().splitlines()
        return {l.rpartition(" ")[0]: float(l.rpartition(" ")[2]) for l in lines if not l.startswith("#")}

    def test_counters_and_histograms_count(self):
        before = self.metrics()
        ask("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 10, "ignore_eos": True})
        after = self.metrics()
        grown = {name: after[name] - before[name] for name in after}
        self.assertEqual(grown["falcond_generated_tokens_total"], 10)
        self.assertEqual(grown["falcond_time_to_first_token_seconds_count"], 1)
        self.assertEqual(grown['falcond_time_to_first_token_seconds_bucket{le="+Inf"}'], 1)
        self.assertEqual(grown["falcond_time_between_tokens_seconds_count"], 9)
        self.assertEqual(grown["falcond_queue_wait_seconds_count"], 1)
        self.assertGreater(grown["falcond_steps_total"], 0)

    def grown(self, before, *names):
        after = self.metrics()
        return tuple(after["falcond_" + name] - before["falcond_" + name] for name in names)

    def test_refusals_are_counted_by_their_code(self):
        before = self.metrics()
        ask("POST", "/falcon/drop", {"session": "a", "nothing": 1})
        ask("POST", "/falcon/next", {"session": "none", "cursor": 0, "wait_ms": 0})
        self.assertEqual(self.grown(before, 'requests_refused_total{code="bad_request"}', 'requests_refused_total{code="no_session"}',
                                    'requests_refused_total{code="too_many"}', "requests_total"), (1, 1, 0, 2))

    def test_prompts_that_were_computed_before_are_counted(self):
        before, text = self.metrics(), "The queen and the seven ravens. " * 20
        for _ in range(2):
            ask("POST", "/v1/completions", {"prompt": text, "max_tokens": 1})
        self.assertEqual(self.grown(before, "prompts_total", "prompts_cached_total"), (2, 1))
        self.assertGreater(self.grown(before, "cached_tokens_total")[0], 32)

    def test_pages_are_used_shared_and_free(self):
        def nobody_has_any():
            now = self.metrics()
            return now["falcond_pages_used"] == now["falcond_pages_shared"] == 0
        self.assertTrue(eventually(nobody_has_any))
        before = self.metrics()
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            run = c.generate("The fisherman and his wife. " * 20, session="pages", n=1)
            c.read("pages", run["cursor"])
            c.call("fork", session="pages", new="pages2", request_id="pages")
            between = self.grown(before, "pages_used", "pages_shared")
            self.assertGreater(between[1], 2)
            self.assertGreater(between[0], between[1])  # the last page of each is its own
            for name in "pages", "pages2":
                c.call("drop", session=name)
        self.assertTrue(eventually(nobody_has_any))
        now = self.metrics()
        self.assertEqual(now["falcond_pages_used"] + now["falcond_pages_free"], now["falcond_pages"])
        self.assertGreaterEqual(now["falcond_pages_kept"], between[1])

    def test_sessions_in_files_are_counted(self):
        before = self.metrics()  # `spill_after` is a second here
        with Client(os.environ["FALCOND_SOCKET"]) as c:
            run = c.generate("The golden bird. " * 20, session="filed", n=1)
            end = c.read("filed", run["cursor"])[2]
            self.assertTrue(eventually(lambda: any(s["where"] == "disk" for s in sessions())))
            self.assertGreaterEqual(self.grown(before, "sessions_spilled_total")[0], 1)
            run = c.call("append", session="filed", at=end, prompt=" And then", n=1)
            c.read("filed", run["cursor"])
            self.assertEqual(self.grown(before, "sessions_restored_total", "spill_failures_total"), (1, 0))
            c.call("drop", session="filed")

    def test_a_stream_of_events_tells_the_counters(self):
        c = UnixConnection()
        c.request("GET", "/falcon/events")
        r, events = c.getresponse(), []
        while len(events) < 3:
            line = r.readline()
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
        c.close()
        self.assertEqual([e["event"] for e in events], ["hello", "tick", "tick"])
        self.assertIn("decode", events[2]["tokens"])

    def test_administrators_hear_events_on_the_pub_socket(self):
        with pynng.Sub0(dial=os.environ["FALCOND_EVENTS"], topics=[b""], recv_timeout=20000) as sub:
            event = json.loads(sub.recv())
            self.assertEqual(event["event"], "tick")
            os.kill(event["engine"]["pid"], signal.SIGKILL)
            seen = set()
            while not {"engine_gone", "engine_ready"} <= seen:
                seen.add(json.loads(sub.recv())["event"])


class Plain(unittest.TestCase):
    def test_health_needs_no_rights(self):
        self.assertEqual(ask("GET", "/health"), (200, b'{"status":"ok"}\n'))

    def test_what_is_not_there_is_said(self):
        self.assertEqual(ask("GET", "/nothing")[0], 404)
        self.assertEqual(ask("GET", "/v1/completions")[0], 405)
        self.assertEqual(ask("POST", "/v1/completions", b'{"prompt":')[0], 400)
        self.assertEqual(ask("POST", "/v1/completions", b"[]")[0], 400)
        self.assertEqual(ask("POST", "/v1/completions", {"max_tokens": 1})[0], 400)
        self.assertEqual(ask("POST", "/falcon/nothing", {})[0], 400)

    def test_text_to_tokens_and_back(self):
        status, body = ask("POST", "/tokenize", {"content": PROMPT})
        tokens = json.loads(body)["tokens"]
        self.assertEqual(status, 200)
        self.assertEqual(json.loads(ask("POST", "/detokenize", {"tokens": tokens})[1])["content"], PROMPT)
        for path, body in (("tokenize", {"content": 1}), ("detokenize", {"tokens": [-1]}), ("falcon/detokenize", {"ids": [-1]})):
            self.assertEqual(json.loads(ask("POST", "/" + path, body)[1])["error"]["param"], next(iter(body)))

    def test_a_page_of_another_origin_is_refused(self):
        self.assertEqual(ask("GET", "/v1/models", headers={"Origin": "http://example.com"}, unix=False)[0], 403)
        self.assertEqual(ask("GET", "/v1/models", headers={"Origin": f"http://{ADDRESS}"}, unix=False)[0], 200)
        self.assertEqual(ask("GET", "/v1/models", headers={"Host": "example.com"}, unix=False)[0], 403)

    def test_a_body_that_is_too_large_is_refused_before_it_is_read(self):
        with socket.create_connection(ADDRESS.split(":"), timeout=30) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n{")
            self.assertIn(b"413", s.recv(4096).split(b"\r\n")[0])

    def test_a_client_that_hangs_up_ends_its_run(self):
        for stream in (True, False):
            for unix in (True, False):
                c = UnixConnection() if unix else http.client.HTTPConnection(ADDRESS, timeout=60)
                c.request("POST", "/v1/completions",
                          json.dumps({"prompt": PROMPT, "max_tokens": 2000, "stream": stream, "ignore_eos": True}))
                self.assertTrue(eventually(lambda: any(s["state"] == "running" for s in sessions())))
                c.sock.close() if not stream else (c.getresponse().read(20), c.close())
                self.assertTrue(eventually(lambda: sessions() == []), (stream, unix))

    def test_slow_and_half_open_clients_hold_nobody_up(self):
        idle = [socket.create_connection(ADDRESS.split(":"), timeout=30) for _ in range(40)]
        for i, s in enumerate(idle):
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"[: 10 + 2 * i])
        self.assertEqual(ask("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 2})[0], 200)
        for s in idle:
            s.close()

    def test_the_answers_to_pipelined_requests_come_in_order(self):
        with socket.create_connection(ADDRESS.split(":"), timeout=60) as s:
            for n in (3, 1, 2):
                body = json.dumps({"prompt": PROMPT, "max_tokens": n}).encode()
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            got = b""
            while got.count(b"completion_tokens") < 3:
                got += s.recv(65536)
            self.assertEqual([int(p.split(b",")[0]) for p in got.split(b'"completion_tokens":')[1:]], [3, 1, 2])


if __name__ == "__main__":
    unittest.main(verbosity=2)
