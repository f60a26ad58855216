"""The vector unit in an architecture: what a file says, and what follows from it."""

import re
from fractions import Fraction

import pytest

from bfpsim.arch import (
    Arch,
    ArchError,
    Vector,
    dump_arch,
    json_schema,
    load_arch,
    parse_arch,
    replace,
    replace_all,
    shipped,
)

IDEAL = load_arch("ideal-64k")
UNIT = {"lanes": 8, "energy": "0.1 pJ"}


def test_a_file_says_lanes_and_may_price_an_operation() -> None:
    arch = replace(IDEAL, "vector", UNIT)
    assert arch.vector == Vector(lanes=8, energy="100 fJ")
    assert arch.vector is not None
    assert (arch.vector.lanes, arch.vector.energy) == (8, Fraction(1, 10))
    assert arch.prices_more
    plain = replace(IDEAL, "vector", {"lanes": 1})
    assert plain.vector is not None
    assert plain.vector.energy is None
    assert not plain.prices_more


@pytest.mark.parametrize("unit", [UNIT, {"lanes": 3}, {"lanes": 1, "energy": "0 pJ"}])
def test_it_comes_back_from_a_file(unit: dict[str, object]) -> None:
    arch = replace(IDEAL, "vector", unit)
    assert parse_arch(dump_arch(arch), "dumped") == arch
    assert Arch.model_validate_json(arch.model_dump_json()) == arch
    assert replace(arch, "vector", None) == IDEAL
    assert "vector" not in dump_arch(IDEAL)


def test_its_keys_are_paths() -> None:
    arch = load_arch("edge-64k")
    assert replace(arch, "vector.lanes", 32).vector == Vector(lanes=32)
    both = replace_all(IDEAL, {"vector": {"lanes": 1, "energy": "3 fJ"}, "vector.lanes": 2})
    assert both.vector == Vector(lanes=2, energy="0.003 pJ")


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({"energy": "1 pJ"}, "vector.lanes: missing; needed keys: lanes"),
        ({"lanes": 0}, "vector.lanes: 0 is refused; allowed: greater than or equal to 1"),
        ({"lanes": "16"}, "vector.lanes: '16' is refused; allowed: a whole number, unquoted"),
        ({"lanes": 1, "energy": "1 pJ/bit"}, "vector.energy: '1 pJ/bit' is no energy; write an"),
        ({"lanes": 1, "energy": 1}, "vector.energy: 1 has no unit; write an energy such as"),
        ({"lanes": 1, "lane": 1}, "vector: unknown key 'lane' (did you mean 'lanes'?); allowed"),
        (16, "vector: 16 is no mapping; allowed keys: lanes, energy"),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_line(unit: object, message: str) -> None:
    with pytest.raises(ArchError, match="^" + re.escape(f"ideal-64k: {message}")) as caught:
        replace(IDEAL, "vector", unit)
    assert len(str(caught.value).splitlines()) == 1


def test_what_it_moves_has_prices_of_dram_and_of_the_inputs_buffer() -> None:
    split = load_arch("edge-64k-split")
    split = replace(split, "sram.input.energy", {"read": "0.2 pJ/bit", "write": "0.4 pJ/bit"})
    split = replace(split, "dram.energy", {"read": "7 pJ/bit", "write": "9 pJ/bit"})
    dram, sram, *inner = split.levels
    assert (dram.read_pj["V"], dram.write_pj["V"]) == (7.0, 9.0)
    assert (sram.read_pj["V"], sram.write_pj["V"]) == (0.2, 0.4)
    assert all("V" not in {*level.read_pj, *level.write_pj} for level in inner)
    assert not any(level.holds("V") for level in split.levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", shipped())
def test_every_machine_but_the_ideal_ones_has_a_vector_unit(name: str) -> None:
    vector = load_arch(name).vector
    if name.startswith("ideal"):
        assert vector is None
    else:
        assert vector is not None
        assert vector.energy is None
        assert vector.lanes == 16 or not name.startswith("edge")


def test_the_schema_has_it() -> None:
    definition = json_schema()["$defs"]["Vector"]
    assert {*definition["properties"]} == {"lanes", "energy"}
    assert definition["required"] == ["lanes"]
