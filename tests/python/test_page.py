# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium, over its debugging protocol. $FALCOND_HTTP is host:port of a falcond with the bundled model,
$FALCOND_SOCKET its nng socket, $FALCON_CHROMIUM the browser."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

import websockets.sync.client

from falcon_client import Client

ADDRESS = os.environ["FALCOND_HTTP"]


class Browser:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # its children may still write
        self.process = subprocess.Popen(
            [os.environ["FALCON_CHROMIUM"], "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
             "--remote-debugging-port=0", "--window-size=1280,800", f"--user-data-dir={self.folder.name}", f"http://{ADDRESS}/"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self.wait(lambda: pathlib.Path(self.folder.name, "DevToolsActivePort").read_text().split()[0])
        targets = self.wait(lambda: [t for t in json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")) if t["type"] == "page"])
        self.socket = websockets.sync.client.connect(targets[0]["webSocketDebuggerUrl"], max_size=None).__enter__()
        self.number = 0
        self.call("Runtime.enable")
        self.errors = []

    def wait(self, what, seconds=60):
        end = time.monotonic() + seconds
        while True:
            try:
                value = what()
                if value:
                    return value
            except (OSError, IndexError, ValueError):
                pass
            if time.monotonic() > end:
                raise AssertionError("the browser does not come to it")
            time.sleep(0.05)

    def call(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"])
            if message.get("id") == self.number:
                return message["result"]

    def js(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key, code, text=None, **more):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, windowsVirtualKeyCode=ord(text) if text else 27, **more,
                  **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code, **more)

    def type(self, text):
        self.call("Input.insertText", text=text)
        self.press("Enter", "Enter", "\r")

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


class Page(unittest.TestCase):
    def setUp(self):
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.wait(lambda: self.browser.js("document.getElementById('state').textContent") == "ready")
        self.falcond = Client(os.environ["FALCOND_SOCKET"])
        self.addCleanup(self.falcond.close)

    def answer(self):
        return self.browser.js("[...document.querySelectorAll('.assistant')].at(-1)?.textContent || ''")

    def test_an_answer_streams_and_survives_an_engine_that_is_killed(self):
        b = self.browser
        b.js("document.getElementById('prompt').focus()")
        b.type("Once upon a time")
        first = b.wait(self.answer)
        b.wait(lambda: len(self.answer()) > len(first))  # it grows while it runs
        os.kill(self.falcond.call("status")["engine"]["pid"], signal.SIGKILL)
        at = len(self.answer())
        b.wait(lambda: len(self.answer()) > at)
        b.wait(lambda: "restarted" in (b.js("document.querySelector('.note')?.textContent") or ""))
        b.wait(lambda: int(b.js("document.getElementById('restarts').textContent")) >= 1)
        b.press("Escape", "Escape")
        b.wait(lambda: b.js("document.getElementById('send').textContent") == "Send")
        (session,) = self.falcond.call("sessions")["sessions"]
        self.assertEqual(session["state"], "idle")
        b.type("And then?")  # the session goes on
        b.wait(lambda: b.js("document.querySelectorAll('.assistant').length") == 2 and self.answer())
        self.assertEqual(len(self.falcond.call("sessions")["sessions"]), 1)
        self.forget_all()
        self.assertEqual(b.js("document.querySelectorAll('.turn').length"), 0)
        self.assertEqual(b.errors, [])

    def forget_all(self):
        b = self.browser
        b.wait(lambda: b.js("document.querySelector('#talks [aria-label]')?.click(); document.querySelectorAll('#talks button').length") == 0)
        b.wait(lambda: self.falcond.call("sessions")["sessions"] == [])

    def test_an_answer_goes_on_after_a_reload_and_after_a_look_at_another_conversation(self):
        b = self.browser
        b.js("document.getElementById('prompt').focus()")
        b.type("Once upon a time")
        first = b.wait(self.answer)
        b.call("Page.reload")
        b.wait(lambda: self.answer().startswith(first) and len(self.answer()) > len(first))
        b.press("n", "KeyN", modifiers=1)  # Alt
        self.assertEqual(b.js("document.querySelectorAll('.turn').length"), 0)
        at = len(b.js("stored('talks')[0].turns[1].text"))
        b.js("document.querySelector('#talks button').click()")
        b.wait(lambda: len(self.answer()) > at)
        b.press("Escape", "Escape")
        b.wait(lambda: b.js("document.getElementById('send').textContent") == "Send")
        b.wait(lambda: "Stopped" in b.js("document.getElementById('log').textContent"))
        self.forget_all()
        self.assertEqual(b.errors, [])

    def test_what_falcond_refuses_is_shown_and_can_be_tried_again(self):
        b = self.browser
        b.js("document.getElementById('prompt').focus()")
        b.js("document.getElementById('temp').value = '-1'")
        b.type("Once upon a time")
        b.wait(lambda: "temp" in (b.js("document.querySelector('.bad[role=alert]')?.textContent") or ""))
        b.js("document.getElementById('temp').value = '0'; document.getElementById('n').value = '2'")
        b.js("document.querySelector('.bad button').click()")
        b.wait(self.answer)
        b.wait(lambda: "as many tokens" in b.js("document.getElementById('log').textContent"))
        self.assertIsNone(b.js("document.querySelector('.bad')"))
        self.forget_all()
        self.assertEqual(b.errors, [])

    def test_a_narrow_window_has_all_of_it(self):
        b = self.browser
        b.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        visible = "document.getElementById('side').checkVisibility()"
        self.assertFalse(b.js(visible))
        b.js("document.getElementById('more').click()")
        self.assertTrue(b.js(visible))
        self.assertLessEqual(b.js("document.documentElement.scrollWidth"), 390)
        self.assertLessEqual(b.js("document.getElementById('form').getBoundingClientRect().bottom"), 844)
        self.assertEqual(b.errors, [])

    def test_the_live_view_shows_what_runs(self):
        b = self.browser
        run = self.falcond.call("generate", request_id=os.urandom(8).hex(), session="watched", prompt="Once", n=2000, ignore_eos=True)
        b.wait(lambda: b.js("document.getElementById('running').textContent") == "1")
        b.wait(lambda: float(b.js("document.getElementById('rate').textContent")) > 0)
        b.wait(lambda: "watched" in b.js("document.getElementById('sessions').textContent"))
        b.wait(lambda: b.js("document.getElementById('used').textContent")[0] != "0")
        self.falcond.call("drop", session=run["session"])
        b.wait(lambda: "watched" not in b.js("document.getElementById('sessions').textContent"))
        self.assertEqual(b.errors, [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
