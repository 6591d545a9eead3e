# SPDX-License-Identifier: Apache-2.0
"""What takes minutes: hundreds of deaths under many streams, deaths in the middle of writing sessions, ten thousand sessions.

usage: soak.py [deaths|writes|crowd|leaks]...     in a build folder; srcdir is the source's, and Python must have pynng, for crowd gguf too

A run prints its seed; FALCON_SEED=N repeats its choices (not the machine's timing). FALCON_MODEL=FILE takes another model than the
bundled one, and for crowd than one of random weights in the shape of Falcon with 350 million parameters and 8,192 positions.
"""
import collections
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = os.environ.get("srcdir", ".")
sys.path.insert(0, os.path.join(SOURCE, "tests", "python"))
from falcon_client import Client  # noqa: E402

MODEL = os.environ.get("FALCON_MODEL") or os.path.join(SOURCE, "models", "falcon-tales.Q8_0.gguf")
PROMPTS = ["Once upon a time", "The king said to his daughter", "A wolf came out of the wood", "There was a poor tailor who"]
STREAMS, TOKENS, DEATHS = 32, 300, 200
WRITERS, WRITES = 12, 40
CLIENTS, SESSIONS, OTHERS, FIRST = 1000, 10000, 4000, 200
VOCABULARY = 65024


class Falcond:
    """A falcond of its own, started again over the same folders as often as wanted."""

    def __init__(self, *options, segments=False, model=MODEL):
        self.folder = tempfile.mkdtemp()
        self.segments = tempfile.mkdtemp(dir="/dev/shm") if segments else None
        self.path = f"{self.folder}/s"
        self.url = f"ipc://{self.path}"
        self.options = ["--model", model, *options, *(["--segments", self.segments] if segments else [])]
        self.start()

    def start(self):
        with open(f"{self.folder}/log", "a") as log:
            self.process = subprocess.Popen(["./falcond", "-c", "/dev/null", "--socket", self.url, *self.options], stderr=log)
        subprocess.run(["./falconctl", "-s", self.url, "--wait", "60", "status"], stdout=subprocess.DEVNULL, check=True)

    def end(self):
        self.process.terminate()
        status = self.process.wait()
        if status != 0:
            with open(f"{self.folder}/log") as log:
                sys.exit(f"falcond ended with {status}; its log:\n{log.read()[-8000:]}")
        shutil.rmtree(self.folder)
        if self.segments:
            shutil.rmtree(self.segments)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def engine(self):
        """The engine's pid, once there is one."""
        with Client(self.url) as c:
            while not (pid := c.call("status")["engine"]["pid"]):
                time.sleep(0.001)
            return pid

    def memory(self):
        """Bytes of falcond and its engine together: what is their own, and the board, which they share."""
        return sum(kilobytes for pid in (self.process.pid, self.engine()) for name, kilobytes in proportions(pid).items()
                   if name in ("", "[heap]") or "falcon-board" in name) * 1024


def proportions(pid):
    """Kilobytes of a process by what is mapped (path, or ""): the Pss of /proc/PID/smaps."""
    sizes, name = collections.Counter(), ""
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            field = line.split()
            if not field[0].endswith(":"):
                name = " ".join(field[5:])
            elif field[0] == "Pss:":
                sizes[name] += int(field[1])
    return sizes


def client(url):
    c = Client(url, timeout_ms=120000, block=False)
    c.socket.resend_time = 500  # a falcond that died never saw it
    return c


def sessions_of(c):
    return c.call("sessions")["sessions"]


def tell(c, names):
    """What numbers {i: session} always say, all at once: a list of ids each."""
    runs = [c.generate(f"{PROMPTS[i % len(PROMPTS)]} ", session=name, seed=i, n=TOKENS, temp=1, ignore_eos=True)
            for i, name in names.items()]
    said = [c.read(run["session"], run["cursor"]) for run in runs]
    assert all(finish == "length" for _, _, _, finish in said)
    return [ids for ids, _, _, _ in said]


class Stream(threading.Thread):
    """Says the same again and again until it is told that it is over, or says something else."""
    over = threading.Event()

    def __init__(self, url, number, expected):
        super().__init__()
        self.url, self.number, self.expected = url, number, expected
        self.rounds, self.wrong = 0, None
        self.start()

    def run(self):
        try:
            while not self.over.is_set() and self.wrong is None:
                name = f"killed-{self.number}-{self.rounds}"
                with client(self.url) as c:
                    [said] = tell(c, {self.number: name})
                    c.call("drop", session=name)
                if said != self.expected:
                    self.wrong = (name, said, self.expected)
                self.rounds += 1
        except Exception as e:  # the main thread tells it
            self.wrong = (self.number, repr(e))


