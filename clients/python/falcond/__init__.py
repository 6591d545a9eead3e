# SPDX-License-Identifier: Apache-2.0
"""A client of falcond over nng.

    with Falcond() as falcon:
        for piece in falcon.generate("Once upon a time", n=100):
            print(piece.text, end="", flush=True)

A session lives in the daemon: go on with `run.append(...)`, branch with `run.fork()`, end it with `run.drop()`. Streaming is a cursor,
so a daemon that restarts, or a connection that breaks, costs a pause and no token. `logprobs=5` among the sampling has each piece tell
log-probabilities; `falcon.score(text)` tells a text's, `falcon.embed(text)` is its vector. `AsyncFalcond` is the same with await.
Every operation and field: docs/PROTOCOL.md.
"""
from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from typing import Any, AsyncIterator, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import pynng

__all__ = ["AsyncFalcond", "AsyncRun", "Falcond", "FalcondError", "Piece", "Run", "Score", "DEFAULT_URL"]

DEFAULT_URL = "ipc:///run/falcond/falcond.sock"
WAIT_MS = 30000  # of one `next`: the longest that falcond waits

Likeliest = List[Tuple[int, float]]  # (id, log-probability), in falling order
Prompt = Union[str, Sequence[int], Sequence[Mapping[str, str]]]


