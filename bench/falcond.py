# SPDX-License-Identifier: Apache-2.0
"""A falcond of a benchmark's own, and falconctl asking it."""
import os
import subprocess
import time


class Falcond:
    """Serves the model with these keys of the configuration, from `folder`; it is ready once this returns."""

    def __init__(self, build, model, folder, name="falcond", **keys):
        self.build = build
        self.url = f"ipc://{folder}/{name}.sock"
        self.config = os.path.join(folder, f"{name}.yaml")
        with open(self.config, "w") as f:
            for key, value in {"model": os.path.abspath(model), "socket": self.url, **keys}.items():
                f.write(f"{key}: {value}\n")
        self.start()
        self.ask("--wait", "60", "status")

    def start(self):
        self.process = subprocess.Popen([os.path.join(self.build, "falcond"), "-c", self.config], stderr=subprocess.DEVNULL)

    def kill_and_start(self):
        """kill -9, and the next one as soon as it is gone; returns the moment of the kill. It is not ready yet."""
        begun = time.monotonic()
        self.process.kill()
        self.process.wait()
        self.start()
        return begun

    def command(self, *arguments):
        return [os.path.join(self.build, "falconctl"), "-s", self.url, *arguments]

    def ask(self, *arguments):
        return subprocess.run(self.command(*arguments), stdout=subprocess.PIPE, check=True).stdout

    def together(self, commands):
        """Runs falconctl with each of these arguments at once: what each prints."""
        runs = [subprocess.Popen(self.command(*c), stdout=subprocess.PIPE) for c in commands]
        return [r.communicate()[0] for r in runs]

    def end(self):
        self.process.terminate()
        self.process.wait()
