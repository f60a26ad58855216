"""The spec of a sweep: a YAML file, or a mapping of the same keys.

```yaml
arch: ideal-64k
networks: [resnet18-fashion, vit-fashion]
formats: [bfp8, {I: bfp8, W: bfp8e3b16, O: plain16}]
axes:
  sram.capacity: [16 KiB, 64 KiB]
  dram.bandwidth: [3.2 GB/s, 6.4 GB/s]
```
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bfpsim.arch.plain_yaml import PlainYamlError, check_plain
from bfpsim.mapping.mapper import Model
from bfpsim.mapping.objective import Objective
from bfpsim.sim.simulate import Layers
from bfpsim.wording import hint, reason

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LARGEST_FILE = 1 << 20  # bytes
_MOST_NOTES = 20  # faults of a file that stand below the first
_BY_ALIAS = 10_000  # values that aliases may stand for

Loc = tuple[int | str, ...]
"""Keys and places that lead to a value of the file."""

_Values = Annotated[list[Any], Field(min_length=1)]


class SweepError(ValueError):
    """A sweep that cannot be read or run; its message is one line, its notes are more faults."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sweep comes from.

    name: for messages
    read: what ruamel read, which knows lines
    trusted: whether networks may be functions, which are called
    """

    name: str
    read: Any = None
    trusted: bool = True

    def error(self, loc: Loc, wrong: object) -> SweepError:
        """The error of the value at `loc`: `file:line: key: what is wrong; what is allowed`."""
        line, here = "", self.read
        for key in loc:
            try:
                row, _ = here.lc.key(key) if isinstance(key, str) else here.lc.item(key)
                here = here[key]
            except (AttributeError, LookupError, TypeError):
                break
            line = f":{row + 1}"
        path = ".".join(str(key) for key in loc)
        return SweepError(": ".join(filter(None, (self.name + line, path, _one_line(wrong)))))


class Setting(NamedTuple):
    """The value of a point on one axis, and where the sweep says so."""

    axis: str
    value: Any
    loc: Loc


class Spec(BaseModel):
    """A sweep.

    Networks and formats are crossed with each other and with the combinations of `axes` (`kind:
    grid`, every value with every other; `zip`, the first of each, the second of each, ...) or with
    `points` (`kind: points`). An axis is a dotted path into the architecture, or one of arch,
    network, format, objective, model and layers, which then has no key of its own. In Python, arch,
    networks and formats may be objects too.

    arch: a shipped name or a YAML file; relative paths start at the working directory
    networks: names or files, as `load_workload` takes them
    formats: one for all tensors, or {I: ..., W: ..., O: ...}
    objective, model: of the mapper, as in `find_mapping`
    layers: "alone", one layer after another as the models see them, or "program": all operations on
        one clock, what fits stays on chip; of least DRAM traffic, and without models
    ladder: whether to run the analytical models too; on large networks they take most of the time
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    arch: Any = None
    networks: _Values | None = None
    formats: _Values | None = None
    objective: Objective | None = None
    model: Model | None = None
    layers: Layers | None = None
    ladder: bool = True
    kind: Literal["grid", "zip", "points"] = "grid"
    axes: dict[str, _Values] = {}
    points: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None

    _source: Source = PrivateAttr(Source("sweep"))

    @property
    def source(self) -> Source:
        """The file, for messages."""
        return self._source

    def count(self) -> int:
        """How many points there are."""
        lengths = [len(values) for values in self.axes.values()]
        if self.points is not None:
            combinations = len(self.points)
        else:
            combinations = lengths[0] if self.kind == "zip" and lengths else math.prod(lengths)
        return len(self.networks or "1") * len(self.formats or "1") * combinations

    def settings(self) -> Iterator[tuple[Setting, ...]]:
        """The settings of every point, in the order of the tables: the last axis runs fastest."""
        given = {
            "arch": self.arch,
            "objective": self.objective,
            "model": self.model,
            "layers": self.layers,
        }
        single = [
            [Setting(key, value, (key,))] for key, value in given.items() if value is not None
        ]
        crossed = [
            [Setting(axis, value, (key, place)) for place, value in enumerate(values)]
            for axis, key, values in (
                ("network", "networks", self.networks),
                ("format", "formats", self.formats),
            )
            if values is not None
        ]
        combinations = self._combinations()
        for first in product(*single, *crossed):
            for then in combinations:
                yield (*first, *then)

    def _combinations(self) -> list[tuple[Setting, ...]]:
        if self.points is not None:
            return [
                tuple(Setting(axis, value, ("points", place, axis)) for axis, value in one.items())
                for place, one in enumerate(self.points)
            ]
        axes = [
            [Setting(axis, value, ("axes", axis, place)) for place, value in enumerate(values)]
            for axis, values in self.axes.items()
        ]
        return list(zip(*axes, strict=True) if self.kind == "zip" and axes else product(*axes))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "points" and self.points is None:
            raise _wrong("kind", "'points' needs the key points; allowed: grid, zip, or with it")
        if self.kind != "points" and self.points is not None:
            raise _wrong("points", f"kind is {self.kind!r}; allowed: with 'kind: points'")
        if self.points is not None and self.axes:
            raise _wrong("axes", "exclude points; allowed: one of them")
        lengths = {axis: len(values) for axis, values in self.axes.items()}
        if self.kind == "zip" and len(set(lengths.values())) > 1:
            shown = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
            raise _wrong("axes", f"differ in length: {shown}; allowed with zip: equal lengths")
        return self


