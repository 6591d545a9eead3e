# SPDX-License-Identifier: Apache-2.0
"""The protocol as a stranger sees it. $FALCOND_SOCKET names a falcond with the bundled model."""
import os
import random
import threading
import time
import unittest
import uuid

import pynng

from falcon_client import Client, Refused

URL = os.environ["FALCOND_SOCKET"]
PROMPTS = ["Once upon a time", "The king said to his daughter", "A wolf came out of the wood", "There was a poor tailor who"]


def alone(prompt, seed, n, **fields):
    """What a session says that has the daemon to itself."""
    with Client(URL) as c:
        run = c.generate(prompt, seed=seed, n=n, **fields)
        ids, text, _, _ = c.read(run["session"], run["cursor"])
        c.call("drop", session=run["session"])
        return ids, text


class Conversation(unittest.TestCase):
    def setUp(self):
        self.client = Client(URL)
        self.addCleanup(self.client.close)

    def refused(self, code, op, **fields):
        with self.assertRaises(Refused) as caught:
            self.client.call(op, **fields)
        self.assertEqual(caught.exception.args[0], code, caught.exception.args[1])

    def test_hello_tells_who_is_there(self):
        hello = self.client.call("hello")
        self.assertEqual(hello["protocol"], 1)
        self.assertEqual(hello["uid"], os.getuid())
        self.assertEqual((hello["context"], hello["vocab"]), (2048, 4096))
        self.assertEqual(hello["limits"]["message"], 1 << 20)

    def test_a_connection_dropped_in_mid_stream_loses_no_token(self):
        whole, text = alone(PROMPTS[0], 5, 60)
        run = self.client.generate(PROMPTS[0], seed=5, n=60)
        session, cursor = run["session"], run["cursor"]
        ids, words, finish = [], "", None
        while finish is None:
            with Client(URL) as other:  # a connection for each few tokens; the last of it is asked and never read
                some, piece, cursor, finish = other.read(session, cursor, tokens=random.randint(1, 9))
                other.socket.send(b'{"op":"next","session":"%s","cursor":%d,"wait_ms":30000}' % (session.encode(), cursor))
            ids += some
            words += piece
        self.assertEqual(ids, whole)
        self.assertEqual(words, text)
        self.client.call("drop", session=session)

    def test_a_lost_reply_is_asked_for_again(self):
        run = self.client.generate(PROMPTS[1], seed=5, n=20)
        ids, text, end, _ = self.client.read(run["session"], run["cursor"])
        self.assertEqual(self.client.read(run["session"], run["cursor"])[:3], (ids, text, end))
        self.assertEqual(self.client.read(run["session"], run["cursor"] + 7)[0], ids[7:])
        self.client.call("drop", session=run["session"])

    def test_a_request_that_arrives_twice_is_carried_out_once(self):
        first = self.client.generate(PROMPTS[0], request_id="twice-" + uuid.uuid4().hex, session="twice", n=5)
        self.refused("exists", "generate", session="twice", request_id="other", prompt="x")
        self.client.read("twice", first["cursor"])
        at = next(s["n_tokens"] for s in self.client.call("sessions")["sessions"] if s["session"] == "twice")
        one = self.client.call("append", session="twice", at=at, prompt=" and the", n=3)
        two = self.client.call("append", session="twice", at=at, prompt=" and the", n=3)
        self.assertEqual((one["cursor"], one["n_given"]), (two["cursor"], two["n_given"]))
        self.client.read("twice", one["cursor"])
        self.refused("at_mismatch", "append", session="twice", at=at, prompt="Something else altogether")
        self.refused("at_mismatch", "append", session="twice", at=at + 1000, prompt="x")
        fork = self.client.call("fork", session="twice", new="twin", request_id="fork-1")
        self.assertEqual(self.client.call("fork", session="twice", new="twin", request_id="fork-1"), fork)
        self.assertTrue(self.client.call("drop", session="twice")["dropped"])
        self.assertFalse(self.client.call("drop", session="twice")["dropped"])
        self.client.call("drop", session="twin")

    def test_the_same_generate_again_gets_the_first_reply_again(self):
        request = uuid.uuid4().hex
        first = self.client.generate(PROMPTS[2], request_id=request, n=5)
        again = self.client.generate(PROMPTS[2], request_id=request, n=5)
        for field in ("session", "cursor", "n_given", "seed"):
            self.assertEqual(first[field], again[field])
        self.client.call("drop", session=first["session"])

    def test_a_cancelled_run_ends_and_can_be_continued(self):
        run = self.client.generate(PROMPTS[3], n=1900, ignore_eos=True)
        self.client.read(run["session"], run["cursor"], tokens=3)
        end = self.client.call("cancel", session=run["session"])["cursor"]
        self.assertEqual(self.client.read(run["session"], run["cursor"])[3], "cancelled")
        more = self.client.call("append", session=run["session"], at=end, prompt=" and so", n=4)
        self.assertEqual(len(self.client.read(run["session"], more["cursor"])[0]), 4)
        self.client.call("drop", session=run["session"])

    def test_a_next_waits_no_longer_than_it_says(self):
        run = self.client.generate(PROMPTS[0], n=3)
        _, _, end, _ = self.client.read(run["session"], run["cursor"])
        begun = time.monotonic()
        self.assertTrue(self.client.call("next", session=run["session"], cursor=end, wait_ms=30000)["done"])
        self.assertLess(time.monotonic() - begun, 5)
        self.client.call("drop", session=run["session"])

    def test_scores_come_by_cursor(self):
        ids = self.client.call("tokenize", text="Once upon a time there was a king.")["ids"]
        score = self.client.call("score", request_id=uuid.uuid4().hex, ids=ids)
        self.assertEqual(score["n_tokens"], len(ids))
        cursor, logprobs, done = 0, [], False
        while not done:
            piece = self.client.call("next", session=score["session"], cursor=cursor, wait_ms=30000)
            self.assertEqual(len(piece["logprobs"]), min(piece["cursor"], len(ids) - 1) - cursor)
            logprobs += piece["logprobs"]
            cursor, done = piece["cursor"], piece["done"]
        self.assertTrue(all(p < 0 for p in logprobs))
        self.client.call("drop", session=score["session"])

    def test_text_is_any_unicode(self):
        text = "a\0b é😀\u200d\U0010fffd\n\n \t"
        ids = self.client.call("tokenize", text=text)["ids"]
        self.assertEqual(self.client.call("detokenize", ids=ids)["text"], text)

    def test_bad_messages_are_refused_and_the_daemon_goes_on(self):
        for message in (b"", b"[]", b"{", b'"x"', b'{"op":7}', b'{"op":"frob"}', b'{"op":"hello","x":1}', b"\xff\xfe", b"[" * 5000,
                        b'{"op":"tokenize","text":"\xff"}', b'{"op":"generate","request_id":"a","prompt":"x","n":1.0}',
                        b'{"op":"generate","request_id":"a","prompt":"x","ids":[1]}', b'{"op":"generate","request_id":"a"}',
                        b'{"op":"generate","request_id":"a","prompt":""}', b'{"op":"generate","prompt":"x"}',
                        b'{"op":"generate","request_id":"a","ids":[4096]}', b'{"op":"detokenize","ids":[-1]}'):
            with self.assertRaises(Refused) as caught:
                self.client.exchange(message)
            self.assertEqual(caught.exception.args[0], "bad_request", message)
        self.refused("no_session", "next", session="nothing", cursor=0)
        self.refused("no_session", "append", session="nothing", at=0, prompt="x")
        self.refused("no_session", "fork", session="nothing", request_id="x")
        self.refused("context_full", "generate", request_id=uuid.uuid4().hex, ids=[1] * 2049)
        with self.assertRaises(Refused) as caught:
            self.client.exchange(b" " * ((1 << 20) + 1))
        self.assertEqual(caught.exception.args[0], "too_large")
        self.assertEqual(self.client.call("hello")["protocol"], 1)

    def test_a_message_far_too_large_closes_only_its_own_connection(self):
        with Client(URL, timeout_ms=1000) as greedy:
            with self.assertRaises(pynng.exceptions.Timeout):
                greedy.exchange(b" " * (5 << 20))
        self.assertEqual(self.client.call("hello")["protocol"], 1)


