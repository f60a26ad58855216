"""Architecture files: YAML to Arch and back, and the shipped specs."""

import copy
import io
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from bfpsim.arch.plain_yaml import PlainYamlError, check_plain
from bfpsim.arch.spec import (
    LEVEL_NAME,
    AccessEnergy,
    Arch,
    DeviceDram,
    Dram,
    Section,
    SplitSram,
    Sram,
)
from bfpsim.wording import hint, reason, same

if TYPE_CHECKING:  # ruamel is imported where a file is read, to keep `import arch` fast
    from pydantic_core import ErrorDetails
    from ruamel.yaml import YAML

_LARGEST_FILE = 65_536  # bytes: a whole architecture takes one
_MOST_NOTES = 20  # faults of a file that stand below the first
_BAD_KEY = ("extra_forbidden", "invalid_key")

# What an error's location has beside keys: which kind of value was taken to be meant.
_KINDS: dict[int | str, type[Section] | None] = {
    "Dram": Dram,
    "DeviceDram": DeviceDram,
    "Sram": Sram,
    "SplitSram": SplitSram,
    "AccessEnergy": AccessEnergy,
    "PerBit": None,
}


ArchSource = Arch | str | Path
"""An architecture, or what stands for one: a shipped name, or the path of a YAML file."""


class ArchError(ValueError):
    """An architecture that cannot be read or built; its message is one line.

    Its notes are the faults of a file beside the first, a line each.
    """


