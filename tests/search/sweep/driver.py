"""A sweep in a process of its own, which can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bfpsim.search.store import Store

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0  # seconds until something that must happen counts as missing


def start(spec: Path, store: Path, *options: object) -> subprocess.Popen[str]:
    """`bfpsim sweep` in a process group of its own."""
    return spawn("bfpsim", "sweep", spec, "--store", store, *options)


def spawn(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A Python module as a program, in a process group of its own, that hears Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever started the tests in the background has it ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def rows(store: Path) -> int:
    """How many points a store holds."""
    if not store.exists():
        return 0
    with Store(store) as opened:
        return len(opened.keys("point"))


def until(condition: Callable[[], bool], pause: float = 0.01) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(pause)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process at once, and wait until nothing of its group is left."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not alive(process.pid))


def alive(group: int) -> bool:
    """Whether any process of a group runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What a process printed until its end."""
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, error
    return out, error
