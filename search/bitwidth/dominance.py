"""Which mappings can be best for some triple of formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.nest import TENSORS
from bfpsim.mapping.room import fits

_REFERENCES = 96


def undominated(
    arch: Arch,
    moved: Sequence[Values],
    room: Sequence[Values],
    whole: NDArray[np.bool_],
    busy: Values | None,
) -> NDArray[np.intp]:
    """Places of the mappings that no other one makes superfluous, by ascending mean cost.

    A mapping is superfluous if another one costs no more in any triple of formats, and is legal
    wherever it is: the least cost of every triple stays. Each is compared with some of the best
    only, so superfluous ones may stay too.

    moved, room: of I, W and O, (rows, mappings); no format's difference of two mappings is below
        the least of the rows' differences
    whole: (formats of O, mappings): whether O's blocks stay whole
    busy: (passes of the array, mappings): where it counts, too
    """
    weight = np.sum([values.mean(axis=0) for values in moved], axis=0)
    most = (values.max(axis=0) for values in room)
    anywhere = fits(arch, dict(zip(TENSORS, most, strict=True)))
    left = np.lexsort((weight, ~anywhere))
    alive = np.ones(left.size, bool)
    at, compared = 0, 0
    tables = _at(left, moved, room, whole, busy)
    while at < left.size and compared < _REFERENCES:
        if alive[at]:
            compared += 1
            alive[at + 1 :] &= ~_beaten(arch, at, anywhere[left[at]], *tables)
            if 2 * np.count_nonzero(alive) < alive.size:
                at = int(np.count_nonzero(alive[: at + 1])) - 1
                tables = _at(np.flatnonzero(alive), *tables)
                left, alive = left[alive], alive[alive]
        at += 1
    return left[alive]


Tables = tuple[list[Values], list[Values], NDArray[np.bool_], "Values | None"]


def _at(
    places: NDArray[np.intp],
    moved: Sequence[Values],
    room: Sequence[Values],
    whole: NDArray[np.bool_],
    busy: Values | None,
) -> Tables:
    return (
        [values[:, places] for values in moved],
        [values[:, places] for values in room],
        whole[:, places],
        None if busy is None else busy[:, places],
    )


def _beaten(
    arch: Arch,
    by: int,
    fits_anywhere: bool,
    moved: Sequence[Values],
    room: Sequence[Values],
    whole: NDArray[np.bool_],
    busy: Values | None,
) -> NDArray[np.bool_]:
    """Which of the mappings behind one are superfluous beside it.

    A triple's difference is a sum of three, each at least its least over the formats.
    """
    behind = slice(by + 1, None)

    def least(tables: Sequence[Values]) -> Values:
        return np.stack([(own[:, behind] - own[:, [by]]).min(axis=0) for own in tables])

    beaten = (least(moved).sum(axis=0) >= 0) & (whole[:, behind] <= whole[:, [by]]).all(axis=0)
    if busy is not None:
        beaten &= (busy[:, behind] >= busy[:, [by]]).all(axis=0)
    if fits_anywhere:
        return np.asarray(beaten)
    more = least(room)
    return np.asarray(beaten & ((more.sum(axis=0) if arch.shared else more.min(axis=0)) >= 0))
