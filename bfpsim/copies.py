"""Changed copies of what is immutable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from bfpsim.arch import Arch, ArchError, load_arch, replace_all
from bfpsim.arch.spec import Section

T = TypeVar("T")


@overload
def replace(thing: Arch | str | Path, path: str, value: object, /) -> Arch: ...
@overload
def replace(thing: T, /, **changes: Any) -> T: ...
def replace(thing: Any, /, *at: Any, **changes: Any) -> Any:
    """Return a copy in which some values are others; it is checked as the first was.

    Of an architecture, its name or its file: ``replace(arch, "sram.capacity", "1 MiB")``, by a
    dotted path (`bfpsim.arch.replace`). Of any immutable object, an architecture's parts among
    them: ``replace(layer, K=64)``, ``replace(sram, capacity="1 MiB")``, by names of attributes.

    Raises TypeError for a name that it does not have, and whatever making it anew raises.
    """
    if at:
        if len(at) != 2 or changes:
            raise TypeError(
                "replace(): allowed: replace(arch, PATH, VALUE) or replace(it, NAME=VALUE, ...)"
            )
        path, value = at
        return replace_all(load_arch(thing), {path: value})
    names = _names(thing)
    for name in changes:
        if name not in names:
            raise TypeError(
                f"{type(thing).__name__} has no {name!r} to replace; allowed: {', '.join(names)}"
            )
    if not isinstance(thing, Section):
        return dataclasses.replace(thing, **changes)
    aliases = {name: field.alias or name for name, field in type(thing).model_fields.items()}
    values = {aliases[name]: value for name, value in changes.items()}
    if isinstance(thing, Arch):
        return replace_all(thing, values)
    try:
        return type(thing).model_validate(thing.model_dump() | values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, (type(thing).__name__, *first["loc"])))
        raise ArchError(f"{where}: {first.get('ctx', {}).get('error', first['msg'])}") from None


def _names(thing: object) -> list[str]:
    if isinstance(thing, Section):
        return list(type(thing).model_fields)
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return [field.name for field in dataclasses.fields(thing) if field.init]
    raise TypeError(
        f"{type(thing).__name__} cannot be replaced; allowed: an architecture, a part of one, a "
        "layer, a network, a mapping, a format"
    )
