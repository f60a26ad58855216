"""DRAM devices: organisation, timing between commands and currents, as rows of a file per standard.

A row of timing names a level, a command before, a command after, and how many clocks lie between
the two at least if both go to the same part of that level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from bfpsim.arch import units

Scope = Literal["bank", "group", "rank"]
Command = Literal["ACT", "PRE", "RD", "WR"]
Field = Literal["row", "bank", "group", "column", "channel"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
COMMANDS: tuple[Command, ...] = get_args(Command)
FIELDS: tuple[Field, ...] = get_args(Field)

Between = tuple[tuple[tuple[int, ...], ...], ...]
"""Clocks by scope, command before and command after; 0 where no row says anything."""

_TERM = re.compile(r"([+-]?)\s*([A-Z_]+|[0-9]+)\s*")


@dataclass(frozen=True, slots=True)
class Energies:
    """What a device's currents make of its commands and of time, all of its chips together.

    activate, read, write, refresh: of one command, above the background [pJ]; a read or a write is
        one burst, without what its pins take
    active, idle, power_down: power with a row open, with none, and asleep [W]
    """

    activate: Fraction
    read: Fraction
    write: Fraction
    refresh: Fraction
    active: Fraction
    idle: Fraction
    power_down: Fraction


@dataclass(frozen=True, slots=True)
class Device:
    """One DRAM channel.

    clock: of its commands, which all counts of clocks are of [Hz]
    burst, burst_clocks: what one read or write moves [bit], and how long its data takes
    page: a row of a bank [bit]
    groups, banks: bank groups, and banks in each
    order: of an address's fields, the most significant first
    between: least clocks between two commands
    four_activates: least clocks between an activate and the fourth before it
    read_latency, write_latency: from a command to its data
    refresh, refresh_every: clocks that a refresh takes, and from one to the next
    energies: of its commands; None where its file has no currents
    """

    name: str
    standard: str
    clock: Fraction
    burst: int
    burst_clocks: int
    page: int
    groups: int
    banks: int
    order: tuple[Field, ...]
    between: Between
    four_activates: int
    read_latency: int
    write_latency: int
    refresh: int
    refresh_every: int
    energies: Energies | None

    def clocks(self, scope: Scope, before: Command, after: Command) -> int:
        """The least clocks between two commands of one bank, of one group, or of the rank."""
        own = self.between[SCOPES.index(scope)]
        return own[COMMANDS.index(before)][COMMANDS.index(after)]

    @property
    def bandwidth(self) -> Fraction:
        """Peak transfer rate [bit/s]."""
        return self.burst * self.clock / self.burst_clocks

    @property
    def first_data(self) -> int:
        """Clocks from a read's request to its first bit, its bank closed and all else idle."""
        return self.clocks("bank", "ACT", "RD") + self.read_latency

    @property
    def busy_refreshing(self) -> Fraction:
        """By how much refresh stretches the time of a device that never rests.

        Of each interval, rows close, the refresh runs, and a row opens again.
        """
        closed = self.refresh + self.clocks("bank", "PRE", "ACT") + self.clocks("bank", "ACT", "RD")
        return Fraction(self.refresh_every, self.refresh_every - closed)

    @property
    def turnarounds(self) -> tuple[int, int]:
        """Clocks that the data pins rest from a read to a write, and from a write to a read."""
        read, write, busy = self.read_latency, self.write_latency, self.burst_clocks
        to_write = self.clocks("rank", "RD", "WR") + write - read - busy
        to_read = self.clocks("rank", "WR", "RD") + read - write - busy
        return max(0, to_write), max(0, to_read)


@cache
def devices() -> Mapping[str, Device]:
    """Every device that comes with the package, by name."""
    from ruamel.yaml import YAML

    found = {}
    folder = resources.files("bfpsim.arch").joinpath("devices")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            data = YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
            for name in data["devices"]:
                found[name] = read_device(name, data)
    return found


def read_device(name: str, standard: Mapping[str, Any]) -> Device:
    """A device of a standard, as its file says it."""
    own = standard["devices"][name]
    organisation, clocks = own["organisation"], own["clocks"]
    rows = [(*row, 1)[:5] for row in standard["between"]]

    def least(scope: str, before: str, after: str, which: int = 1) -> int:
        found = [row[3] for row in rows if (*row[:3], row[4]) == (scope, before, after, which)]
        return max((_sum(text, clocks) for text in found), default=0)

    clock = units.CLOCK.parse(organisation["clock"])
    return Device(
        name,
        standard["standard"],
        clock,
        organisation["width"] * organisation["burst_length"],
        clocks["BURST"],
        units.CAPACITY.parse(organisation["page"]),
        organisation["groups"],
        organisation["banks"],
        tuple(field for field in standard["order"]),
        tuple(tuple(tuple(least(s, b, a) for a in COMMANDS) for b in COMMANDS) for s in SCOPES),
        least("rank", "ACT", "ACT", 4),
        clocks["CL"],
        clocks["CWL"],
        least("rank", "REF", "ACT"),
        least("rank", "REF", "REF"),
        _energies(own["currents"], clocks, clock) if "currents" in own else None,
    )


def _sum(text: str, clocks: Mapping[str, int]) -> int:
    """A row's clocks, such as 'CL + BURST - CWL + 1'."""
    total = 0
    for sign, name in _TERM.findall(text):
        own = int(name) if name.isdigit() else clocks[name]
        total += -own if sign == "-" else own
    return total


def _energies(
    currents: Mapping[str, float], clocks: Mapping[str, int], clock: Fraction
) -> Energies:
    """Micron's formulas (TN-41-01): a command is what its current is above the background's."""
    volts = Fraction(str(currents["VDD"])) * int(currents["chips"])
    watts = {name: Fraction(str(own)) * volts / 1000 for name, own in currents.items()}
    picojoules = 10**12 / clock  # of a watt for a clock
    row, closed = clocks["RAS"], clocks["RP"]
    open_and_closed = watts["IDD3N"] * row + watts["IDD2N"] * closed
    return Energies(
        activate=(watts["IDD0"] * (row + closed) - open_and_closed) * picojoules,
        read=(watts["IDD4R"] - watts["IDD3N"]) * clocks["BURST"] * picojoules,
        write=(watts["IDD4W"] - watts["IDD3N"]) * clocks["BURST"] * picojoules,
        refresh=(watts["IDD5"] - watts["IDD3N"]) * clocks["RFC"] * picojoules,
        active=watts["IDD3N"],
        idle=watts["IDD2N"],
        power_down=watts["IDD2P"],
    )
