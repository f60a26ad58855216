"""Compiled loops on several threads: kernels that release Python's lock, a part of the range each.

numba's own parallel loops do not survive a fork, and do not ask torch how many threads to take.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Result = TypeVar("Result")


def split(part: Callable[[int, int], Result], units: int, threads: int) -> list[Result]:
    """What ``part(first, end)`` returns for the parts of ``range(units)``, in their order."""
    if threads == 1:
        return [part(0, units)]
    pieces = max(min(units, 4 * threads), 1)  # some to spare: threads seldom advance evenly
    edges = [units * i // pieces for i in range(pieces + 1)]
    return list(_pool(os.getpid(), threads).map(part, edges, edges[1:]))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One per process: the threads of a parent do not live on in its fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="quantize")
