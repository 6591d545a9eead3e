# SPDX-License-Identifier: Apache-2.0
"""falconctl on a terminal: chat, top, progress, colours. $FALCOND_SOCKET names a falcond with the bundled model, whose process is
$FALCOND_PID; ./falconctl is run."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

try:
    import pyte
except ImportError:
    pyte = None


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, *arguments, size=(100, 40), **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            self.set_size(0, *size)
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8", **environment)
            os.execv("./falconctl", ["falconctl", *arguments])
        self.seen = ""

    @staticmethod
    def set_size(fd, columns, rows):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, pattern, seconds=30):
        """Waits until what was printed since the last call has this; returns what came before its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.fd], [], [], 0.1)
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace") if ready else ""
            except OSError:
                raise AssertionError(f"it ended without {pattern!r}: {self.seen!r}") from None
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
        before, self.seen = self.seen[:found.end()], self.seen[found.end():]
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def leave(self):
        """Types Ctrl-D until it has ended: one that comes between a prompt and the moment at which lines are edited is lost."""
        return self.end("\x04")

    def end(self, typed=None):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            ready, _, _ = select.select([self.fd], [], [], 0.05)
            try:
                if typed:
                    self.type(typed)
                if ready:
                    self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"it does not end: {self.seen!r}")


def sessions():
    return json.loads(subprocess.run(["./falconctl", "sessions", "--json"], check=True, capture_output=True).stdout)["sessions"]


class Chat(unittest.TestCase):
    def setUp(self):
        self.home = os.environ["TEST_HOME"]

    def test_a_conversation_goes_on_until_it_is_quit(self):
        t = Terminal("chat", "--temp", "0", "-n", "8", HOME=self.home, XDG_STATE_HOME="")
        t.expect("> ")
        t.type("Once upon a time\n")
        self.assertRegex(t.expect(r"\n> "), "there lived")
        (session,) = sessions()
        t.type("The king\n")
        t.expect(r"The king\r\n[^>]+\n> ")
        self.assertGreater(sessions()[0]["n_tokens"], session["n_tokens"])
        t.type("/new\n")
        t.expect("> ")
        self.assertEqual(sessions(), [])
        t.type("/quit\n")
        self.assertEqual(t.end(), 0)
        history = os.path.join(self.home, ".falconctl-history")
        self.assertEqual(os.stat(history).st_mode & 0o777, 0o600)
        self.assertIn("king", pathlib.Path(history).read_text())

    def test_a_named_conversation_begins_anew_too(self):
        t = Terminal("chat", "--session", "kept", "-n", "3", HOME=self.home)
        for words in ("Once upon a time there was a king\n", "/new\n", "The\n"):
            t.expect("> ")
            t.type(words)
        t.expect("\n> ")
        (session,) = sessions()
        self.assertEqual(session["session"], "kept")
        self.assertLess(session["n_tokens"], 8)
        self.assertEqual(t.leave(), 0)
        subprocess.run(["./falconctl", "drop", "kept"], check=True)

    def test_ctrl_c_stops_an_answer_and_not_the_conversation(self):
        t = Terminal("chat", "--temp", "0", "--session", "kept", HOME=self.home)
        t.expect("> ")
        t.type("Once upon a time\n")
        t.expect(r"time\r\n.{20}")
        t.type("\x03")
        t.expect("\n> ")
        self.assertEqual(t.leave(), 0)
        (session,) = sessions()
        self.assertEqual((session["session"], session["state"]), ("kept", "idle"))
        t = Terminal("chat", "--session", "kept", "-n", "3", HOME=self.home)
        t.expect("> ")
        t.type("And\n")
        t.expect("\n> ")
        self.assertEqual(t.leave(), 0)
        self.assertGreater(sessions()[0]["n_tokens"], session["n_tokens"])
        subprocess.run(["./falconctl", "drop", "kept"], check=True)

    def test_in_a_pipe_standard_input_is_one_message(self):
        said = subprocess.run(["./falconctl", "chat", "--temp", "0", "-n", "5"], input=b"Once upon a time\n", capture_output=True, check=True)
        self.assertEqual((said.stdout[:6], said.stderr), (b" there", b""))
        self.assertEqual(sessions(), [])


class Screen(unittest.TestCase):
    def test_top_shows_the_daemon_until_q(self):
        run = subprocess.Popen(["./falconctl", "generate", "--session", "busy", "-n", "2000", "--ignore-eos", "Once"], stdout=subprocess.DEVNULL)
        t = Terminal("top")
        t.expect("tokens/s generated")
        t.expect("SESSION")
        t.expect("busy")
        t.expect("[1-9][0-9]*.[0-9] ")  # a speed, after the first second
        t.type("q")
        self.assertEqual(t.end(), 0)
        run.terminate()
        run.wait()
        subprocess.run(["./falconctl", "drop", "busy"], check=True)

    def test_q_ends_top_while_the_daemon_does_not_answer(self):
        falcond = int(os.environ["FALCOND_PID"])
        t = Terminal("top")
        t.expect("q ends")
        os.kill(falcond, signal.SIGSTOP)
        self.addCleanup(os.kill, falcond, signal.SIGCONT)
        time.sleep(1.5)  # by then it waits for an answer
        t.type("q")
        self.assertEqual(t.end(), 0)

    def test_a_long_prompt_shows_how_far_it_is_read_on_a_terminal_alone(self):
        prompt = "It was a dark night. " * 60
        t = Terminal("generate", "-n", "1", prompt)
        t.expect(r"reading the prompt: \d+ of \d+ tokens")
        t.expect("\x1b\\[K")
        self.assertEqual(t.end(), 0)
        said = subprocess.run(["./falconctl", "generate", "-n", "1", prompt], capture_output=True, check=True, stdin=subprocess.DEVNULL)
        self.assertEqual(said.stderr, b"")

    def test_packing_shows_its_progress(self):
        image = os.environ["TEST_HOME"] + "/image"
        t = Terminal("pack", os.environ["srcdir"] + "/models/falcon-tales.Q8_0.gguf", image)
        t.expect(r"packing .*: \d+ %")
        self.assertEqual(t.end(), 0)
        again = subprocess.run(["./falconctl", "run", image, "Once upon a time", "-n", "4", "--temp", "0"], capture_output=True, check=True,
                               stdin=subprocess.DEVNULL)
        self.assertTrue(again.stdout.startswith(b" there lived"))


