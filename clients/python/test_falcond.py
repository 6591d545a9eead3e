# SPDX-License-Identifier: Apache-2.0
"""Against the falcond of $FALCOND_SOCKET with its bundled model."""
import asyncio
import os
import signal
import unittest

from falcond import AsyncFalcond, Falcond, FalcondError

PROMPT = "Once upon a time"


class Sync(unittest.TestCase):
    def setUp(self):
        self.falcon = Falcond()
        self.addCleanup(self.falcon.close)

    def test_a_run_streams_goes_on_and_forks(self):
        run = self.falcon.generate(PROMPT, n=20, seed=3, ignore_eos=True)
        pieces = list(run)
        self.assertEqual(sum(len(p.ids) for p in pieces), 20)
        self.assertEqual(run.finish, "length")
        again = self.falcon.generate(PROMPT, n=20, seed=3, ignore_eos=True)
        self.assertEqual(again.text(), "".join(p.text for p in pieces))
        half = self.falcon.generate(PROMPT, n=10, seed=3, ignore_eos=True)
        self.assertEqual(half.text() + half.append(n=10).text(), "".join(p.text for p in pieces))
        half.drop()
        twin = run.fork()
        first, second = run.append(" And", n=10).text(), twin.append(" And", n=10).text()
        self.assertEqual(first, second)
        for r in (run, again, twin):
            r.drop()
        self.assertEqual(self.falcon.sessions(), [])

    def test_a_conversation_and_ids_are_prompts_too(self):
        run = self.falcon.generate([{"role": "user", "content": PROMPT}], n=5)
        self.assertTrue(run.text())
        run.drop()
        ids = self.falcon.tokenize(PROMPT)
        self.assertEqual(self.falcon.detokenize(ids), PROMPT)
        run = self.falcon.generate(ids, n=5)
        self.assertEqual(run.n_given, len(ids))
        run.drop()

    def test_log_probabilities_of_a_run_are_those_of_its_score(self):
        run = self.falcon.generate(PROMPT, n=6, temp=0, logprobs=2)
        pieces = list(run)
        ids = [i for p in pieces for i in p.ids]
        logprobs = [x for p in pieces for x in p.logprobs]
        top = [likeliest for p in pieces for likeliest in p.top_logprobs]
        self.assertEqual([likeliest[0] for likeliest in top], list(zip(ids, logprobs)))  # greedy
        self.assertTrue(all(len(likeliest) == 2 and likeliest[0][1] >= likeliest[1][1] for likeliest in top))
        score = self.falcon.score(self.falcon.tokenize(PROMPT) + ids, logprobs=2)
        self.assertEqual((score.logprobs[run.n_given - 1:], score.top_logprobs[run.n_given - 1:]), (logprobs, top))
        self.assertEqual(len(score.logprobs), score.n_tokens - 1)
        run.drop()
        self.assertEqual(next(iter(self.falcon.generate(PROMPT, session="plain", n=1))).logprobs, [])
        self.falcon.call("drop", session="plain")

    def test_an_embedding_is_that_of_the_texts_tokens(self):
        vector = self.falcon.embed(PROMPT)
        self.assertGreater(len(vector), 100)
        self.assertTrue(any(vector))
        self.assertEqual(self.falcon.embed(self.falcon.tokenize(PROMPT)), vector)
        self.assertNotEqual(self.falcon.embed("Another text"), vector)
        self.assertEqual(self.falcon.sessions(), [])

    def test_what_is_refused_is_an_error_with_a_code(self):
        with self.assertRaises(FalcondError) as caught:
            self.falcon.call("next", session="nobody", cursor=0)
        self.assertEqual(caught.exception.code, "no_session")

    def test_a_killed_engine_costs_no_token(self):
        whole = self.falcon.generate(PROMPT, n=400, seed=9, ignore_eos=True)
        expected = whole.text()
        run = self.falcon.generate(PROMPT, n=400, seed=9, ignore_eos=True)
        text = ""
        for piece in run:
            if not text:
                os.kill(self.falcon.status()["engine"]["pid"], signal.SIGKILL)
            text += piece.text
        self.assertEqual(text, expected)
        whole.drop()
        run.drop()


class Async(unittest.IsolatedAsyncioTestCase):
    async def test_many_runs_share_a_connection(self):
        async with AsyncFalcond() as falcon:
            async def tell(seed):
                run = await falcon.generate(PROMPT, n=15, seed=seed)
                text = await run.text()
                await run.drop()
                return text
            first = await asyncio.gather(*(tell(s % 4) for s in range(20)))
            self.assertEqual(first[:4] * 5, first)
            vectors = await asyncio.gather(*(falcon.embed(PROMPT) for _ in range(5)))
            self.assertEqual(vectors, [vectors[0]] * 5)
            score = await falcon.score(PROMPT)
            self.assertEqual((len(score.logprobs), score.top_logprobs), (score.n_tokens - 1, []))
            self.assertEqual(await falcon.sessions(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
