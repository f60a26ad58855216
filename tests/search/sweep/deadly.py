"""An evaluation that some points do not survive, importable by worker processes."""

import os
import signal

from bfpsim.search.sweep import evaluate
from bfpsim.search.sweep.point import Point


def attempt(point: Point, expected: str) -> evaluate.Outcome:
    """As the real one, but a buffer of 2 KiB kills the worker."""
    if point.arch.buffer("I").capacity == 2048 * 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate.attempt(point, expected)


def other_code(point: Point, expected: str) -> evaluate.Outcome:
    """As of a worker that runs another version."""
    return evaluate.attempt(point, "0" * 64)