class Drawn(Terminal):
    """The same, and what stands on its screen."""

    def __init__(self, *arguments, size):
        super().__init__(*arguments, size=size, HOME=os.environ["TEST_HOME"], XDG_STATE_HOME="")
        self.screen = pyte.Screen(*size)
        self.stream = pyte.ByteStream(self.screen)
        self.most_rows = 0  # that ever had text

    def rows(self):
        """The rows that have text; a character that takes two columns is one here."""
        return [row for row in (line.rstrip() for line in self.screen.display) if row]

    def until(self, holds, seconds=30):
        """Reads on until holds(rows), and returns the rows."""
        end = time.monotonic() + seconds
        while not holds(self.rows()):
            if time.monotonic() > end:
                raise AssertionError("\n".join(["not on the screen:", *self.screen.display]))
            ready, _, _ = select.select([self.fd], [], [], 0.1)
            if ready:
                try:
                    self.stream.feed(os.read(self.fd, 65536))
                except OSError:
                    raise AssertionError("\n".join(["it ended with:", *self.screen.display])) from None
                self.most_rows = max(self.most_rows, len(self.rows()))
        return self.rows()

    def resize(self, columns, rows):
        self.screen.resize(rows, columns)
        self.set_size(self.fd, columns, rows)


def like(*patterns):
    """Whether the rows of a screen are these, one each."""
    return lambda rows: len(rows) == len(patterns) and all(re.fullmatch(p, row) for p, row in zip(patterns, rows))


@unittest.skipIf(pyte is None and not os.environ.get("FALCON_NO_SKIP"), "no pyte")
class Small(unittest.TestCase):
    def tearDown(self):
        for session in sessions():
            subprocess.run(["./falconctl", "drop", session["session"]], check=True)

    def test_a_line_folds_between_wide_characters_and_is_drawn_again_at_a_new_size(self):
        t = Drawn("chat", size=(20, 5))
        t.until(lambda rows: rows == [">"])
        t.type("日本語のテキストを書いています、長い😀😀é")
        t.until(lambda rows: rows == ["> 日本語のテキストを", "書いています、長い😀", "😀é"])
        t.type("\x7f\x7f\x7f")
        t.until(lambda rows: rows == ["> 日本語のテキストを", "書いています、長い"])
        t.resize(19, 5)
        t.until(lambda rows: rows[-2:] == ["を書いています、長", "い"])
        t.resize(60, 10)
        t.until(lambda rows: rows[-1:] == ["> 日本語のテキストを書いています、長い"])
        t.type("\x15so\\\n")
        t.until(lambda rows: rows[-2:] == ["> so\\", "…"])
        t.type("\x03")
        self.assertEqual(t.end(), 130)

    def test_a_terminal_that_is_resized_in_mid_answer_has_its_new_size_at_the_next_prompt(self):
        t = Drawn("chat", "--temp", "0", "-n", "100", size=(40, 10))
        t.until(lambda rows: rows == [">"])
        t.type("Once upon a time\n")
        t.until(lambda rows: len(rows) > 2)
        t.resize(20, 10)
        t.until(lambda rows: rows[-1:] == [">"])
        t.type("a line of more than twenty")
        t.until(lambda rows: rows[-2:] == ["> a line of more tha", "n twenty"])
        t.type("\x15")
        t.until(lambda rows: rows[-1:] == [">"])
        self.assertEqual(t.leave(), 0)

    def test_top_has_on_each_screen_what_matters_most_and_no_row_over_another(self):
        for name in ("one", "a-name-of-more-than-twenty-letters"):
            subprocess.run(["./falconctl", "generate", "-n", "1", "--session", name, "Once"], stdout=subprocess.DEVNULL, check=True)
        t = Drawn("top", size=(40, 10))
        t.until(like("falcon-tales  portable  1 threads", r" *[\d.]+ tokens/s  [\d.]+ read  \d+ cached", "0 running  2 idle  2 sessions",
                     r"\d+ of \d+ pages", "SESSION                 STATE     TOKENS", r"a-name-of-more-than-twe idle  +\d+", r"one +idle +\d+",
                     "q ends"))
        t.resize(20, 5)
        t.until(like(r" *[\d.]+ tokens/s", "0 running  2 idle", "SESSION       TOKENS", r"a-name-of-mo +\d+", r"one +\d+"))
        t.resize(100, 30)
        t.until(like(".*  f16 pages", r".* tokens/s of prompts  .*", ".*  engine .*", r"\[\.{40}\] .*", "SESSION .* IDLE S",
                     "a-name-of-more-than-twenty-letters .*", "one .*", "q ends"))
        t.type("\x03")
        self.assertEqual(t.end(), 130)

    def test_how_far_a_prompt_is_read_takes_one_row_of_any_terminal(self):
        t = Drawn("generate", "-n", "1", "It was a bright day. " * 60, size=(20, 5))
        t.until(lambda rows: rows and re.search(r": \d+ of \d+ tokens$", rows[0]))
        t.until(lambda rows: rows and "tokens" not in rows[0])
        self.assertEqual((t.end(), t.most_rows), (0, 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
