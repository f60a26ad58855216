"""What a state dict keeps of a quantised model beside its weights: formats and E_top.

A record in JSON, its bytes a uint8 tensor: torch loads that with ``weights_only``, safetensors
stores it, and it stays whole where a state is moved to a device or converted to half precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bfpsim.quant.formats import Format, FormatError, parse_format
from bfpsim.quant.formats.format import TOP_MAX, TOP_MIN
from bfpsim.quant.torch.operand import Coding

_VERSION = 1
_HOME = "bfpsim.quant."
"""The package whose classes of codings are kept by name and fields."""

Stored = tuple[Coding | None, int | None]
"""Coding and E_top of an operand."""


def pack_state(operands: Mapping[str, Stored]) -> Tensor:
    """Return what is to be known of the operands, by name, as a tensor of bytes."""
    record = {
        "version": _VERSION,
        "operands": {
            name: {"coding": _record(coding), "E_top": top}
            for name, (coding, top) in operands.items()
        },
    }
    content = json.dumps(record).encode()
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def unpack_state(
    state: object, names: Iterable[str], own: Iterable[Coding | None], title: str
) -> dict[str, Stored]:
    """Return coding and E_top of each operand.

    names: the operands' names, all of which the state must have, and no other
    own: codings that the model has: of a class that is not of this package, a state knows nothing
        but how it is printed
    title: what messages call the model

    Raises FormatError, with what is missing, for a state of another network, of a later version,
    with a coding that cannot be made again, or that is none.
    """
    where = f"state of {title}"
    record = _read(state, where)
    if record.get("version") != _VERSION:
        raise FormatError(f"{where}: version {record.get('version')!r}; allowed: {_VERSION}")
    stored = record.get("operands")
    if not isinstance(stored, dict):
        raise FormatError(f"{where}: operands {stored!r:.60}; allowed: one for each of the model's")
    wanted = list(names)
    missing = [f"lacks {name!r}" for name in wanted if name not in stored]
    wrong = missing + [f"has {name!r}" for name in stored if name not in wanted]
    if wrong:
        raise FormatError(
            f"{where}: of another network: {wrong[0]} ({len(wrong)} such operands); allowed: the "
            f"state of a model with {', '.join(wanted)}"
        )
    printed = {repr(coding): coding for coding in own if coding is not None}
    return {name: _operand(stored[name], printed, f"{where}: {name}") for name in wanted}


def _read(state: object, where: str) -> dict[str, Any]:
    try:
        if not isinstance(state, Tensor):
            raise ValueError(f"{type(state).__name__}")
        values = state.detach().to("cpu", torch.float64).reshape(-1)
        if not bool(((values >= 0) & (values <= 255) & (values == values.round())).all()):
            raise ValueError(f"a tensor of {state.dtype} whose values are not bytes")
        record = json.loads(values.to(torch.uint8).numpy().tobytes())
        if not isinstance(record, dict):
            raise ValueError(f"{record!r:.60}")
    except (ValueError, RecursionError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(
            f"{where}: formats and E_top cannot be read: {reason}; allowed: the tensor that "
            "state_dict() gave, unchanged"
        ) from None
    return record


def _operand(record: Any, printed: Mapping[str, Coding], where: str) -> Stored:
    match record:
        case {"coding": coding, "E_top": None | int() as top} if not isinstance(top, bool):
            if top is not None and not TOP_MIN <= top <= TOP_MAX:
                raise FormatError(f"{where}: E_top={top}; allowed: {TOP_MIN}..{TOP_MAX}")
            return _coding(coding, printed, where), top
    raise FormatError(f"{where}: {record!r:.60}; allowed: coding and E_top")


# --- codings: formats by their names, other classes of this package by their fields --------------


def _record(coding: Coding | None) -> Any:
    if coding is None:
        return None
    if isinstance(coding, Format):
        return str(coding)
    return _fields(coding) or {"own": repr(coding)}


def _fields(value: Any) -> Any:
    """Return a dataclass of the package as names and values; None if it is none."""
    kind = type(value)
    if not (kind.__module__.startswith(_HOME) and is_dataclass(value)):
        return None
    content: dict[str, Any] = {}
    for field in fields(value):
        one = getattr(value, field.name)
        if isinstance(one, Enum):
            one = {"class": _place(type(one)), "value": one.value}
        elif is_dataclass(one):
            one = _fields(one)
        content[field.name] = one
    return {"class": _place(kind), "fields": content}


def _place(kind: type) -> str:
    return f"{kind.__module__}:{kind.__name__}"


def _coding(record: Any, printed: Mapping[str, Coding], where: str) -> Coding | None:
    match record:
        case None:
            return None
        case str():
            try:
                return parse_format(record)
            except FormatError as error:
                raise FormatError(f"{where}: {error}") from None
        case {"own": str(text)} if text in printed:
            return printed[text]
        case {"own": str(text)}:
            raise FormatError(
                f"{where}: coding {text}, of a class of which a state keeps no more; allowed: a "
                "model for which an equal one was chosen before"
            )
        case {"class": str(), "fields": dict()}:
            made = _make(record, where)
            if callable(getattr(made, "quantize", None)):
                return made  # type: ignore[no-any-return]
    raise FormatError(f"{where}: coding {record!r:.60}; allowed: a format's name, or None")


def _make(record: Any, where: str) -> Any:
    """Return what a class of the package makes of the fields; of any other value, itself."""
    if not isinstance(record, dict):
        return record
    place, values, value = str(record.get("class")), record.get("fields"), record.get("value")
    kind = _find(place)
    try:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(value)
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(values, dict):
            return kind(**{name: _make(each, where) for name, each in values.items()})
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}: {kind.__name__}: {error}") from None
    raise FormatError(f"{where}: class {place!r:.80}; allowed: a coding of {_HOME[:-1]}")


def _find(place: str) -> Any:
    """Return what the package defines at a place, ``bfpsim.quant...:Name``; None for any other."""
    home, _, name = place.partition(":")
    if not home.startswith(_HOME) or not all(part.isidentifier() for part in home.split(".")):
        return None
    try:
        kind = getattr(import_module(home), name, None)
    except ImportError:
        return None
    return kind if getattr(kind, "__module__", None) == home else None
