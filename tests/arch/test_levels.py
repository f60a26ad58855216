"""Levels between SRAM and array, ports, axes as a list, fill, and the DMA's port, as files say."""

import re

import pytest

from bfpsim.arch import (
    ArchError,
    Axis,
    InnerLevel,
    PEArray,
    Ports,
    dump_arch,
    load_arch,
    parse_arch,
    replace,
    replace_all,
)

DEEP = """\
name: deep
clock: 500 MHz
dram: {bandwidth: 6.4 GB/s, latency: 100 ns, burst: 32 B}
sram:
  capacity: 64 KiB
  width: 128 bit
  ports: {read: 256 bit}
levels:
- name: spad
  tensors: [I, W]
  capacity: 4 KiB
- name: acc
  tensors: [O]
  capacity: 16 KiB
  double_buffered: true
  energy: 0.05 pJ/bit
  ports:
    read: 512 bit
    write: 64 B
pe_array:
  axes:
  - {size: 8, dim: C}
  - {size: 8, dim: K}
  - {size: 4, dim: PQ}
  stationary: weight
  mac_bits: 8
  accumulator_bits: 32
  fill: overlapped
dma: {port: shared, width: 16 B}
"""
EDGE = load_arch("ideal-64k")
ARCH = parse_arch(DEEP, "deep.yaml")


def refusal(old: str, new: str) -> str:
    assert DEEP.count(old) == 1
    with pytest.raises(ArchError) as caught:
        parse_arch(DEEP.replace(old, new), "deep.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_levels_stand_outermost_first_with_what_they_hold() -> None:
    assert [level.name for level in ARCH.levels] == ["DRAM", "SRAM", "spad", "acc"]
    held = ["".join(t for t in "IWO" if level.holds(t)) for level in ARCH.levels]
    assert held == ["IWO", "IWO", "IW", "O"]
    dram, sram, spad, acc = ARCH.levels
    assert (dict(dram.buffers), dict(dram.memories)) == ({}, dict.fromkeys("IWO", "DRAM"))
    assert sram.buffers["W"] is ARCH.buffer("W")
    assert (spad.memories, spad.buffers["I"].capacity) == ({"I": "spad", "W": "spad"}, 32 * 1024)
    assert (acc.buffers["O"].usable_bits, acc.read_pj, acc.write_pj) == (
        8 * 1024 * 8,
        {"O": 0.05},
        {"O": 0.05},
    )


def test_without_levels_there_are_two() -> None:
    assert [level.name for level in EDGE.levels] == ["DRAM", "SRAM"]
    assert EDGE.inner == ()
    split = load_arch("ideal-64k-split")
    assert split.levels[1].memories == {"I": "SRAM I", "W": "SRAM W", "O": "SRAM O"}


def test_ports_limit_only_where_said() -> None:
    assert EDGE.buffer("I").ports == Ports() == Ports(read=None, write=None)
    assert ARCH.buffer("I").ports == Ports(read="256 bit")
    acc = ARCH.levels[3].buffers["O"].ports
    assert (acc.read, acc.write) == (512, 512)  # 64 bytes of 8 bit


def test_fill_and_dma_are_off_unless_said() -> None:
    assert (EDGE.pe_array.fill, EDGE.dma.port, EDGE.dma.width) == ("none", "own", None)
    assert (ARCH.pe_array.fill, ARCH.dma.port, ARCH.dma.width) == ("overlapped", "shared", 128)


def test_rows_and_cols_are_the_shorthand_of_two_axes() -> None:
    array = EDGE.pe_array
    assert array.axes == (array.rows, array.cols)
    axes = [axis.model_dump() for axis in array.axes]
    listed = replace_all(
        EDGE, {"pe_array.rows": None, "pe_array.cols": None, "pe_array.axes": axes}
    )
    assert listed.pe_array.axes == array.axes
    assert listed.pe_array.size == array.size == 256
    assert ARCH.pe_array.size == 8 * 8 * 4


def test_one_axis_is_an_array_too() -> None:
    line = PEArray(
        axes=[{"size": 64, "dim": "CRS"}], stationary="output", mac_bits=8, accumulator_bits=32
    )
    assert (line.axes, line.size) == ((Axis(size=64, dim="CRS"),), 64)


def test_dump_and_parse_return_the_same_and_leave_out_what_is_not_said() -> None:
    dumped = dump_arch(ARCH)
    assert parse_arch(dumped, "dumped") == ARCH
    for absent in ("null", "{}", "[]", "rows", "cols", "over:", "write: 256"):
        assert absent not in dumped
    assert "- {size: 4, dim: PQ}" in dumped
    assert "ports: {read: 512 bit, write: 512 bit}" in dumped
    assert "dma: {halo: sliding, padding: skip, port: shared, width: 128 bit}" in dumped
    assert dumped.index("name: spad") < dumped.index("tensors: [I, W]") < dumped.index("name: acc")
    for absent in ("ports", "levels", "axes", "width: null", "over:"):
        assert absent not in dump_arch(EDGE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("levels.acc.capacity", "1 KiB"),
        ("levels.acc.ports.read", "64 bit"),
        ("levels.spad.ports.write", "64 bit"),
        ("levels.spad.tensors", ["W"]),
        ("levels.spad.tensors.0", "O"),
        ("levels.acc.double_buffered", False),
        ("sram.ports.read", None),
        ("pe_array.axes.2.size", 16),
        ("pe_array.fill", "each_fold"),
        ("dma.width", "8 bit"),
    ],
)
def test_replace_changes_what_the_path_names_alone(path: str, value: object) -> None:
    changed = replace(ARCH, path, value)
    assert changed != ARCH
    before, after = ARCH.model_dump(mode="json"), changed.model_dump(mode="json")
    for key in path.split("."):
        if isinstance(before, list):
            names = [isinstance(own, dict) and own.get("name") for own in before]
            key = names.index(key) if key in names else int(key)
            rest = [place for place in range(len(before)) if place != key]
        else:
            rest = [own for own in before if own != key]
        assert [before[own] for own in rest] == [after[own] for own in rest]
        before, after = before[key], after[key]
    assert after == value


