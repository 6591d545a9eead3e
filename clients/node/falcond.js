// SPDX-License-Identifier: Apache-2.0
/**
 * A client of falcond for Node, without dependencies: it speaks the REQ side of nanomsg's scalability protocols over a Unix socket.
 *
 *     const falcon = new Falcond();
 *     const run = await falcon.generate("Once upon a time", { n: 100 });
 *     for await (const piece of run) process.stdout.write(piece.text);
 *     falcon.close();
 *
 * A session lives in the daemon; streaming is a cursor, so a daemon that restarts costs a pause and no token. Every operation and
 * field: docs/PROTOCOL.md.
 */
import { randomUUID } from "node:crypto";
import { connect } from "node:net";

export const DEFAULT_URL = "ipc:///run/falcond/falcond.sock";
const WAIT_MS = 30000; // of one `next`: the longest that falcond waits
const GREETING = Buffer.from([0, 0x53, 0x50, 0, 0, 0x30, 0, 0]); // SP version 0, protocol REQ
const REPLIER = 0x31;
const HEAD = 9; // of a frame over ipc: a byte 1, then the length as 64 bits, big endian
const ID_BYTES = 4;

/** What falcond refused. code: as in docs/PROTOCOL.md, such as "no_session"; hint: what would be right, or "". */
export class FalcondError extends Error {
  constructor({ code, message, hint }) {
    super(hint ? `${message} (${hint})` : message);
    Object.assign(this, { name: "FalcondError", code, hint });
  }
}

/** A connection. Any number of questions may be open; what was not answered when it breaks is asked again on the next one. */
export class Falcond {
  #path;
  #timeout;
  #socket = null;
  #greeted = false;
  #input = Buffer.alloc(0);
  #open = new Map(); // id -> { message, resolve, reject, timer }
  #next = 1;
  #closed = false;

  /** url: default $FALCOND_SOCKET, else the system's. timeout: milliseconds that one reply is waited for. */
  constructor(url = process.env.FALCOND_SOCKET ?? DEFAULT_URL, { timeout = 60000 } = {}) {
    if (!url.startsWith("ipc://")) throw new TypeError(`${url}: expected ipc:// and a path`);
    this.#path = url.slice("ipc://".length);
    this.#timeout = timeout;
  }

  close() {
    this.#closed = true;
    this.#socket?.destroy();
    for (const q of this.#open.values()) this.#settle(q, q.reject, new Error("the connection was closed"));
    this.#open.clear();
  }

  /** Any operation of the protocol. Rejects with FalcondError. */
  call(op, fields = {}) {
    if (this.#closed) return Promise.reject(new Error("the connection was closed"));
    const id = this.#next;
    this.#next = (id % 0x7fffffff) + 1;
    const body = Buffer.from(JSON.stringify({ op, ...fields }));
    const message = Buffer.alloc(HEAD + ID_BYTES + body.length);
    message[0] = 1;
    message.writeBigUInt64BE(BigInt(ID_BYTES + body.length), 1);
    message.writeUInt32BE((0x80000000 | id) >>> 0, HEAD); // the high bit ends the list of ids
    body.copy(message, HEAD + ID_BYTES);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#open.delete(id);
        reject(new Error(`no reply from ${this.#path} within ${this.#timeout} ms`));
      }, this.#timeout);
      this.#open.set(id, { message, resolve, reject, timer });
      if (this.#greeted) this.#socket.write(message);
      else this.#connect();
    });
  }

