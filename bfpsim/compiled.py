"""Functions that numba compiles, with what is compiled kept on disk where there is a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function with `numba.njit(**options)`, cached beside its file or in the home.

    Where neither can be written (a package that belongs to root, and no home), it is compiled anew
    in each process. Raises ImportError without numba.
    """
    from numba import njit

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            return njit(**options)(function)

    return compile_
