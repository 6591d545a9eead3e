// SPDX-License-Identifier: Apache-2.0
// Against the falcond of $FALCOND_SOCKET with its bundled model.
import assert from "node:assert/strict";
import test from "node:test";
import { Falcond, FalcondError } from "./falcond.js";

const PROMPT = "Once upon a time";
const falcon = new Falcond();
test.after(() => falcon.close());

test("a run streams, goes on and forks", async () => {
  const options = { n: 20, seed: 3, ignore_eos: true };
  const run = await falcon.generate(PROMPT, options);
  let text = "", ids = 0;
  for await (const piece of run) {
    text += piece.text;
    ids += piece.ids.length;
  }
  assert.deepEqual([ids, run.finish], [20, "length"]);
  const again = await falcon.generate(PROMPT, options);
  assert.equal(await again.text(), text);
  const half = await falcon.generate(PROMPT, { ...options, n: 10 }), begun = await half.text();
  assert.equal(begun + await (await half.append(null, { n: 10 })).text(), text);
  await half.drop();
  const twin = await run.fork();
  await Promise.all([run, twin].map((r) => r.append(" And", { n: 10 })));
  assert.equal(await run.text(), await twin.text());
  await Promise.all([run, again, twin].map((r) => r.drop()));
});

test("ids and conversations are prompts, too", async () => {
  const ids = await falcon.tokenize(PROMPT);
  assert.equal(await falcon.detokenize(ids), PROMPT);
  for (const prompt of [ids, [{ role: "user", content: PROMPT }]]) {
    const run = await falcon.generate(prompt, { n: 3 });
    await run.text();
    await run.drop();
  }
});

test("log-probabilities of a run are those of its score", async () => {
  const run = await falcon.generate(PROMPT, { n: 6, temp: 0, logprobs: 2 });
  const ids = [], logprobs = [], top = [];
  for await (const piece of run) {
    ids.push(...piece.ids);
    logprobs.push(...piece.logprobs);
    top.push(...piece.top_logprobs);
  }
  assert.deepEqual(top.map(([first]) => first), ids.map((id, i) => [id, logprobs[i]])); // greedy
  const score = await falcon.score([...(await falcon.tokenize(PROMPT)), ...ids], { logprobs: 2 });
  assert.deepEqual([score.logprobs.slice(run.n_given - 1), score.top_logprobs.slice(run.n_given - 1)], [logprobs, top]);
  assert.equal(score.logprobs.length, score.n_tokens - 1);
  await run.drop();
});

test("an embedding is that of the text's tokens", async () => {
  const vector = await falcon.embed(PROMPT);
  assert.ok(vector.length > 100 && vector.some((x) => x !== 0));
  assert.deepEqual(await falcon.embed(await falcon.tokenize(PROMPT)), vector);
  assert.notDeepEqual(await falcon.embed("Another text"), vector);
  assert.deepEqual(await falcon.sessions(), []);
});

test("what is refused has a code", async () => {
  await assert.rejects(falcon.call("next", { session: "nobody", cursor: 0 }), (e) => e instanceof FalcondError && e.code === "no_session");
});

test("a connection that was closed is told so", async () => {
  const closed = new Falcond();
  await closed.status();
  closed.close();
  await assert.rejects(closed.status(), /closed/);
});

test("a killed engine costs no token", async () => {
  const options = { n: 400, seed: 9, ignore_eos: true };
  const whole = await falcon.generate(PROMPT, options), expected = await whole.text();
  const run = await falcon.generate(PROMPT, options);
  process.kill((await falcon.status()).engine.pid, "SIGKILL");
  assert.equal(await run.text(), expected);
  await Promise.all([whole.drop(), run.drop()]);
});

test("many runs share a connection", async () => {
  const texts = await Promise.all(Array.from({ length: 20 }, async (_, i) => {
    const run = await falcon.generate(PROMPT, { n: 15, seed: i % 4 }), text = await run.text();
    await run.drop();
    return text;
  }));
  texts.forEach((text, i) => assert.equal(text, texts[i % 4]));
});
