"""Mappings of a network's layers as a YAML file, one line per layer.

```yaml
# Mappings of resnet18 in bfp8e3b16 on edge-64k, least dram by the exact model
conv1: {order: PK, tile: {K: 32, P: 8}, inner: {acc: {order: KQ, tile: {K: 16, Q: 28}}}}
fc: {}
```

Keys and values are those of `Mapping`; what is left out is empty, `{}` the whole layer.
"""

from __future__ import annotations

import io
import re
import reprlib
from collections.abc import Collection, Iterator
from collections.abc import Mapping as ByName
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.nest import EVERY_DIM, Mapping, MappingError, make_nest
from bfpsim.wording import hint, reason
from bfpsim.workloads import NetworkSource, load_workload
from bfpsim.workloads.files.atomic import write_atomic

if TYPE_CHECKING:  # ruamel is imported where a file is read or written
    from ruamel.yaml.events import Event

_LARGEST_FILE = 1 << 20  # bytes: some 10,000 layers
_DEEPEST = 8  # nested collections: a mapping has 5
_WIDEST = 1 << 30  # columns: a layer is one line, however long
_DIMS = ", ".join(EVERY_DIM)
_MOST_NAMES = 8  # layers that a message lists


class _Part(NamedTuple):
    """A value of the file and the line on which it, or its key, stands."""

    line: int
    value: str | dict[str, _Part]


def save_mappings(path: str | Path, mappings: ByName[str, Mapping], comment: str = "") -> None:
    """Write mappings, by layer name, so that `load_mappings` returns equal ones.

    comment: one line above them, of what they are. Equal mappings make equal bytes.
    Raises OSError if the file cannot be written.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    lines = {}
    for name, mapping in mappings.items():
        lines[_text(name)] = line = CommentedMap(_values(mapping))
        line.fa.set_flow_style()
    yaml = YAML(pure=True)
    yaml.width = _WIDEST
    stream = io.StringIO()
    if comment:
        shown = "".join(sign if sign.isprintable() else " " for sign in comment)
        stream.write(f"# {shown}\n")
    yaml.dump(lines, stream)
    write_atomic(path, stream.getvalue())


def _values(mapping: Mapping) -> dict[str, Any]:
    inner = {_text(level): _values(own) for level, own in mapping.inner.items()}
    # A copy: of what several mappings share, ruamel would make an anchor and aliases.
    values = {"order": mapping.order, "tile": dict(mapping.tile), "inner": inner}
    return {key: value for key, value in values.items() if value}


def _text(name: str) -> str:
    """Double quotes around any name but a plain one: ruamel's other styles lose ``?x``, U+0085."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", name):
        return name
    quoted: str = DoubleQuotedScalarString(name)
    return quoted


def load_mappings(
    path: str | Path,
    network: NetworkSource,
    arch: ArchSource,
    layers: Collection[str] | None = None,
) -> dict[str, Mapping]:
    """The mappings of a YAML file, by layer name.

    layers: those that need a mapping; by default every layer of the network

    Whether tiles fit is not checked here. Raises MappingError, `file:line: key: what is wrong;
    what is allowed`: for what is no mapping of a layer of the network on the levels of the
    architecture, and if a layer lacks one.
    """
    file, network, arch = str(path), load_workload(network), load_arch(arch)
    by_name = {layer.name: layer for layer in network.layers}
    levels = arch.inside
    found = {}
    for name, part in _entries(file, (), _read(file, path), "layers").items():
        layer = by_name.get(name)
        if layer is None:
            raise MappingError(
                f"{file}:{part.line}: {reprlib.repr(name)} is no layer of {network.name}"
                f"{hint(name, by_name)}; "
                f"allowed: {_shown(by_name)}"
            )
        found[name] = _mapping(file, (name,), part, levels)
        try:
            make_nest(layer, found[name], levels)
        except MappingError as error:
            raise MappingError(f"{file}:{part.line}: {error}") from None
    missing = [name for name in (by_name if layers is None else layers) if name not in found]
    if missing:
        raise MappingError(
            f"{file}: lacks {_shown(missing)}; allowed: a mapping of every layer of {network.name} "
            "that is to run"
        )
    return found


def _shown(names: Collection[str]) -> str:
    """Some names, and how many there are if that is more."""
    first = ", ".join(list(names)[:_MOST_NAMES])
    return first if len(names) <= _MOST_NAMES else f"{first}, ... ({len(names)} in all)"


def _mapping(
    file: str, at: tuple[str, ...], part: _Part, levels: Collection[str] | None
) -> Mapping:
    """A mapping; `levels` are those inside, None if it is of one of them."""
    allowed = ("order", "tile") if levels is None else ("order", "tile", "inner")
    entries = _entries(file, at, part, f"{', '.join(allowed)}; {{}} cuts nothing")
    for key, own in entries.items():
        if key not in allowed:
            wrong = f"unknown key {reprlib.repr(key)}; allowed keys: {', '.join(allowed)}"
            raise _error(file, at, own.line, wrong)
    order = _order(file, (*at, "order"), entries["order"]) if "order" in entries else ""
    tile = dict(_sizes(file, (*at, "tile"), entries["tile"])) if "tile" in entries else {}
    inner = {}
    if levels is not None and "inner" in entries:
        where = (*at, "inner")
        for level, own in _entries(file, where, entries["inner"], "names of levels").items():
            if level not in levels:
                names = ", ".join(levels) or "none"
                wrong = f"unknown level {reprlib.repr(level)}; allowed: {names}"
                raise _error(file, where, own.line, wrong)
            inner[level] = _mapping(file, (*where, level), own, None)
    try:
        return Mapping(order, tile, inner)
    except MappingError as error:
        raise _error(file, at, part.line, str(error)) from None


