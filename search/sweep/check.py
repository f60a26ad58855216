"""What the values of a record may be, whoever wrote the file that it comes from."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from bfpsim.mapping.counts import Counts, Flow
from bfpsim.workloads.layer import check_text

_LARGEST = 1 << 56  # of a count: tables hold sums of them in 64-bit integers


class RecordError(ValueError):
    """A record that no simulation made; its message is one line."""


def check(value: object, kind: Any, name: str = "record") -> None:
    """Raise RecordError, or WorkloadError for texts, unless a value is of a kind.

    kind: a type as a dataclass's fields have it; of dataclasses, mappings and tuples everything
        inside is checked, too
    """
    inside = get_args(kind)
    if kind is str:
        _require(isinstance(value, str), value, name)
        check_text(name, str(value))
    elif kind is int:
        # bool is an int, but no count.
        sound = type(value) is int and 0 <= value < _LARGEST
        _require(sound, value, name)
    elif kind is Fraction:
        _require(isinstance(value, Fraction) and abs(value) < _LARGEST, value, name)
    elif kind is Counts:
        _require(isinstance(value, Counts), value, name)
        for flow, bits in dict(value).items():  # type: ignore[call-overload]
            check(flow, Flow, name)
            check(bits, int, name)
    elif isinstance(kind, types.UnionType):
        if value is not None:
            check(value, inside[0], name)
    elif get_origin(kind) in (Mapping, dict):
        _require(isinstance(value, Mapping), value, name)
        for key, own in value.items():  # type: ignore[attr-defined]
            check(key, inside[0], name)
            check(own, inside[1], name)
    elif get_origin(kind) is tuple:
        for own in value:  # type: ignore[attr-defined]
            check(own, inside[0], name)
    elif inside:  # a Literal
        _require(value in inside, value, name)
    elif isinstance(kind, type) and (is_dataclass(kind) or kind is Flow):
        _require(isinstance(value, kind), value, name)
        for own, hint in _hints(kind).items():
            check(getattr(value, own), hint, own)


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    names = Flow._fields if kind is Flow else [own.name for own in fields(kind)]
    return {name: hints[name] for name in names}


def _require(sound: bool, value: object, name: str) -> None:
    if not sound:
        raise RecordError(f"{name} {repr(value)[:40]} is refused")
