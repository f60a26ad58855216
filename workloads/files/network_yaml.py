"""A network as a YAML file, brief enough to be written by hand: one line per node.

```yaml
name: tiny
nodes:
- {name: image, op: input, shape: [1, 8, 8, 3]}
- {name: conv1, op: conv, inputs: [image], K: 16, R: 3, S: 3, padding: 1}
- {name: relu1, op: relu, inputs: [conv1]}
```
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bfpsim.workloads.files.row import Cell, Row, Value, brief_values, network_of
from bfpsim.workloads.files.text import quote, read_text, write_text
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network

if TYPE_CHECKING:  # ruamel is imported where a file is read or written
    from ruamel.yaml.nodes import Node as Part

_WIDEST = 1 << 30  # columns: a node is one line, however long


def write_yaml(network: Network, path: str | Path) -> None:
    """Write a network so that `read_yaml` returns an equal one; defaults are left out.

    Equal networks make equal bytes. Raises `WorkloadError` if the file cannot be written.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    nodes = list[CommentedMap]()
    shapes = {node.name: network.shape(node.name) for node in network.nodes}
    for node in network.nodes:
        values = brief_values(node, shapes).items()
        line = CommentedMap({key: _safe(value) for key, value in values})
        line.fa.set_flow_style()
        nodes.append(line)
    yaml = YAML(pure=True)
    yaml.width = _WIDEST
    stream = io.StringIO()
    yaml.dump({"name": _safe(network.name), "nodes": nodes}, stream)
    write_text(path, stream.getvalue())


def read_yaml(path: str | Path) -> Network:
    """Return the network of a YAML file.

    Raises `WorkloadError`: file, line, node and key, what is wrong, and what is allowed.
    """
    from ruamel.yaml.nodes import SequenceNode

    file = str(path)
    top = _mapping(file, _root(file, read_text(path)))
    for key, (line, _) in top.items():
        if key not in ("name", "nodes"):
            raise _error(file, line, f"key {quote(key)} is refused; allowed: name, nodes")
    for key in ("name", "nodes"):
        if key not in top:
            raise WorkloadError(f"{file}: {key} is missing; allowed: name and nodes")
    line, part = top["name"]
    name = _cell(file, "name", line, part)
    if isinstance(name, tuple) or not name.strip():
        raise _error(file, line, "name is refused; allowed: text that is not empty")
    line, part = top["nodes"]
    if not isinstance(part, SequenceNode) or not part.value:
        raise _error(file, line, "nodes is refused; allowed: a list of at least one node")
    return network_of(name, [_row(file, node) for node in part.value])


def _safe(value: Value) -> Value:
    """Double quotes around any text but a plain name: ruamel's other styles lose ``?x``, U+0085."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, list):
        return cast("list[int] | list[str]", [_safe(item) for item in value])
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", value):
        return value
    safe: str = DoubleQuotedScalarString(value)
    return safe


def _root(file: str, text: str) -> Part:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        # Composed, not constructed: scalars stay the text that they are, and know their lines.
        root: Part | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        wrong = _one_line(f"is not valid YAML: {error.context or ''} {error.problem or ''}")
        raise _error(file, mark.line + 1 if mark else 1, wrong) from None
    except RecursionError:
        raise WorkloadError(f"{file}: is nested too deep; allowed: a list of nodes") from None
    except Exception as error:  # an escape of no character: ruamel raises what it trips over
        raise WorkloadError(f"{file}: is not valid YAML: {_one_line(str(error))}") from None
    if root is None:
        raise WorkloadError(f"{file}: is empty; allowed: name and nodes")
    return root


def _row(file: str, node: Part) -> Row:
    entries = _mapping(file, node)
    cells = {key: _cell(file, key, line, part) for key, (line, part) in entries.items()}
    lines = {key: line for key, (line, _) in entries.items()}
    return Row(file, int(node.start_mark.line) + 1, cells, lines)


def _mapping(file: str, node: Part) -> Mapping[str, tuple[int, Part]]:
    """Key -> its line and its value."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    line = int(node.start_mark.line) + 1
    if not isinstance(node, MappingNode):
        raise _error(file, line, f"{_shown(node)} is refused; allowed: keys and values")
    entries: dict[str, tuple[int, Part]] = {}
    for key, value in node.value:
        line = int(key.start_mark.line) + 1
        if not isinstance(key, ScalarNode):
            raise _error(file, line, "a key is no text; allowed: text")
        if key.value in entries:
            raise _error(file, line, f"key {quote(key.value)} stands twice; allowed: once")
        entries[str(key.value)] = (line, value)
    return entries


def _cell(file: str, key: str, line: int, part: Part) -> Cell:
    from ruamel.yaml.nodes import ScalarNode, SequenceNode

    if isinstance(part, ScalarNode):
        return str(part.value)
    if isinstance(part, SequenceNode) and all(isinstance(item, ScalarNode) for item in part.value):
        return tuple(str(item.value) for item in part.value)
    wrong = f"{quote(key)} holds too much; allowed: one value, or a list of values"
    raise _error(file, line, wrong)


def _shown(node: Part) -> str:
    return "a list" if isinstance(node.value, list) else quote(node.value)


def _error(file: str, line: int, wrong: str) -> WorkloadError:
    return WorkloadError(f"{file}:{line}: {wrong}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
