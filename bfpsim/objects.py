"""What objects of the public API have in common: short reprs, and errors of what is immutable."""

from __future__ import annotations

from collections.abc import Mapping, Set, Sized
from dataclasses import FrozenInstanceError, fields
from reprlib import Repr
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class ImmutableError(FrozenInstanceError, ValueError):
    """An attribute of an immutable object was set or deleted."""


def refuse(thing: object, name: str, *value: object) -> NoReturn:
    """Raise ImmutableError for setting (with a value) or deleting an attribute."""
    kind = type(thing).__name__
    raise ImmutableError(
        f"{kind}.{name} cannot be {'set' if value else 'deleted'}, objects of {kind} are frozen; "
        f"allowed: a changed copy, bs.replace(it, {name}=...)"
    )


def immutable(kind: type[T]) -> type[T]:
    """Have a frozen dataclass say, where it is written to, what makes a changed copy."""
    kind.__setattr__ = refuse  # type: ignore[method-assign]
    kind.__delattr__ = refuse  # type: ignore[method-assign]
    return kind


def brief(kind: type[T]) -> type[T]:
    """Have a dataclass's repr say what its fields hold, in a few lines: of tables their sizes."""
    kind.__repr__ = _brief  # type: ignore[method-assign]
    return kind


def _brief(thing: Any) -> str:
    lines = [f"{type(thing).__name__}("]
    for field in fields(thing):
        part = f"{field.name}={_value(getattr(thing, field.name))}, "
        if len(lines[-1]) + len(part) > 100:
            lines.append("    ")
        lines[-1] += part
    return "\n".join(lines).removesuffix(", ") + ")"


def _value(value: Any) -> str:
    kind = type(value).__name__
    if hasattr(value, "columns") and hasattr(value, "shape"):
        rows, columns = value.shape
        return f"<{kind}: {rows} rows x {columns} columns>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{kind}: {value.dtype} {tuple(value.shape)}>"
    if isinstance(value, list | tuple | Mapping | Set):
        parts = [*value.values()] if isinstance(value, Mapping) else [*value]
        plain = all(isinstance(part, str | int | float | None) for part in parts)
        return _SHORT.repr(value) if plain and len(parts) <= 4 else f"<{kind} of {len(parts)}>"
    if isinstance(value, str | int | float | None):
        return _SHORT.repr(value)
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return f"<{kind} {_SHORT.repr(name)}>"
    if isinstance(value, Sized):
        return f"<{kind} of {len(value)}>"
    text = str(value)
    return text if len(text) <= 60 and "\n" not in text else f"<{kind}>"
