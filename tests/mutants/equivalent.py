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
        "mapping/steps/price.py", "constant",
        "if burst > 1:", "1", "0",
        "bursts of one bit pad nothing: the padding priced is 0",
    ),
    Equivalent(
        "mapping/closed/exact.py", "not",
        "unmoved = tables[depth] if not advancing else np.zeros_like(tables[depth])",
        "not advancing", "advancing",
        "tables of equal boxes are then always given; left out, they are derived, and the same",
    ),
    Equivalent(
        "mapping/closed/paper.py", "constant",
        "shape[axis] = -1", "1", "2",
        "numpy works out the length for any negative number",
    ),
    Equivalent(
        "mapping/closed/array.py", "first, last",
        "if own.dim[0] in group:", "own.dim[0]", "own.dim[-1]",
        "lanes fuse dimensions of N P Q or of C R S: all of their letters are in `group`, or none",
    ),
    Equivalent(
        "mapping/closed/array.py", "first, last",
        "if own.dim[0] in at:", "own.dim[0]", "own.dim[-1]",
        "lanes fuse dimensions of N P Q or of C R S: all of their letters are in `at`, or none",
    ),
    Equivalent(
        "mapping/closed/array.py", "arithmetic",
        "most = -(-prod(extents[dim] for dim in own.dim) // own.size)",
        "-prod((extents[dim] for dim in own.dim)) // own.size",
        "-prod((extents[dim] for dim in own.dim)) * own.size",
        "any bound on the folds numbers the reads apart",
    ),
    Equivalent(
        "sim/recurrence.py", "constant",
        "at, chunk = end, 2 * chunk", "2", "3",
        "how much is compared at once decides how fast, not what, is found",
    ),
    Equivalent(
        "quant/formats/layout.py", "arithmetic",
        "if min(n[1] - n[0], h[1] - h[0], w[1] - w[0]) <= 0:", "h[1] - h[0]", "h[1] + h[0]",
        "no pixels, no runs: without this line too, as the ranges make no indices",
    ),
    Equivalent(
        "quant/formats/blocks.py", "comparison",
        "size if axis == channels else length if self.taps and axis > 1 else 1",
        "axis > 1", "axis >= 1",
        "axis 1 is the one that blocks run along, or has a length of 1",
    ),
)  # fmt: skip