def _order(file: str, at: tuple[str, ...], part: _Part) -> str:
    if not isinstance(part.value, str) or not re.fullmatch(f"[{EVERY_DIM}]{{0,8}}", part.value):
        wrong = f"{_quoted(part)} is refused; allowed: {_DIMS}, each once"
        raise _error(file, at, part.line, wrong)
    return part.value


def _sizes(file: str, at: tuple[str, ...], part: _Part) -> Iterator[tuple[str, int]]:
    for dim, own in _entries(file, at, part, "sizes such as {K: 16, P: 1}").items():
        if dim not in set(EVERY_DIM):
            wrong = f"unknown dimension {reprlib.repr(dim)}; allowed: {_DIMS}"
            raise _error(file, at, own.line, wrong)
        if not isinstance(own.value, str) or not re.fullmatch("[1-9][0-9]{0,17}", own.value):
            wrong = f"{_quoted(own)} is refused; allowed: a whole number from 1"
            raise _error(file, (*at, dim), own.line, wrong)
        yield dim, int(own.value)


def _entries(file: str, at: tuple[str, ...], part: _Part, allowed: str) -> dict[str, _Part]:
    if isinstance(part.value, str):
        raise _error(file, at, part.line, f"{_quoted(part)} is refused; allowed: {allowed}")
    return part.value


def _quoted(part: _Part) -> str:
    if isinstance(part.value, dict):
        return "a part with keys of its own"
    return reprlib.repr(part.value) if part.value else "nothing"


def _read(file: str, path: str | Path) -> _Part:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        with open(path, "rb") as opened:
            data = opened.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = reason(error)
        raise MappingError(f"{file}: cannot be read: {why}; allowed: a YAML file") from None
    if len(data) > _LARGEST_FILE:
        raise MappingError(f"{file}: is too long; allowed: at most {_LARGEST_FILE} bytes")
    try:
        text = data.decode("utf-8-sig")
        return _tree(file, YAML(typ="safe", pure=True).parse(text))
    except UnicodeDecodeError as error:
        wrong = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise MappingError(f"{file}: {wrong} is not UTF-8; allowed: UTF-8 text") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        wrong = f"is not valid YAML: {error.context or ''} {error.problem or ''}"
        raise _error(file, (), mark.line + 1 if mark else 1, " ".join(wrong.split())) from None
    except MappingError:
        raise
    except Exception as error:  # an escape of no character: ruamel raises what it trips over
        wrong = " ".join(str(error).split())
        raise MappingError(f"{file}: is not valid YAML: {wrong}") from None


def _tree(file: str, stream: Iterator[Event]) -> _Part:
    """The one document of a file as text: nothing is built that it does not spell out."""
    from ruamel.yaml.events import StreamEndEvent

    next(stream)  # the stream's beginning
    if isinstance(next(stream), StreamEndEvent):
        raise MappingError(f"{file}: is empty; allowed: layers")
    root = _node(file, next(stream), stream, 0)
    next(stream)  # the document's end
    after = next(stream)
    if not isinstance(after, StreamEndEvent):
        raise _error(file, (), _line(after), "a second document is refused; allowed: one")
    return root


def _node(file: str, event: Event, stream: Iterator[Event], depth: int) -> _Part:
    from ruamel.yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent

    line, wrong = _line(event), ""
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if anchor is not None:
        wrong = f"anchor or alias {reprlib.repr(anchor)}; allowed: the value written out"
    elif tag is not None:
        wrong = f"tag {reprlib.repr(str(tag))}; allowed: the value without a tag"
    elif not isinstance(event, ScalarEvent | MappingStartEvent):
        wrong = "a list is refused; allowed: keys and values"
    elif depth > _DEEPEST:
        wrong = f"nested too deep; allowed: at most {_DEEPEST} levels"
    if wrong:
        raise _error(file, (), line, wrong)
    if isinstance(event, ScalarEvent):
        return _Part(line, str(event.value))
    entries: dict[str, _Part] = {}
    while not isinstance(key := next(stream), MappingEndEvent):
        name = _node(file, key, stream, depth + 1)
        if not isinstance(name.value, str):
            raise _error(file, (), name.line, "a key is no text; allowed: text")
        if name.value in entries:
            wrong = f"{reprlib.repr(name.value)} stands twice; allowed: once"
            raise _error(file, (), name.line, wrong)
        entries[name.value] = _Part(name.line, _node(file, next(stream), stream, depth + 1).value)
    return _Part(line, entries)


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


def _error(file: str, at: tuple[str, ...], line: int, wrong: str) -> MappingError:
    where = ".".join(key if key.isprintable() else reprlib.repr(key) for key in at)
    return MappingError(": ".join(filter(None, (f"{file}:{line}", where, wrong))))
