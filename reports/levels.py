"""Memory levels as reports show them: which there are is read from the data, outermost first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from bfpsim.reports.style import BLUE, GREY, ORANGE, SKY, VERMILION

if TYPE_CHECKING:
    import pandas as pd

OUTERMOST, BUFFER = "DRAM", "SRAM"
"""The names in titles and axes of the outermost memory, and of the buffer that is resized."""

_LOOKS = ((BLUE, ""), (ORANGE, "//"), (SKY, ".."), (VERMILION, "\\\\"), (GREY, "xx"))
_ENERGY = re.compile(r"(?!compulsory_|all_)(.+)(?<!_[IWOV])_energy_pj")
_NAMES = {name.lower(): name for name in (OUTERMOST, BUFFER)}


def more_than_movement(frame: pd.DataFrame) -> bool:
    """Whether a table has energy that is not movement: multiplications, leakage, background."""
    return "all_energy_pj" in frame and bool((frame["all_energy_pj"] > frame["energy_pj"]).any())


class LevelColumns(NamedTuple):
    """A level of a table with a column of energy for each.

    name: what the level is called; colour, hatch: of its bars; prefix: of its columns
    """

    name: str
    colour: str
    hatch: str
    prefix: str

    def column(self, what: str) -> str:
        """The column of the level with this: "bits", "energy_pj", "I_energy_pj"."""
        return f"{self.prefix}_{what}"


def levels_in(frame: pd.DataFrame) -> list[LevelColumns]:
    """The levels that a table has an energy of, in the order of its columns: outermost first."""
    prefixes = [match[1] for name in frame if (match := _ENERGY.fullmatch(str(name)))]
    return [
        LevelColumns(_NAMES.get(prefix, prefix), *_LOOKS[place % len(_LOOKS)], prefix)
        for place, prefix in enumerate(prefixes)
    ]