class FalcondError(Exception):
    """What falcond refused. code: as in docs/PROTOCOL.md, such as "no_session"; hint: what would be right, or ""."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code, self.message, self.hint = code, message, hint


@dataclass(frozen=True)
class Piece:
    """What is new of a run. finish: why it ended ("eos", "stop", "length", ...), None while it goes on.

    Of a run with `logprobs`, an item for each of ids: the natural logarithm of the model's own probability of it (None: unknown), and
    with `logprobs` above 0 the likeliest tokens in its place.
    """

    text: str
    ids: List[int] = field(default_factory=list)
    cursor: int = 0
    finish: Optional[str] = None
    logprobs: List[Optional[float]] = field(default_factory=list)
    top_logprobs: List[Likeliest] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """How likely the model finds a text of n_tokens: logprobs[i] is that of token i + 1, given all before it."""

    n_tokens: int
    logprobs: List[Optional[float]] = field(default_factory=list)
    top_logprobs: List[Likeliest] = field(default_factory=list)


def _request(op: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"op": op, **{k: v for k, v in fields.items() if v is not None}}).encode()


def _reply(message: bytes) -> Dict[str, Any]:
    reply = json.loads(message)
    if "error" in reply:
        e = reply["error"]
        raise FalcondError(e["code"], e["message"], e.get("hint", ""))
    return reply


def _prompt(prompt: Optional[Prompt]) -> Dict[str, Any]:
    """A text, token ids, or the messages of a conversation; or nothing."""
    if prompt is None:
        return {}
    if isinstance(prompt, str):
        return {"prompt": prompt}
    items = list(prompt)
    if items and isinstance(items[0], Mapping):
        return {"messages": [dict(m) for m in items]}  # type: ignore[arg-type]
    return {"ids": items}


def _top(reply: Mapping[str, Any]) -> List[Likeliest]:
    return [[(token, logprob) for token, logprob in likeliest] for likeliest in reply.get("top_logprobs", [])]


def _piece(reply: Mapping[str, Any]) -> Piece:
    return Piece(reply["text"], reply["ids"], reply["cursor"], reply.get("finish"), reply.get("logprobs", []), _top(reply))


class _Reading:
    """What is computed of a whole text, reply by reply: a score, or (at the end alone) an embedding."""

    def __init__(self, made: Mapping[str, Any]) -> None:
        self.session: str = made["session"]
        self.score = Score(made["n_tokens"])
        self.embedding: List[float] = []
        self.done = False
        self._cursor = 0

    def question(self) -> Dict[str, Any]:
        return {"session": self.session, "cursor": self._cursor, "wait_ms": WAIT_MS}

    def take(self, reply: Mapping[str, Any]) -> None:
        self.score.logprobs.extend(reply.get("logprobs", []))
        self.score.top_logprobs.extend(_top(reply))
        self.embedding = reply.get("embedding", [])
        self.done = reply["done"]
        if "logprobs" in reply:  # an embedding is asked for by cursor 0 until it is there
            self._cursor = reply["cursor"]
        if self.done and reply.get("finish") != "length":
            raise FalcondError("engine_failed", "the text could not be computed to its end")


def _socket(url: Optional[str], timeout: Optional[float]) -> pynng.Req0:
    ms = -1 if timeout is None else int(timeout * 1000)
    socket = pynng.Req0(recv_timeout=ms, send_timeout=ms, reconnect_time_min=10, reconnect_time_max=100)
    socket.resend_time = 1000  # a falcond that restarted never saw the request; asking twice is harmless
    socket.dial(url or os.environ.get("FALCOND_SOCKET", DEFAULT_URL), block=timeout is not None)
    return socket


class Run:
    """A run of a session, and its pieces by iteration. Reading again begins where the last reading ended."""

    def __init__(self, client: "Falcond", reply: Mapping[str, Any]) -> None:
        self._client = client
        self._take(reply)

    def _take(self, reply: Mapping[str, Any]) -> None:
        self.session: str = reply["session"]
        self.cursor: int = reply["cursor"]
        self.n_given: int = reply.get("n_given", reply["cursor"])
        self.n_cached: int = reply.get("n_cached", 0)
        self.seed: Optional[int] = reply.get("seed")
        self.finish: Optional[str] = None

    def __iter__(self) -> Iterator[Piece]:
        while self.finish is None:
            piece = _piece(self._client.call("next", session=self.session, cursor=self.cursor, wait_ms=WAIT_MS))
            self.cursor, self.finish = piece.cursor, piece.finish
            if piece.text or piece.ids or piece.finish:
                yield piece

    def text(self) -> str:
        """All that is still to come."""
        return "".join(piece.text for piece in self)

    def append(self, prompt: Optional[Prompt] = None, **sampling: Any) -> "Run":
        """Goes on with more text, or where it ended, once the run is over; sampling that is left out stays as it was."""
        self._take(self._client.call("append", session=self.session, at=self.cursor, **_prompt(prompt), **sampling))
        return self

    def fork(self, name: Optional[str] = None, seed: Optional[int] = None) -> "Run":
        """A second session with the same tokens, sharing what is computed."""
        return Run(self._client, self._client.call("fork", session=self.session, request_id=uuid.uuid4().hex, new=name, seed=seed))

    def cancel(self) -> None:
        self._client.call("cancel", session=self.session)

    def drop(self) -> None:
        self._client.call("drop", session=self.session)


class Falcond:
    """A connection, for one thread at a time. url: $FALCOND_SOCKET, else the system's. timeout: seconds that one reply is waited for, None: for ever."""

    def __init__(self, url: Optional[str] = None, timeout: Optional[float] = 60) -> None:
        self._socket = _socket(url, timeout)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Falcond":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, op: str, **fields: Any) -> Dict[str, Any]:
        """Any operation of the protocol; fields that are None are left out. Raises FalcondError."""
        self._socket.send(_request(op, fields))
        return _reply(self._socket.recv())

    def generate(self, prompt: Prompt, session: Optional[str] = None, **sampling: Any) -> Run:
        """Starts a session: n, temp, top_k, top_p, min_p, seed, stop, template, logprobs ... as in docs/PROTOCOL.md."""
        return Run(self, self.call("generate", request_id=uuid.uuid4().hex, session=session, **_prompt(prompt), **sampling))

    def _read(self, op: str, prompt: Prompt, fields: Mapping[str, Any]) -> _Reading:
        reading = _Reading(self.call(op, request_id=uuid.uuid4().hex, **_prompt(prompt), **fields))
        try:
            while not reading.done:
                reading.take(self.call("next", **reading.question()))
        finally:
            self.call("drop", session=reading.session)
        return reading

    def score(self, prompt: Prompt, logprobs: Optional[int] = None) -> Score:
        """How likely a text, or ids, are; with `logprobs` above 0 also so many of the likeliest tokens in each place."""
        return self._read("score", prompt, {"logprobs": logprobs}).score

    def embed(self, prompt: Prompt, priority: Optional[str] = None) -> List[float]:
        """A text, or ids, as a vector: the mean of the last hidden states, not scaled to any length."""
        return self._read("embed", prompt, {"priority": priority}).embedding

    def tokenize(self, text: str, special: bool = True) -> List[int]:
        return self.call("tokenize", text=text, special=special)["ids"]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.call("detokenize", ids=list(ids))["text"]

    def sessions(self) -> List[Dict[str, Any]]:
        return self.call("sessions")["sessions"]

    def status(self) -> Dict[str, Any]:
        return self.call("status")


