# SPDX-License-Identifier: Apache-2.0
"""Streams an answer, then goes on with the same session."""
import sys

from falcond import Falcond

with Falcond() as falcon:
    run = falcon.generate(" ".join(sys.argv[1:]) or "Once upon a time", n=40, seed=1)
    for piece in run:
        print(piece.text, end="", flush=True)
    for piece in run.append(" And then", n=40):
        print(piece.text, end="", flush=True)
    print()
    run.drop()
