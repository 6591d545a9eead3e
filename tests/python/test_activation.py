# SPDX-License-Identifier: Apache-2.0
"""falcond with sockets that were opened for it, as falcond.socket does: what a request meets that comes before falcond can serve.
Runs ./falcond; $FALCOND_MODEL is its model."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

MODEL = os.environ["FALCOND_MODEL"]
BODY = json.dumps({"prompt": "Once upon a time", "max_tokens": 3})


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Asking(threading.Thread):
    """A request on its way; answer() is (status, headers, body)."""

    def __init__(self, path, target="/v1/completions", body=BODY):
        super().__init__()
        self.connection = UnixConnection(path)
        self.connection.request("POST" if body else "GET", target, body)
        self.start()

    def run(self):
        r = self.connection.getresponse()
        self.got = r.status, r.headers, r.read()
        self.connection.close()

    def answer(self):
        self.join()
        return self.got


class Activation(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.path = self.folder + "/http.sock"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(16)
        self.falcond = None

    def tearDown(self):
        self.stop()
        self.listening.close()
        shutil.rmtree(self.folder)

    def start(self, *options, sockets=None, env={}):
        """As systemd does: descriptors from 3 on, and their names."""
        sockets = sockets or [self.listening]
        argv = ["./falcond", "--model", MODEL, "--socket", f"ipc://{self.folder}/falcond.sock", *options]
        self.falcond = os.fork()
        if self.falcond == 0:
            log = os.open(self.folder + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            high = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(sockets)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
            os.dup2(log, 2)
            os.execve(argv[0], argv, {**os.environ, **env, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)),
                                      "LISTEN_FDNAMES": ":".join("http" for _ in sockets)})

    def stop(self, number=signal.SIGTERM):
        if self.falcond:
            os.kill(self.falcond, number)
            status = os.waitpid(self.falcond, 0)[1]
            self.falcond = None
            return status

    def log(self):
        with open(self.folder + "/log") as f:
            return f.read()

    def wait_for(self, text):
        end = time.monotonic() + 60
        while text not in self.log():
            self.assertLess(time.monotonic(), end, self.log())
            time.sleep(0.02)

    def test_the_first_request_is_answered_once_there_is_a_model(self):
        early = [Asking(self.path) for _ in range(5)]
        self.start()
        for a in early:
            status, _, body = a.answer()
            self.assertEqual((status, json.loads(body)["usage"]["completion_tokens"]), (200, 3))

    def test_the_socket_outlives_falcond(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.start()
            self.assertEqual(Asking(self.path).answer()[0], 200)
            self.stop(number)
            self.assertTrue(os.path.exists(self.path))
        between = Asking(self.path)
        self.start()
        self.assertEqual(between.answer()[0], 200)

    def test_an_upgrade_keeps_the_socket(self):
        self.start()
        self.assertEqual(Asking(self.path).answer()[0], 200)
        subprocess.run(["./falconctl", "-s", f"ipc://{self.folder}/falcond.sock", "upgrade"], check=True, timeout=60)
        self.wait_for("becoming the program")
        self.assertEqual(Asking(self.path).answer()[0], 200)

    def test_health_does_not_wait_and_who_waits_is_told_of_the_end(self):
        held, health = Asking(self.path), Asking(self.path, "/health", None)
        self.start(env={"FALCON_ISA": "none"})  # no engine starts with that
        self.assertEqual(health.answer()[0], 503)
        status, headers, body = held.answer()
        self.assertEqual((status, json.loads(body)["error"]["code"], headers["Retry-After"]), (503, "stopping", "5"))

    def test_who_waits_is_told_that_falcond_could_not_start(self):
        for options in (["--model", self.folder + "/none.gguf"], ["--kv", "none"]):
            status, _, body = self.try_to_start(options)
            self.assertEqual(status, 503)
            self.assertIn("could not start", json.loads(body)["error"]["message"])

    def try_to_start(self, options):
        waiting = Asking(self.path)
        self.start(*options, env={"NOTIFY_SOCKET": self.folder + "/nobody"})
        answer = waiting.answer()
        os.waitpid(self.falcond, 0)
        self.falcond = None
        return answer

    def test_a_socket_that_other_machines_reach_is_not_served(self):
        with socket.create_server(("0.0.0.0", 0)) as wide:
            self.start(sockets=[wide, self.listening])
            status = os.waitpid(self.falcond, 0)[1]
            self.falcond = None
        self.assertEqual(os.waitstatus_to_exitcode(status), 1)
        self.assertIn("open to other machines", self.log())

    def test_loopback_is_served_besides(self):
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            self.start(sockets=[self.listening, tcp])
            self.assertEqual(Asking(self.path).answer()[0], 200)
            c = http.client.HTTPConnection("127.0.0.1", tcp.getsockname()[1], timeout=60)
            c.request("POST", "/v1/completions", BODY)
            self.assertEqual(c.getresponse().status, 200)
            c.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
