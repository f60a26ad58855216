"""The API reference, from docstrings: a page of Markdown with every public name of bfpsim.

    python docs/api.py [out/api.md]

Names stand under the module that holds them; of classes, their public methods and properties too.
"""

import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bfpsim as bs


def reference() -> str:
    """The page."""
    lines = ["# API reference", "", f"bfpsim {bs.__version__}: `import bfpsim as bs`", ""]
    by_module: dict[str, list[str]] = {}
    for name in bs.__all__:
        by_module.setdefault(str(getattr(bs, name).__module__), []).append(name)
    for module in sorted(by_module):
        lines += [f"- `{module}`: " + ", ".join(f"[{n}](#{n.lower()})" for n in by_module[module])]
    for module in sorted(by_module):
        lines += ["", f"## {module}", "", inspect.getdoc(sys.modules[module]) or ""]
        for name in by_module[module]:
            lines += _entry(name, getattr(bs, name))
    return "\n".join(lines) + "\n"


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield from ("", f"### {name}", "", "```python", f"{name}{_signature(thing)}", "```", "")
    yield from (_text(thing), "")
    if not inspect.isclass(thing):
        return
    for own, member in vars(thing).items():
        function = getattr(member, "__func__", member)  # of class and static methods
        function = member.fget if isinstance(member, property) else function
        if own.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        call = "" if isinstance(member, property) else _signature(function)
        yield from ("", f"#### {name}.{own}", "", "```python", f"{own}{call}", "```", "")
        yield from (_text(function), "")


def _signature(thing: Any) -> str:
    if isinstance(thing, enum.EnumType):
        return ": " + ", ".join(repr(member.value) for member in thing)
    if hasattr(thing, "model_fields"):  # a section of an architecture file
        return f"(*, {', '.join(own.alias or name for name, own in thing.model_fields.items())})"
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)))
    except (TypeError, ValueError):  # of exceptions
        return ""


def _text(thing: Any) -> str:
    """A docstring, as it stands; Markdown would join its lines."""
    return f"```text\n{inspect.getdoc(thing)}\n```"


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/api.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(reference(), encoding="utf-8")
    print(out)
