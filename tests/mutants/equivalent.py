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


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "mapping/steps/tiles.py", "constant",
        "rows, count = np.zeros(len(columns[0]), np.int64), 1", "1", "2",
        "rows are renumbered one column earlier, in the same order",
    ),
    Equivalent(
        "mapping/closed/array.py", "first, last",
        "if axis.dim[0] in own", "axis.dim[0]", "axis.dim[-1]",
        "an axis fuses dimensions of N P Q or of C R S: all of its letters are in `own`, or none",
    ),
    Equivalent(
        "mapping/fit.py", "arithmetic",
        "return [(a * per_group, b * per_group) for a, b in pairwise(cuts)]",
        "a * per_group", "a // per_group",
        "if cuts between groups cut a block, the first does, and the tile before it begins at 0",
    ),
)  # fmt: skip