  #settle(q, how, value) {
    clearTimeout(q.timer);
    how(value);
  }

  #connect() {
    if (this.#socket || this.#closed) return;
    this.#input = Buffer.alloc(0);
    this.#greeted = false;
    this.#socket = connect(this.#path, () => this.#socket.write(GREETING));
    this.#socket.on("data", (bytes) => this.#read(bytes));
    this.#socket.on("error", () => {});
    this.#socket.on("close", () => {
      this.#socket = null;
      this.#greeted = false;
      if (this.#open.size > 0) setTimeout(() => this.#connect(), 10);
    });
  }

  #read(bytes) {
    this.#input = Buffer.concat([this.#input, bytes]);
    if (!this.#greeted) {
      if (this.#input.length < GREETING.length) return;
      if (this.#input.readUInt32BE(0) !== 0x00535000 || this.#input[5] !== REPLIER) return void this.#socket.destroy();
      this.#input = this.#input.subarray(GREETING.length);
      this.#greeted = true;
      for (const q of this.#open.values()) this.#socket.write(q.message);
    }
    while (this.#input.length >= HEAD) {
      const length = Number(this.#input.readBigUInt64BE(1));
      if (this.#input.length < HEAD + length) return;
      this.#reply(this.#input.subarray(HEAD, HEAD + length));
      this.#input = this.#input.subarray(HEAD + length);
    }
  }

  #reply(message) {
    const id = message.readUInt32BE(0) & 0x7fffffff, q = this.#open.get(id);
    if (!q) return; // it was given up
    this.#open.delete(id);
    const reply = JSON.parse(message.subarray(ID_BYTES).toString());
    if (reply.error) this.#settle(q, q.reject, new FalcondError(reply.error));
    else this.#settle(q, q.resolve, reply);
  }

  /** Starts a session. prompt: a text, token ids, or messages {role, content}; options: n, temp, seed, stop, logprobs, session ... */
  async generate(prompt, options = {}) {
    return new Run(this, await this.call("generate", { request_id: randomUUID(), ...promptFields(prompt), ...options }));
  }

  /**
   * How likely a text, or ids, are: {n_tokens, logprobs, top_logprobs}. logprobs[i] is the natural logarithm of the probability of token
   * i + 1 given all before it; with options.logprobs above 0, top_logprobs[i] has so many of the likeliest in its place, as [id, logprob].
   */
  async score(prompt, options = {}) {
    const score = { n_tokens: 0, logprobs: [], top_logprobs: [] };
    score.n_tokens = await this.#readWhole("score", prompt, options, (reply) => {
      score.logprobs.push(...reply.logprobs);
      score.top_logprobs.push(...(reply.top_logprobs ?? []));
      return reply.cursor;
    });
    return score;
  }

  /** A text, or ids, as an array of numbers: the mean of the last hidden states, not scaled to any length. */
  async embed(prompt, options = {}) {
    let embedding;
    await this.#readWhole("embed", prompt, options, (reply) => {
      embedding = reply.embedding;
      return 0; // until it is there
    });
    return embedding;
  }

  /** Has op compute a whole text and gives `take` each reply; what it returns is the next cursor. The number of the text's tokens. */
  async #readWhole(op, prompt, options, take) {
    const { session, n_tokens } = await this.call(op, { request_id: randomUUID(), ...promptFields(prompt), ...options });
    try {
      for (let cursor = 0, done = false; !done;) {
        const reply = await this.call("next", { session, cursor, wait_ms: WAIT_MS });
        cursor = take(reply);
        done = reply.done;
        if (done && reply.finish !== "length") throw new FalcondError({ code: "engine_failed", message: "the text could not be computed to its end" });
      }
    } finally {
      await this.call("drop", { session });
    }
    return n_tokens;
  }

  async tokenize(text) { return (await this.call("tokenize", { text })).ids; }
  async detokenize(ids) { return (await this.call("detokenize", { ids })).text; }
  async sessions() { return (await this.call("sessions")).sessions; }
  status() { return this.call("status"); }
}

function promptFields(prompt) {
  if (prompt == null) return {};
  if (typeof prompt === "string") return { prompt };
  return typeof prompt[0] === "object" ? { messages: prompt } : { ids: prompt };
}

/**
 * A run of a session; `for await` gives its pieces {text, ids, cursor, finish?}, from where it was read last. Of a run with the option
 * `logprobs` they have `logprobs`, a number for each of ids, and with it above 0 `top_logprobs`, for each so many [id, logprob].
 */
export class Run {
  constructor(falcon, reply) {
    this.falcon = falcon;
    this.#take(reply);
  }

  #take({ session, cursor, n_given, n_cached, seed }) {
    Object.assign(this, { session, cursor, n_given, n_cached, seed, finish: null });
  }

  async *[Symbol.asyncIterator]() {
    while (this.finish === null) {
      const piece = await this.falcon.call("next", { session: this.session, cursor: this.cursor, wait_ms: WAIT_MS });
      this.cursor = piece.cursor;
      this.finish = piece.finish ?? null;
      yield piece;
    }
  }

  /** All that is still to come. */
  async text() {
    let all = "";
    for await (const piece of this) all += piece.text;
    return all;
  }

  /** Goes on with more text, or where it ended (null), once the run is over; options that are left out stay as they were. */
  async append(prompt, options = {}) {
    this.#take(await this.falcon.call("append", { session: this.session, at: this.cursor, ...promptFields(prompt), ...options }));
    return this;
  }

  /** A second session with the same tokens, sharing what is computed. */
  async fork(options = {}) {
    return new Run(this.falcon, await this.falcon.call("fork", { session: this.session, request_id: randomUUID(), ...options }));
  }

  cancel() { return this.falcon.call("cancel", { session: this.session }); }
  drop() { return this.falcon.call("drop", { session: this.session }); }
}