class AsyncRun(Run):
    """A run whose pieces come by `async for`."""

    _client: "AsyncFalcond"  # type: ignore[assignment]

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while self.finish is None:
            piece = _piece(await self._client.call("next", session=self.session, cursor=self.cursor, wait_ms=WAIT_MS))
            self.cursor, self.finish = piece.cursor, piece.finish
            if piece.text or piece.ids or piece.finish:
                yield piece

    async def text(self) -> str:  # type: ignore[override]
        return "".join([piece.text async for piece in self])

    async def append(self, prompt: Optional[Prompt] = None, **sampling: Any) -> "AsyncRun":  # type: ignore[override]
        self._take(await self._client.call("append", session=self.session, at=self.cursor, **_prompt(prompt), **sampling))
        return self

    async def fork(self, name: Optional[str] = None, seed: Optional[int] = None) -> "AsyncRun":  # type: ignore[override]
        reply = await self._client.call("fork", session=self.session, request_id=uuid.uuid4().hex, new=name, seed=seed)
        return AsyncRun(self._client, reply)  # type: ignore[arg-type]

    async def cancel(self) -> None:  # type: ignore[override]
        await self._client.call("cancel", session=self.session)

    async def drop(self) -> None:  # type: ignore[override]
        await self._client.call("drop", session=self.session)


class AsyncFalcond:
    """The same for asyncio; any number of tasks may use one, each question has a context of its own."""

    def __init__(self, url: Optional[str] = None, timeout: Optional[float] = 60) -> None:
        self._socket = _socket(url, timeout)

    def close(self) -> None:
        self._socket.close()

    async def __aenter__(self) -> "AsyncFalcond":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def call(self, op: str, **fields: Any) -> Dict[str, Any]:
        with self._socket.new_context() as context:
            await context.asend(_request(op, fields))
            return _reply(await context.arecv())

    async def generate(self, prompt: Prompt, session: Optional[str] = None, **sampling: Any) -> AsyncRun:
        reply = await self.call("generate", request_id=uuid.uuid4().hex, session=session, **_prompt(prompt), **sampling)
        return AsyncRun(self, reply)  # type: ignore[arg-type]

    async def _read(self, op: str, prompt: Prompt, fields: Mapping[str, Any]) -> _Reading:
        reading = _Reading(await self.call(op, request_id=uuid.uuid4().hex, **_prompt(prompt), **fields))
        try:
            while not reading.done:
                reading.take(await self.call("next", **reading.question()))
        finally:
            await self.call("drop", session=reading.session)
        return reading

    async def score(self, prompt: Prompt, logprobs: Optional[int] = None) -> Score:
        return (await self._read("score", prompt, {"logprobs": logprobs})).score

    async def embed(self, prompt: Prompt, priority: Optional[str] = None) -> List[float]:
        return (await self._read("embed", prompt, {"priority": priority})).embedding

    async def tokenize(self, text: str, special: bool = True) -> List[int]:
        return (await self.call("tokenize", text=text, special=special))["ids"]

    async def detokenize(self, ids: Sequence[int]) -> str:
        return (await self.call("detokenize", ids=list(ids)))["text"]

    async def sessions(self) -> List[Dict[str, Any]]:
        return (await self.call("sessions"))["sessions"]

    async def status(self) -> Dict[str, Any]:
        return await self.call("status")
