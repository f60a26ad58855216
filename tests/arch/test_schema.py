"""The JSON schema: what it accepts, by a reading of the standard that is the tests' own."""

import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from ruamel.yaml import YAML

from bfpsim.arch import dump_arch, json_schema, load_arch, parse_arch, shipped

SCHEMA = json_schema()
KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool,
    "integer": int, "number": (int, float),
}  # fmt: skip

EVERYTHING = """\
name: everything
clock: 1 GHz
dram:
  bandwidth: 6.4 GB/s
  latency: 100 ns
  burst: 32 B
  energy: {read: 4 pJ/bit, write: 5 pJ/bit}
  background: 20 mW
sram:
  input: {capacity: 32 KiB, width: 128 bit, ports: {read: 128 bit, write: 128 bit}}
  weight: {capacity: 16 KiB, width: 128 bit, energy: cacti-45nm, leakage: cacti-22nm}
  output: {capacity: 16 KiB, width: 128 bit, double_buffered: true, leakage: 3 uW}
levels:
- {name: spad, tensors: [I, W], capacity: 4 KiB, ports: {read: 64 bit}}
- {name: acc, tensors: [O], capacity: 16 KiB, energy: 0.05 pJ/bit}
pe_array:
  axes:
  - {size: 12, dim: R, over: C}
  - {size: 8, dim: K}
  - {size: 4, dim: PQ}
  stationary: weight
  mac_bits: 8
  accumulator_bits: 32
  mac_energy: {4: 0.05 pJ, 8: 0.2 pJ}
  fill: overlapped
dma: {port: shared, width: 128 bit}
"""


def accepts(value: Any, rule: dict[str, Any]) -> bool:
    """Whether a rule of the schema holds for a value, by JSON Schema 2020-12."""
    if "$ref" in rule:
        return accepts(value, SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]])
    known = rule.get("properties", {})

    def some_match(key: object) -> bool:
        return any(re.search(pattern, str(key)) for pattern in rule.get("patternProperties", ()))

    number = isinstance(value, int | float) and not isinstance(value, bool)
    keywords: dict[str, Callable[[Any], bool]] = {
        "type": lambda kind: (
            isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
        ),
        "enum": lambda allowed: value in allowed,
        "pattern": lambda text: not isinstance(value, str) or bool(re.search(text, value)),
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
        "minimum": lambda least: not number or value >= least,
        "maximum": lambda most: not number or value <= most,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "items": lambda own: not isinstance(value, list) or all(accepts(v, own) for v in value),
        "required": lambda keys: not isinstance(value, dict) or set(keys) <= set(value),
        "properties": lambda known: (
            not isinstance(value, dict)
            or all(accepts(value[key], known[key]) for key in set(value) & set(known))
        ),
        "additionalProperties": lambda extra: (
            not isinstance(value, dict)
            or (not extra and all(key in known or some_match(key) for key in value))
        ),
        "patternProperties": lambda rules: (
            not isinstance(value, dict)
            or all(
                accepts(own, rule)
                for key, own in value.items()
                for pattern, rule in rules.items()
                if re.search(pattern, str(key))
            )
        ),
        "minProperties": lambda least: not isinstance(value, dict) or len(value) >= least,
        "anyOf": lambda rules: any(accepts(value, own) for own in rules),
        "oneOf": lambda rules: sum(accepts(value, own) for own in rules) == 1,
    }
    silent = {"$schema", "$defs", "title", "description", "default", "examples"}
    assert set(rule) <= set(keywords) | silent, set(rule) - set(keywords) - silent
    return all(keywords[name](said) for name, said in rule.items() if name in keywords)


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_every_key_is_described() -> None:
    parts = SCHEMA["$defs"]
    assert set(parts) == {
        *("Dram", "DeviceDram", "Sram", "SplitSram", "InnerLevel", "Ports", "AccessEnergy"),
        *("PEArray", "Axis", "Register", "Registers", "Dma", "Vector"),
    }
    for part in (SCHEMA, *parts.values()):
        assert part["additionalProperties"] is False
        assert all(field.get("description") for field in part["properties"].values())


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_is_accepted(name: str) -> None:
    file = resources.files("bfpsim.arch").joinpath("specs", f"{name}.yaml")
    assert accepts(read(file.read_text()), SCHEMA)
    assert accepts(read(dump_arch(load_arch(name))), SCHEMA)


def test_every_key_is_accepted_by_schema_and_parser() -> None:
    assert accepts(read(EVERYTHING), SCHEMA)
    arch = parse_arch(EVERYTHING, "everything.yaml")
    dumped = dump_arch(arch)
    assert accepts(read(dumped), SCHEMA)
    assert parse_arch(dumped, "dumped") == arch


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("clock: 1 GHz\n", ""),
        ("1 GHz", "1 GB"),
        ("axes:", "rows:"),
        ("size: 12", "size: 0"),
        ("dim: R,", "dim: RK,"),
        ("over: C", "over: CK"),
        ("name: acc", "name: 1acc"),
        ("tensors: [O]", "tensors: []"),
        ("tensors: [O]", "tensors: [X]"),
        ("port: shared", "port: none"),
        ("read: 64 bit", "reed: 64 bit"),
        ("write: 5 pJ/bit", "wirte: 5 pJ/bit"),
        ("{read: 4 pJ/bit, write: 5 pJ/bit}", "cacti-45nm"),
        ("background: 20 mW", "background: 20 mJ"),
        ("leakage: 3 uW", "leakage: 3"),
        ("{4: 0.05 pJ, 8: 0.2 pJ}", "{}"),
        ("{4: 0.05 pJ, 8: 0.2 pJ}", "{four: 0.05 pJ}"),
        ("{4: 0.05 pJ, 8: 0.2 pJ}", "{8: 0.2 pJ/bit}"),
        ("fill: overlapped", "fill: true"),
        ("energy: cacti-45nm", "energy: cacti-46nm"),
        ("double_buffered: true", "double_buffered: 1"),
    ],
)
def test_what_the_parser_refuses_the_schema_refuses(old: str, new: str) -> None:
    assert old in EVERYTHING
    text = EVERYTHING.replace(old, new)
    with pytest.raises(ValueError, match=r"^x\.yaml"):
        parse_arch(text, "x.yaml")
    assert not accepts(read(text), SCHEMA)


def test_defaults_are_what_a_file_would_hold() -> None:
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        for field in part["properties"].values():
            assert accepts(field.get("default"), field) or "default" not in field
    parts = SCHEMA["$defs"]
    assert parts["Dram"]["properties"]["energy"]["default"] == "20 pJ/bit"
    assert parts["Sram"]["properties"]["energy"]["default"] == "0.16 pJ/bit"