@cache
def shipped() -> tuple[str, ...]:
    """Names of the architectures that come with the package, the shortest first."""
    files = (file.name for file in resources.files("bfpsim.arch").joinpath("specs").iterdir())
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def load_arch(source: ArchSource) -> Arch:
    """The architecture of a shipped name such as 'ideal-64k', or of a YAML file; itself of one.

    A str that is a shipped name means that spec, any other str or a Path a file; if there is none,
    a shipped name in another case. Raises ArchError if there is no such thing, or for whatever is
    wrong in it.
    """
    if isinstance(source, Arch):
        return source
    if not isinstance(source, str | Path):
        raise ArchError(
            f"{reprlib.repr(source)} is no architecture; allowed: an Arch, a shipped name, the "
            "path of a YAML file"
        )
    if isinstance(source, str) and source in shipped():
        return _load_shipped(source)
    path = str(source)
    try:
        with open(source, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        if isinstance(source, str) and (name := same(source, shipped())) is not None:
            return _load_shipped(name)
        raise ArchError(
            f"{path!r} is neither a file nor a shipped architecture"
            f"{hint(Path(path).stem, shipped())}; "
            f"shipped: {', '.join(shipped())}"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ArchError(f"{path!r} cannot be read: {reason(error)}; give a YAML file") from None
    if len(data) > _LARGEST_FILE:
        raise _error(path, f"longer than an architecture can be; at most {_LARGEST_FILE} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise _error(path, f"{wrong} is not UTF-8; write the file as UTF-8 text") from None
    return parse_arch(text, path)


def _load_shipped(name: str) -> Arch:
    spec = resources.files("bfpsim.arch").joinpath("specs", f"{name}.yaml")
    return parse_arch(spec.read_text("utf-8"), f"{name}.yaml")


def parse_arch(text: str, source: str) -> Arch:
    """The architecture that YAML `text` describes; `source` is its name in error messages.

    Raises ArchError: `source:line: key.path: what is wrong; what is allowed`.
    """
    from ruamel.yaml.error import MarkedYAMLError

    try:
        check_plain(text)
        data = _yaml().load(text)
    except PlainYamlError as error:
        raise _error(source, str(error), line=error.line) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # ruamel goes on to show the values of a duplicate key, half-built
        problem = (error.problem or "").partition(" with value")[0]
        wrong = "not valid YAML: " + _one_line(f"{error.context or ''} {problem}")
        raise _error(source, wrong, line=mark.line + 1 if mark else None) from None
    except Exception as error:  # an impossible date, a version: ruamel raises what it trips over
        raise _error(source, f"not valid YAML: {_one_line(error)}") from None
    if data is None:
        raise _error(source, f"empty; needed keys: {Arch.needed_keys()}")
    return _validate(data, source, text)


def dump_arch(arch: ArchSource) -> str:
    """YAML that `parse_arch` reads back to an equal architecture."""
    arch = load_arch(arch)
    stream = io.StringIO()
    yaml = _yaml()
    yaml.default_flow_style = None  # innermost mappings on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 4096
    yaml.dump(_without_empty(_as_file(arch)), stream)
    return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of an architecture file, for editors."""
    schema = Arch.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def replace(arch: Arch, path: str, value: object) -> Arch:
    """`arch` with the value at a dotted `path` replaced: replace(arch, "sram.capacity", "1 MiB").

    A level between SRAM and array goes by its name, levels.acc.capacity, an axis by its place from
    0, pe_array.axes.0.size. `value` is what a file would hold there. Raises ArchError for an
    unknown path or a value that a file could not hold.
    """
    return replace_all(arch, {path: value})


def replace_all(arch: Arch, values: Mapping[str, object]) -> Arch:
    """`arch` with the values at several dotted paths replaced, which need only fit together.

    A part replaced as a whole comes before what is below it, whatever their order. Raises
    ArchError as `replace`.
    """
    data = _as_file(arch)
    for path in sorted(values, key=lambda path: path.count(".")):
        here: Any = data
        for key in path.split("."):
            part, place = here, _place(here, key)
            if not isinstance(part, dict | list):
                wrong = f"nothing is below {reprlib.repr(part)}; stop the path before {key!r}"
                raise ArchError(f"{arch.name}: {path!r}: {wrong}")
            if place is None:
                keys = [str(own) for own in _keys_below(part)]
                near, allowed = hint(key, keys), ", ".join(keys) or "none"
                wrong = f"unknown key {key!r}{near}; allowed keys: {allowed}"
                raise ArchError(f"{arch.name}: {path!r}: {wrong}")
            here = part[place]
        part[place] = copy.deepcopy(values[path])  # paths below it are written into it
    return _validate(data, arch.name)


def _as_file(arch: Arch) -> dict[str, Any]:
    """An architecture as its file holds it, with None where it says nothing."""

    def listed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: listed(value) for key, value in part.items()}
        return [listed(own) for own in part] if isinstance(part, list | tuple) else part

    data: dict[str, Any] = listed(arch.model_dump())
    return data


def _keys_below(part: Any) -> list[Any]:
    """What a path may go on with: keys, names of levels, or places in a list."""
    if isinstance(part, dict):
        return list(part)
    named = [own.get("name") if isinstance(own, dict) else None for own in part]
    return [place if name is None else name for place, name in enumerate(named)]


def _place(part: Any, key: str) -> Any:
    """Where in a part of a file a key of a path leads; None if it leads nowhere."""
    if not isinstance(part, dict | list):
        return None
    keys = [str(own) for own in _keys_below(part)]
    if key not in keys:
        return None
    place = keys.index(key)
    return [*part][place] if isinstance(part, dict) else place


def _without_empty(part: Any) -> Any:
    """A dumped part without what nobody gave: None, and empty lists and mappings."""
    if isinstance(part, dict):
        kept = {key: _without_empty(value) for key, value in part.items()}
        return {key: value for key, value in kept.items() if value not in (None, {}, [])}
    return [_without_empty(own) for own in part] if isinstance(part, list) else part


def _yaml() -> "YAML":
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True)  # pure: marks on errors, duplicate keys refused


def _validate(data: object, source: str, text: str | None = None) -> Arch:
    try:
        return Arch.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A mistyped key is also a missing one; the typo explains both.
    typos = {detail["loc"][:-1] for detail in details if detail["type"] in _BAD_KEY}
    details.sort(key=lambda detail: detail["type"] not in _BAD_KEY)
    first, *others = (
        detail
        for detail in details
        if detail["type"] != "missing" or detail["loc"][:-1] not in typos
    )
    more = f" (and {len(others)} more)" if others else ""
    refusal = _fault(first, data, source, text, more)
    for detail in others[:_MOST_NOTES]:
        refusal.add_note(str(_fault(detail, data, source, text)))
    raise refusal


def _fault(
    detail: "ErrorDetails", data: object, source: str, text: str | None, more: str = ""
) -> ArchError:
    """The error of one wrong thing: where it stands, what is wrong, what is allowed."""
    keys = [key for key in detail["loc"] if key not in _KINDS]
    line = _line(text, keys) if text is not None else None
    wrong = _explain(detail, _part(detail["loc"][:-1]), _part(detail["loc"]))
    if detail["type"] in _BAD_KEY:
        keys.pop()  # the message quotes it
    return _error(source, wrong + more, _by_name(data, keys), line)


def _by_name(data: Any, keys: Sequence[int | str]) -> list[int | str]:
    """The path of an error in `data` as `replace` takes it: levels by name, if they have one."""
    path: list[int | str] = []
    for key in keys:
        listed = isinstance(data, list) and isinstance(key, int)
        data = data[key] if listed else data.get(key) if isinstance(data, dict) else None
        name = data.get("name") if listed and isinstance(data, dict) else None
        path.append(name if isinstance(name, str) and re.search(LEVEL_NAME, name) else key)
    return path


def _explain(detail: "ErrorDetails", around: type[Section], here: type[Section]) -> str:
    """What is wrong and what is allowed, of the key of part `around`, or of part `here`."""
    key, value = (detail["loc"] or ("",))[-1], reprlib.repr(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            near = hint(key, _keys(around).split(", "))
            return f"unknown key {reprlib.repr(key)}{near}; allowed keys: {_keys(around)}"
        case "invalid_key":
            return f"key {reprlib.repr(key)} is no text; allowed keys: {_keys(around)}"
        case "missing":
            return f"missing; needed keys: {around.needed_keys()}"
        case "model_type":
            return f"{value} is no mapping; allowed keys: {_keys(here)}"
        case "value_error":
            return _one_line(detail["ctx"]["error"])
        case "int_type":
            allowed = "a whole number, unquoted"
        case "bool_type":
            allowed = "true or false"
        case "string_type":
            allowed = "text"
        case "tuple_type":
            allowed = "a list"
        case "too_short":
            allowed = "a list of at least one"
        case "string_pattern_mismatch" if around is Arch:
            allowed = "letters, digits and . _ - after a first letter or digit"
        case "string_pattern_mismatch":
            allowed = "letters, digits and _ - after a first letter"
        case _:
            allowed = detail["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return f"{value} is refused; allowed: {allowed}"


def _part(loc: Sequence[int | str]) -> type[Section]:
    """The class of the part that an error's location leads to; of its parent for a value."""
    part: type[Section] = Arch
    for key in loc:
        part = _KINDS.get(str(key)) or _sections(part).get(str(key), part)
    return part


def _sections(part: type[Section]) -> dict[str, type[Section]]:
    """The parts that keys of a part hold, one each or a list of them."""
    found = {}
    for name, field in part.model_fields.items():
        for held in (field.annotation, *_arguments(field.annotation)):
            if isinstance(held, type) and issubclass(held, Section):
                found[field.alias or name] = held
    return found


def _arguments(annotation: Any) -> Iterator[Any]:
    """What is inside an annotation such as tuple[Axis, ...] | None."""
    for inside in get_args(annotation):
        yield inside
        yield from _arguments(inside)


def _line(text: str, keys: Sequence[int | str]) -> int:
    """The line on which the value at `keys` stands, or the deepest part that leads to it."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    node = _yaml().compose(text)
    line = int(node.start_mark.line) + 1
    for wanted in keys:
        if isinstance(node, SequenceNode) and isinstance(wanted, int):
            node = node.value[wanted]
            line = int(node.start_mark.line) + 1
            continue
        if not isinstance(node, MappingNode):
            break
        for key, value in node.value:
            if key.value == str(wanted):
                line, node = int(key.start_mark.line) + 1, value
                break
        else:
            break
    return line


def _keys(part: type[Section]) -> str:
    return ", ".join(field.alias or name for name, field in part.model_fields.items())


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _error(
    source: str, wrong: str, keys: Sequence[int | str] = (), line: int | None = None
) -> ArchError:
    place = source if source.isprintable() else repr(source)
    if line is not None:
        place += f":{line}"
    path = ".".join(str(key) for key in keys)
    return ArchError(f"{place}: {path}: {wrong}" if path else f"{place}: {wrong}")