def deaths(rng):
    """SIGKILL at random moments, of the engine and of falcond, under streams that notice nothing."""
    d = Falcond(segments=True)
    with client(d.url) as c:
        quiet = [tell(c, {i: f"quiet-{i}"})[0] for i in range(STREAMS)]
    streams = [Stream(d.url, i, expected) for i, expected in enumerate(quiet)]
    engines = falconds = 0
    while engines + falconds < DEATHS and not any(s.wrong for s in streams):
        time.sleep(rng.uniform(0.02, 0.3))
        if rng.random() < 0.5:
            os.kill(d.engine(), signal.SIGKILL)
            engines += 1
        else:
            d.kill()
            d.start()
            falconds += 1
    Stream.over.set()
    for s in streams:
        s.join()
        assert s.wrong is None, s.wrong
        assert s.rounds > 0
    d.end()
    print(f"deaths: {engines} engines and {falconds} falconds killed under {STREAMS} streams; {sum(s.rounds for s in streams)} times "
          f"{TOKENS} tokens, all of them those of an undisturbed stream")


def expect_whole(c, name, expected):
    """A session that was read from a file goes on as one that never was in a file."""
    i = int(name.split("-")[1])
    c.call("fork", session=name, request_id=f"f-{i}", new=f"f-{i}")
    log = c.call("tokenize", text=f"{PROMPTS[i % len(PROMPTS)]} ")["ids"] + expected
    warm = c.call("append", session=f"f-{i}", at=len(log), ids=[5], n=20, ignore_eos=True)
    cold = c.generate(ids=[*log, 5], session=f"c-{i}", n=20, ignore_eos=True, seed=i, temp=1)
    assert c.read(f"f-{i}", warm["cursor"]) == c.read(f"c-{i}", cold["cursor"]), name
    for session in (f"f-{i}", f"c-{i}"):
        c.call("drop", session=session)


def writes(rng):
    """Killed while it writes its sessions: each file is whole or not there, and whatever is there goes on with the same bytes."""
    state = tempfile.mkdtemp()
    d = Falcond("--state", state)
    names = {i: f"s-{i}" for i in range(WRITERS)}
    with client(d.url) as c:
        expected = tell(c, names)
    began = time.monotonic()
    d.process.terminate()
    d.process.wait()
    takes = time.monotonic() - began  # a stop that writes all of them
    kept = parts = 0
    for _ in range(WRITES):
        d.start()
        with client(d.url) as c:
            for s in sessions_of(c):
                c.call("drop", session=s["session"])
            assert tell(c, names) == expected
        d.process.terminate()
        time.sleep(rng.uniform(0, takes))
        d.kill()
        d.start()
        with client(d.url) as c:
            there = [s["session"] for s in sessions_of(c)]
            for name in there:
                expect_whole(c, name, expected[int(name.split("-")[1])])
        kept += len(there)
        parts += 0 < len(there) < WRITERS
        d.kill()
    assert parts > 0, "it was never killed between two files"
    d.start()
    d.end()
    shutil.rmtree(state)
    print(f"writes: killed {WRITES} times while {WRITERS} sessions were written, {parts} times when some were and others not; {kept} of "
          f"{WRITES * WRITERS} were whole, and went on as sessions that never were in a file")


class Plain:
    """A client of a few bytes: what nng's REQ says over ipc://, a greeting and then frames (type, length, request id, body)."""
    GREETING = bytes([0, *b"SP", 0, 0, 0x30, 0, 0])

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.sendall(self.GREETING)
        assert self.take(len(self.GREETING))[1:3] == b"SP"

    def take(self, n):
        got = b""
        while len(got) < n:
            piece = self.socket.recv(n - len(got))
            assert piece, "falcond closed the connection"
            got += piece
        return got

    def call(self, op):
        body = struct.pack(">I", 0x80000001) + json.dumps({"op": op}).encode()
        self.socket.sendall(struct.pack(">BQ", 1, len(body)) + body)
        _, length = struct.unpack(">BQ", self.take(9))
        return json.loads(self.take(length)[4:])


