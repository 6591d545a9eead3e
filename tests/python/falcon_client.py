# SPDX-License-Identifier: Apache-2.0
"""A client of falcond that knows docs/PROTOCOL.md and nothing else: one JSON object each way over an nng REQ socket."""
import json
import uuid

import pynng


class Refused(Exception):
    """The daemon's error: args are its code and its message."""


class Client:
    """A connection. timeout_ms bounds how long one reply is waited for; without `block` a falcond that is not there yet is, too."""

    def __init__(self, url, timeout_ms=60000, block=True):
        self.socket = pynng.Req0(recv_timeout=timeout_ms, send_timeout=timeout_ms, reconnect_time_min=10)
        self.socket.dial(url, block=block)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, op, **fields):
        """The reply to one operation. Fields that are None are left out."""
        request = {"op": op, **{name: value for name, value in fields.items() if value is not None}}
        return self.exchange(json.dumps(request).encode())

    def exchange(self, message):
        """The reply to a message of any bytes."""
        self.socket.send(message)
        reply = json.loads(self.socket.recv())
        if "error" in reply:
            raise Refused(reply["error"]["code"], reply["error"]["message"])
        return reply

    def generate(self, prompt=None, request_id=None, **fields):
        return self.call("generate", request_id=request_id or uuid.uuid4().hex, prompt=prompt, **fields)

    def read(self, session, cursor, tokens=None):
        """(ids, text, cursor, finish) of what comes behind the cursor: to the run's end, or until `tokens` have come."""
        ids, text, finish = [], "", None
        while finish is None and (tokens is None or len(ids) < tokens):
            piece = self.call("next", session=session, cursor=cursor, wait_ms=30000)
            assert piece["cursor"] - cursor == len(piece["ids"]), "a token a position"
            ids += piece["ids"]
            text += piece["text"]
            cursor = piece["cursor"]
            if piece["done"]:
                finish = piece["finish"]
        return ids, text, cursor, finish
