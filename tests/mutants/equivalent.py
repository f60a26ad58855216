"""Mutants that no test can kill: what they change makes no difference, and why."""

from typing import NamedTuple


class Equivalent(NamedTuple):
    """A change that changes nothing.

    line: the source line it is in, stripped; was, becomes: the change
    """

    module: str
    operator: str
    line: str
    was: str
    becomes: str
    reason: str


EQUIVALENT: tuple[Equivalent, ...] = ()