def _wrong(key: str, wrong: str) -> PydanticCustomError:
    """An error for pydantic to raise: a key at odds with others; `_validate` reads where."""
    return PydanticCustomError("inconsistent", "{wrong}", {"key": key, "wrong": wrong})


def load_spec(source: str | Path | Mapping[str, Any], *, trust: bool = False) -> Spec:
    """The sweep that a YAML file describes, or a mapping of the same keys.

    trust: whether a file's networks may be module:function or file.py:function, which are run as
        they are loaded; a mapping's may

    Raises SweepError: `file:line: key: what is wrong; what is allowed`.
    """
    if isinstance(source, Mapping):
        return _validate(dict(source), Source("sweep"))
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    name = str(source)
    try:
        with open(source, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise SweepError(f"{name}: is too long; allowed: at most {_LARGEST_FILE} bytes")
        text = data.decode("utf-8-sig")
        check_plain(text, _BY_ALIAS)
        content = YAML(typ="safe", pure=True).load(text)
        read = YAML(typ="rt", pure=True).load(text)
    except OSError as error:
        raise SweepError(f"{name}: cannot be read: {reason(error)}; give a YAML file") from None
    except SweepError:
        raise
    except PlainYamlError as error:
        raise SweepError(f"{name}:{error.line}: {error}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = (error.problem or "").partition(" with value")[0]
        wrong = _one_line(f"{error.context or ''} {problem}")
        raise SweepError(f"{name}{line}: not valid YAML: {wrong}") from None
    except Exception as error:  # no UTF-8, an impossible date: ruamel raises what it trips over
        raise SweepError(f"{name}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise SweepError(f"{name}: is no mapping; allowed keys: {_key_names()}")
    return _validate(content, Source(name, read, trust))


def _validate(data: dict[str, Any], source: Source) -> Spec:
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        # A mistyped key may be why others are wrong.
        details = error.errors(include_url=False)
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
        first, *others = (_fault(detail, source) for detail in details[: 1 + _MOST_NOTES])
        for other in others:
            first.add_note(str(other))
        raise first from None
    spec._source = source
    return spec


def _fault(detail: ErrorDetails, source: Source) -> SweepError:
    """The error of one wrong value, where it stands."""
    keys = detail["loc"] or (detail.get("ctx", {}).get("key", ""),)
    loc = tuple(key for key in keys if key != "[key]")  # pydantic's word for a key itself
    return source.error(loc, _explain(detail))


def _explain(detail: ErrorDetails) -> str:
    """Say what is wrong with a value, and what is allowed."""
    value = reprlib.repr(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            near = hint(detail["loc"][-1], Spec.model_fields)
            return f"unknown key{near}; allowed keys: {_key_names()}"
        case "inconsistent":
            return detail["msg"]
        case "list_type" | "too_short":
            allowed = "a list of at least one value"
        case "dict_type":
            allowed = "keys and values"
        case "string_type":
            allowed = "text"
        case "bool_type" | "bool_parsing":
            allowed = "true or false"
        case _:
            allowed = detail["msg"].removeprefix("Input should be ")
    return f"{value} is refused; allowed: {allowed}"


def _key_names() -> str:
    return ", ".join(Spec.model_fields)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