class Crowd(unittest.TestCase):
    """Many at once, each of whom loses its connection in mid-stream."""

    def test_200_clients_at_once_each_have_every_token_once(self):
        wanted = {(p, seed): alone(PROMPTS[p], seed, 12) for p in range(len(PROMPTS)) for seed in range(2)}
        failures, ready = [], threading.Barrier(200)

        def one(number):
            key = (number % len(PROMPTS), number // len(PROMPTS) % 2)
            try:
                ready.wait()
                first = Client(URL, timeout_ms=100000)
                run = first.generate(PROMPTS[key[0]], seed=key[1], n=12)
                ids, text, cursor, finish = first.read(run["session"], run["cursor"], tokens=1 + number % 7)
                first.close()
                with Client(URL, timeout_ms=100000) as second:
                    if finish is None:
                        rest, more, _, finish = second.read(run["session"], cursor)
                        ids, text = ids + rest, text + more
                    second.call("drop", session=run["session"])
                if (ids, text) != wanted[key]:
                    failures.append(f"client {number}: {ids} {text!r} instead of {wanted[key]}")
            except Exception as e:  # told by the main thread
                failures.append(f"client {number}: {e!r}")

        threads = [threading.Thread(target=one, args=(i,)) for i in range(200)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(failures, [])
        with Client(URL) as c:
            self.assertEqual(c.call("sessions")["sessions"], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