def test_a_level_of_another_name_goes_by_it() -> None:
    renamed = replace(ARCH, "levels.acc.name", "sums")
    assert replace(renamed, "levels.sums.capacity", "1 KiB").inner[1].capacity == 8192
    with pytest.raises(ArchError, match=r"unknown key 'acc'; allowed keys: spad, sums$"):
        replace(renamed, "levels.acc.capacity", "1 KiB")


def test_levels_are_replaced_as_a_whole_before_what_is_in_them() -> None:
    level = {"name": "acc", "tensors": ["O"], "capacity": "1 KiB"}
    built = replace_all(EDGE, {"levels.acc.capacity": "2 KiB", "levels": [level]})
    assert built.inner == (InnerLevel(name="acc", tensors=("O",), capacity="2 KiB"),)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "levels.ac.capacity",
            "1 B",
            "deep: 'levels.ac.capacity': unknown key 'ac' (did you mean 'acc'?); "
            "allowed keys: spad, acc",
        ),
        (
            "levels.acc.capcity",
            "1 B",
            "deep: 'levels.acc.capcity': unknown key 'capcity' (did you mean 'capacity'?); "
            "allowed keys: name, tensors, capacity, width, double_buffered, energy, leakage, ports",
        ),
        ("levels.1.capacity", "1 B", "deep: 'levels.1.capacity': unknown key '1'; allowed keys"),
        ("pe_array.axes.3.size", 1, "deep: 'pe_array.axes.3.size': unknown key '3'; allowed"),
        (
            "pe_array.axes.1.dim",
            "C",
            "deep: pe_array: axes.0 'C' and axes.1 'C' both unroll C; allowed: axes without",
        ),
        ("levels.acc.capacity", "128", "deep: levels.acc.capacity: '128' has no unit; write"),
        ("levels", 5, "deep: levels: 5 is refused; allowed: a list"),
        ("levels.acc.name", "x\ny", "deep: levels.1.name: 'x\\ny' is refused; allowed: letters"),
        ("dma.port", "none", "deep: dma.port: 'none' is refused; allowed: 'own' or 'shared'"),
        ("dma.width", "0 bit", "deep: dma.width: '0 bit' is zero; write a width such as"),
        (
            "pe_array.fill",
            "once",
            "deep: pe_array.fill: 'once' is refused; allowed: 'none', 'each_fold' or 'overlapped'",
        ),
    ],
)
def test_replace_refuses_in_one_line(path: str, value: object, message: str) -> None:
    with pytest.raises(ArchError, match="^" + re.escape(message)) as caught:
        replace(ARCH, path, value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "capacity: 16 KiB",
            "capacity: 16",
            "deep.yaml:14: levels.acc.capacity: 16 has no unit; "
            "write a capacity such as '64 KiB' or '524288 bit'",
        ),
        (
            "  tensors: [O]\n",
            "",
            "deep.yaml:12: levels.acc.tensors: missing; needed keys: name, tensors, capacity",
        ),
        (
            "- name: acc\n  tensors",
            "- tensors",
            "deep.yaml:12: levels.1.name: missing; needed keys: name, tensors, capacity",
        ),
        (
            "tensors: [O]",
            "tensors: [O, X]",
            "deep.yaml:13: levels.acc.tensors.1: 'X' is refused; allowed: 'I', 'W' or 'O'",
        ),
        (
            "tensors: [O]",
            "tensors: [O, O]",
            "deep.yaml:13: levels.acc.tensors: O, O repeats one; allowed: each tensor once",
        ),
        (
            "tensors: [O]",
            "tensors: []",
            "deep.yaml:13: levels.acc.tensors: [] is refused; allowed: a list of at least one",
        ),
        (
            "tensors: [O]",
            "tensors: O",
            "deep.yaml:13: levels.acc.tensors: 'O' is refused; allowed: a list",
        ),
        (
            "name: acc",
            "name: spad",
            "deep.yaml:8: levels: a level is called 'spad'; allowed: a name of its own, none of "
            "DRAM, SRAM, registers, array, dram, sram, all, compulsory, I, W, O, spad",
        ),
        (
            "name: acc",
            "name: SRAM",
            "deep.yaml:8: levels: a level is called 'SRAM'; allowed: a name of its own, none of "
            "DRAM, SRAM, registers, array, dram, sram, all, compulsory, I, W, O, spad",
        ),
        (
            "name: acc",
            "name: 2acc",
            "deep.yaml:12: levels.1.name: '2acc' is refused; "
            "allowed: letters, digits and _ - after a first letter",
        ),
        (
            "write: 64 B",
            "wirte: 64 B",
            "deep.yaml:19: levels.acc.ports: unknown key 'wirte' (did you mean 'write'?); "
            "allowed keys: read, write",
        ),
        (
            "read: 512 bit",
            "read: 512",
            "deep.yaml:18: levels.acc.ports.read: 512 has no unit; "
            "write a width such as '128 bit' or '16 B'",
        ),
        (
            "- {size: 8, dim: K}",
            "- {size: 8, dim: KC}",
            "deep.yaml:23: pe_array.axes.1.dim: 'KC' is no dimension of an axis; allowed: K, G, or",
        ),
        (
            "  - {size: 8, dim: K}",
            "  - 8",
            "deep.yaml:23: pe_array.axes.1: 8 is no mapping; allowed keys: size, dim, over",
        ),
        (
            "  axes:",
            "  rows: {size: 8, dim: G}\n  axes:",
            "deep.yaml:20: pe_array: axes beside rows; allowed: axes, or rows and cols",
        ),
        (
            "dim: C}",
            "dim: R, over: K}",
            "deep.yaml:20: pe_array: axes.0.over 'K' and axes.1 'K' both unroll K; "
            "allowed: axes without a common dimension",
        ),
    ],
)
def test_errors_in_lists_name_the_line(old: str, new: str, message: str) -> None:
    assert refusal(old, new).startswith(message)


def test_an_axis_may_be_filled_up_with_another_dimension() -> None:
    axis = Axis(size=12, dim="R", over="K")
    assert (axis.dim, axis.over) == ("R", "K")
    with pytest.raises(ValueError, match="'KC' is no dimension of an axis; allowed: K, G, or one"):
        Axis(size=12, dim="R", over="KC")
