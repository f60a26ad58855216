"""YAML that holds data alone, and is no larger than it looks.

Aliases let a small file stand for a huge value, tags make other things than data, and keys that are
no text fit into no mapping.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

_DEEPEST = 16  # nested collections: an architecture has 4
_LONGEST_SCALAR = 256  # characters: beyond this a number alone takes long to read


class PlainYamlError(ValueError):
    """What is refused, and the `line` on which it stands."""

    def __init__(self, wrong: str, line: int) -> None:
        super().__init__(wrong)
        self.line = line


def check_plain(text: str, by_alias: int = 0) -> None:
    """Raise `PlainYamlError` for the first thing in ``text`` that is no plain data.

    by_alias: how many values aliases may stand for in all; with none, anchors are refused too

    Raises ruamel's errors for what is no YAML.
    """
    from ruamel.yaml import YAML, events

    keys: list[bool | None] = []  # of each open collection: whether a key comes next, None in lists
    anchors: list[str | None] = []  # of each open collection
    values, copied = 0, 0
    sizes: dict[str, int] = {}  # anchor -> values below it; of an open one, minus those before
    for event in YAML(typ="safe", pure=True).parse(text):
        wrong = _fault(event, depth=len(keys), is_key=bool(keys and keys[-1]))
        if isinstance(event, events.CollectionEndEvent):
            keys.pop()
            if (closed := anchors.pop()) is not None:
                sizes[closed] += values + copied
        if isinstance(event, events.NodeEvent):
            values += 1
            if keys and keys[-1] is not None:
                keys[-1] = not keys[-1]
            if event.anchor is not None:
                wrong = wrong or _alias_fault(event.anchor, anchors, by_alias)
        if isinstance(event, events.AliasEvent):
            copied += sizes.get(event.anchor, 0)
            if copied > by_alias:
                wrong = wrong or f"aliases stand for too much; at most {by_alias} values in all"
        elif isinstance(event, events.NodeEvent) and event.anchor is not None:
            is_open = isinstance(event, events.CollectionStartEvent)
            sizes[event.anchor] = -(values + copied) if is_open else 1
        if isinstance(event, events.CollectionStartEvent):
            keys.append(True if isinstance(event, events.MappingStartEvent) else None)
            anchors.append(event.anchor)
        if wrong:
            raise PlainYamlError(wrong, event.start_mark.line + 1)


def _alias_fault(anchor: str, open_anchors: list[str | None], by_alias: int) -> str | None:
    if not by_alias:
        return f"anchor or alias {reprlib.repr(anchor)}; write the value out"
    if anchor in open_anchors:
        return f"anchor {reprlib.repr(anchor)} stands within itself; write the value out"
    return None


def _fault(event: Event, depth: int, is_key: bool) -> str | None:
    from ruamel.yaml import events

    if isinstance(event, events.CollectionStartEvent):
        if depth == _DEEPEST:
            return f"nested too deep; at most {_DEEPEST} levels"
        if is_key:
            return "a key is a list or a mapping; write keys as text"
    if is_key and isinstance(event, events.AliasEvent):
        return f"a key is the alias {reprlib.repr(event.anchor)}; write keys as text"
    tag = getattr(event, "tag", None)
    if tag is not None:
        return f"tag {reprlib.repr(str(tag))}; write the value without a tag"
    if isinstance(event, events.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
        shown = reprlib.repr(event.value)
        return f"{shown} is too long; at most {_LONGEST_SCALAR} characters"
    return None