def tokenizer(path):
    """Writes a tokenizer.json of as many tokens as Falcon's has: the bytes, then pairs of them, one of which a merge makes."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    alphabet = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]
    vocabulary = [*alphabet, *(a + b for a in alphabet for b in alphabet)][:VOCABULARY]
    with open(path, "w") as f:
        json.dump({"model": {"vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": [" ".join(alphabet[:2])]},
                   "added_tokens": []}, f)


def random_model(folder):
    """A GGUF file of random weights with one key/value head: what an idle session costs depends on the shape alone."""
    path = f"{folder}/350m.gguf"
    tokenizer(f"{folder}/tokenizer.json")
    subprocess.run([sys.executable, os.path.join(SOURCE, "bench", "random-gguf.py"), path, "350m", "q4_0", f"{folder}/tokenizer.json"],
                   check=True)
    return path


def make(c, prefix, n):
    """Sessions that begin alike, with a token or two of their own each, as under one long system prompt. Returns tokens of one."""
    common = [7 + i * 31 % 2000 for i in range(480)]
    for first in range(0, n, 200):
        runs = [c.generate(ids=[*common, 11 + i], session=f"{prefix}{i}", n=1, ignore_eos=True) for i in range(first, first + 200)]
        for run in runs:
            c.read(run["session"], run["cursor"])
    return len(common) + 2


def drop(c, prefix, n):
    for i in range(n):
        assert c.call("drop", session=f"{prefix}{i}")["dropped"]


def others(d, c, prefix):
    """Bytes more once others were made and dropped."""
    before = d.memory()
    make(c, prefix, OTHERS)
    drop(c, prefix, OTHERS)
    return d.memory() - before


def crowd(_):
    """Clients that are connected and say nothing, and sessions that nobody uses; and what is left of those that are dropped."""
    with tempfile.TemporaryDirectory() as folder:
        d = Falcond(model=os.environ.get("FALCON_MODEL") or random_model(folder))
        clients = [Plain(d.path) for _ in range(CLIENTS)]
        with client(d.url) as c:
            make(c, "first", FIRST)  # what falcond and its engine need once is there, and what so many sessions need
            drop(c, "first", FIRST)
            before = d.memory()
            tokens = make(c, "resident", SESSIONS)
            each = (d.memory() - before) / (SESSIONS - FIRST) - tokens * 4
            states = collections.Counter((s["state"], s["where"]) for s in sessions_of(c))
            assert states[("idle", "memory")] == SESSIONS, states
            assert all(p.call("hello")["protocol"] == 1 for p in clients)
            drop(c, "resident", SESSIONS)
            grown = min(others(d, c, "a"), others(d, c, "b"))  # what leaks does so each time
        d.end()
    print(f"crowd: {CLIENTS} clients connected, {SESSIONS} sessions of {tokens} tokens resident; {each:.0f} bytes of an idle session beyond "
          f"its pages and the ids of its tokens; {grown} bytes more after {OTHERS} others")
    assert each < 4096 and grown < OTHERS * 50


def leaks(_):
    """Sessions of every kind, made and dropped: for a falcond whose sanitizer tells at its end what it has lost."""
    d = Falcond()
    with client(d.url) as c:
        for first in range(0, SESSIONS, 200):
            some = range(first, first + 200, 4)
            told = [c.generate(PROMPTS[i // 4 % len(PROMPTS)], n=3, stop=["king", "wolf"], logit_bias={"9": 1}) for i in some]
            forked = [c.call("fork", session=run["session"], request_id=f"f{i}") for i, run in zip(some, told)]
            long = [c.generate(ids=[7, i % 2000], n=200, ignore_eos=True) for i in some]
            scored = [c.call("score", request_id=f"r{i}", ids=[7, 8, 9, i % 2000]) for i in some]
            for run in told:
                c.read(run["session"], run["cursor"])
            for run in scored:
                c.call("next", session=run["session"], cursor=0, wait_ms=20000)
            for run in [*forked, *long]:
                c.call("cancel", session=run["session"])
            for run in [*told, *forked, *long, *scored]:
                assert c.call("drop", session=run["session"])["dropped"]
    d.end()
    print(f"leaks: {SESSIONS} sessions made and dropped, and nothing is lost")


def main():
    seed = int(os.environ.get("FALCON_SEED") or random.randrange(1 << 31))
    print(f"FALCON_SEED={seed}", flush=True)
    for name in sys.argv[1:] or ["deaths", "writes", "crowd"]:
        {"deaths": deaths, "writes": writes, "crowd": crowd, "leaks": leaks}[name](random.Random(seed))


if __name__ == "__main__":
    main()
