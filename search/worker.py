"""How a worker process begins: before anything that it computes with is loaded."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection, wait

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def begin(lifeline: Connection) -> None:
    """One thread for numeric libraries, deaf to Ctrl-C, and gone when its parent is.

    lifeline: a pipe whose other end only the parent holds

    Ctrl-C goes to a terminal's whole process group; it is for the parent to decide what becomes of
    the running points. A killed parent decides nothing, and leaves no worker behind.
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(lifeline,), daemon=True).start()


def _follow(lifeline: Connection) -> None:
    wait([lifeline])  # readable once the other end is closed
    os._exit(1)
