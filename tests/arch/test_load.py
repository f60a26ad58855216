import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bfpsim.arch import (
    Arch,
    ArchError,
    Ports,
    SplitSram,
    Sram,
    dump_arch,
    load_arch,
    parse_arch,
    replace,
    shipped,
)

GOOD = """\
name: tiny
clock: 500 MHz
dram: {bandwidth: 6.4 GB/s, latency: 100 ns, burst: 32 B}
sram: {capacity: 64 KiB, width: 128 bit}
pe_array:
  rows: {size: 16, dim: C}
  cols: {size: 8, dim: K}
  stationary: weight
  mac_bits: 8
  accumulator_bits: 32
"""


def refusal(text: str) -> str:
    with pytest.raises(ArchError) as caught:
        parse_arch(text, "tiny.yaml")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_shipped_names_lead_to_the_architectures_they_name() -> None:
    assert len(shipped()) == 9 + 9 + 7
    for name in shipped():
        assert load_arch(name).name == name


@pytest.mark.parametrize("family", ["edge", "ideal"])
def test_a_family_differs_in_capacity_alone(family: str) -> None:
    reference = load_arch(f"{family}-64k")
    for kib in (16, 32, 64, 128, 256, 512):
        renamed = replace(reference, "name", f"{family}-{kib}k")
        assert load_arch(f"{family}-{kib}k") == replace(renamed, "sram.capacity", f"{kib} KiB")


@pytest.mark.parametrize("family", ["edge", "ideal"])
def test_variants_differ_from_64k_as_their_names_say(family: str) -> None:
    reference = load_arch(f"{family}-64k")
    double = replace(load_arch(f"{family}-64k-double"), "sram.double_buffered", False)
    assert replace(double, "name", reference.name) == reference
    im2col = load_arch(f"{family}-64k-im2col")
    assert im2col.pe_array.rows is not None
    assert im2col.pe_array.rows.dim == "CRS"
    assert replace(replace(im2col, "pe_array.rows.dim", "C"), "name", reference.name) == reference
    split = load_arch(f"{family}-64k-split")
    assert isinstance(split.sram, SplitSram)
    assert sum(split.buffer(tensor).capacity for tensor in "IWO") == reference.sram.capacity


@pytest.mark.parametrize("size", ["16k", "64k", "512k", "64k-double", "64k-im2col", "64k-split"])
def test_an_ideal_machine_is_the_edge_one_without_levels_ports_and_filling(size: str) -> None:
    edge, ideal = load_arch(f"edge-{size}"), load_arch(f"ideal-{size}")
    assert [level.name for level in edge.inner] == ["ibuf", "acc"][: 1 + ("split" not in size)]
    assert edge.pe_array.fill == "overlapped"
    for tensor in ("I", "W", "O"):
        ports = edge.buffer(tensor).ports
        assert (ports.read, ports.write) == (128, 128)
        assert edge.buffer(tensor).model_copy(update={"ports": Ports()}) == ideal.buffer(tensor)
    data = edge.model_dump() | {"name": ideal.name, "levels": [], "sram": ideal.sram.model_dump()}
    data["pe_array"] |= {"fill": "none"}
    data["vector"] = None
    assert Arch.model_validate(data) == ideal


@pytest.mark.parametrize("name", shipped())
def test_dump_and_parse_return_the_same_architecture(name: str) -> None:
    arch = load_arch(name)
    assert parse_arch(dump_arch(arch), "dumped") == arch


def test_dump_reads_like_a_hand_written_file() -> None:
    dumped = dump_arch(parse_arch(GOOD, "tiny.yaml"))
    assert dumped.splitlines()[:4] == [
        "name: tiny",
        "clock: 500 MHz",
        "dram: {bandwidth: 6.4 GB/s, latency: 100 ns, burst: 32 B, energy: 20 pJ/bit}",
        "sram: {capacity: 64 KiB, width: 128 bit, double_buffered: false, energy: 0.16 pJ/bit}",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "64 KiB",
            "64",
            "tiny.yaml:4: sram.capacity: 64 has no unit; "
            "write a capacity such as '64 KiB' or '524288 bit'",
        ),
        (
            "capacity:",
            "capcity:",
            "tiny.yaml:4: sram: unknown key 'capcity' (did you mean 'capacity'?); "
            "allowed keys: capacity, width, double_buffered, energy, leakage, ports",
        ),
        (
            "clock: 500 MHz\n",
            "",
            "tiny.yaml:1: clock: missing; needed keys: name, clock, dram, sram, pe_array",
        ),
        (
            "rows: {size: 16, dim: C}",
            "rows: {dim: C}",
            "tiny.yaml:6: pe_array.rows.size: missing; needed keys: size, dim",
        ),
        (
            "  rows: {size: 16, dim: C}\n",
            "",
            "tiny.yaml:5: pe_array: rows is missing; needed keys: rows and cols, or axes; "
            "stationary, mac_bits, accumulator_bits",
        ),
        (
            "  stationary: weight\n",
            "",
            "tiny.yaml:5: pe_array.stationary: missing; needed keys: rows and cols, or axes; "
            "stationary, mac_bits, accumulator_bits",
        ),
        (
            "stationary: weight",
            "stationary: weights",
            "tiny.yaml:8: pe_array.stationary: 'weights' is refused; "
            "allowed: 'weight', 'output' or 'input'",
        ),
        (
            "size: 16",
            "size: '16'",
            "tiny.yaml:6: pe_array.rows.size: '16' is refused; allowed: a whole number, unquoted",
        ),
        (
            "size: 8",
            "size: 0",
            "tiny.yaml:7: pe_array.cols.size: 0 is refused; allowed: greater than or equal to 1",
        ),
        (
            "dim: C",
            "dim: PK",
            "tiny.yaml:6: pe_array.rows.dim: 'PK' is no dimension of an axis; allowed: K, G, "
            "or one or more of N, P, Q, or one or more of C, R, S, each once, "
            "such as 'C', 'PQ' or 'CRS'",
        ),
        (
            "dim: C",
            "dim: K",
            "tiny.yaml:5: pe_array: rows 'K' and cols 'K' both unroll K; "
            "allowed: axes without a common dimension",
        ),
        (
            "width: 128 bit",
            "width: 128 bit, double_buffered: yes",
            "tiny.yaml:4: sram.double_buffered: 'yes' is refused; allowed: true or false",
        ),
        (
            "{capacity: 64 KiB, width: 128 bit}",
            "64 KiB",
            "tiny.yaml:4: sram: '64 KiB' is no mapping; "
            "allowed keys: capacity, width, double_buffered, energy, leakage, ports",
        ),
        (
            "{capacity: 64 KiB, width: 128 bit}",
            "{input: {capacity: 1 B, width: 1 bit}, weight: {capacity: 1 B, width: 1 bit}}",
            "tiny.yaml:4: sram.output: missing; needed keys: input, weight, output",
        ),
        (
            "name: tiny",
            "name: 64",
            "tiny.yaml:1: name: 64 is refused; allowed: text",
        ),
        (
            "name: tiny",
            "name: ../tiny",
            "tiny.yaml:1: name: '../tiny' is refused; "
            "allowed: letters, digits and . _ - after a first letter or digit",
        ),
        (
            "name: tiny",
            "name: tiny\nname: tiny",
            'tiny.yaml:2: not valid YAML: while constructing a mapping found duplicate key "name"',
        ),
        (
            "name: tiny",
            "7: tiny",
            "tiny.yaml:1: key 7 is no text; "
            "allowed keys: name, clock, dram, sram, levels, pe_array, dma, vector",
        ),
        (
            "name: tiny",
            "name: &a tiny",
            "tiny.yaml:1: anchor or alias 'a'; write the value out",
        ),
        (
            "name: tiny",
            "name: !!str tiny",
            "tiny.yaml:1: tag 'tag:yaml.org,2002:str'; write the value without a tag",
        ),
        (
            "name: tiny",
            f"name: {'x' * 257}",
            "tiny.yaml:1: 'xxxxxxxxxxxx...xxxxxxxxxxxxx' is too long; at most 256 characters",
        ),
    ],
)
def test_errors_name_file_line_key_fault_and_remedy(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert refusal(GOOD.replace(old, new)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tiny.yaml: empty; needed keys: name, clock, dram, sram, pe_array"),
        ("# only a comment\n", "tiny.yaml: empty; needed keys"),
        ("- name: tiny", "tiny.yaml:1: [{'name': 'tiny'}] is no mapping; allowed keys: name,"),
        ("name: [tiny", "tiny.yaml:1: not valid YAML: while parsing a flow sequence"),
        (f"{GOOD}---\n{GOOD}", "tiny.yaml:11: not valid YAML: expected a single document"),
        ("a: &a [1]\nb: [*a, *a]", "tiny.yaml:1: anchor or alias 'a'"),
        ("name: \x00", "tiny.yaml: not valid YAML: unacceptable character"),
        ("name: 2020-13-01", "tiny.yaml: not valid YAML: month must be in 1..12"),
        ("[" * 200, "tiny.yaml:1: nested too deep; at most 16 levels"),
        ("name: x\n[[a]]: 1\n", "tiny.yaml:2: a key is a list or a mapping; write keys as text"),
        ("name: x\n? {a: b}\n: 1\n", "tiny.yaml:2: a key is a list or a mapping"),
        ("name: x\n*a : 1\n", "tiny.yaml:2: a key is the alias 'a'; write keys as text"),
        (
            "%YAML 1.9\n---\nname: x",
            "tiny.yaml: not valid YAML: version minor part can only be 2 or 1",
        ),
        ("name: !!bool x", "tiny.yaml:1: tag 'tag:yaml.org,2002:bool'"),
    ],
)
def test_what_is_no_architecture_at_all(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


pieces = st.sampled_from(
    [*GOOD.split(), ": ", "\n", "  ", "- ", "{", "}", "[", "]", "? ", "&a ", "*a ", "!t ", "'", "|"]
)


@settings(deadline=None, max_examples=40)
@given(st.one_of(st.text(max_size=40), st.lists(pieces, max_size=12).map("".join)))
@example("a: 0b")
@example("? [a]\n: 2")
@example("%YAML 9.9\n--- a")
def test_no_text_escapes_as_another_error(text: str) -> None:
    refusal(text)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, len(GOOD)), pieces)
def test_no_edit_escapes_as_another_error(at: int, piece: str) -> None:
    edited = GOOD[:at] + piece + GOOD[at:]
    with suppress(ArchError):
        arch = parse_arch(edited, "tiny.yaml")
        assert parse_arch(dump_arch(arch), "dumped") == arch


def test_files_are_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        file = tmp_path / f"{encoding}.yaml"
        file.write_text(GOOD, encoding)
        assert load_arch(file) == load_arch(str(file)) == parse_arch(GOOD, "tiny.yaml")


def test_errors_in_a_file_start_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(GOOD.replace("500 MHz", "500"))
    with pytest.raises(ArchError, match=f"^{re.escape(str(file))}:2: clock: 500 has no unit"):
        load_arch(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("# Größe\n".encode("latin-1"))
    with pytest.raises(ArchError, match="byte 0xf6 at offset 4 is not UTF-8"):
        load_arch(latin)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 65537)
    with pytest.raises(ArchError, match="at most 65536 bytes"):
        load_arch(large)
    with pytest.raises(ArchError, match=f"^'{re.escape(str(tmp_path))}' cannot be read"):
        load_arch(tmp_path)
    with pytest.raises(ArchError, match=r"^'a\\x00b' cannot be read"):
        load_arch("a\0b")


def test_an_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ArchError) as caught:
        load_arch("ideal-46k")
    message = str(caught.value)
    assert message.startswith(
        "'ideal-46k' is neither a file nor a shipped architecture (did you mean 'ideal-64k'?)"
    )
    assert message.endswith(", ".join(shipped()))


def test_a_path_object_is_never_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ideal-64k").write_text(GOOD)
    assert load_arch("ideal-64k").name == "ideal-64k"
    assert load_arch(Path("ideal-64k")).name == "tiny"


def test_replace_changes_one_value_of_a_new_architecture() -> None:
    before = parse_arch(GOOD, "tiny.yaml")
    after = replace(before, "sram.capacity", "128 KiB")
    assert after.usable_bits("I") == 2**20
    assert before == parse_arch(GOOD, "tiny.yaml")
    assert replace(after, "sram.capacity", "64 KiB") == before


def test_replace_takes_whole_parts() -> None:
    part = Sram(capacity="1 KiB", width="8 bit")
    split = SplitSram(input=part, weight=part, output=part)
    assert replace(load_arch("ideal-64k"), "sram", split).sram == split
    assert replace(load_arch("ideal-64k"), "sram", split.model_dump()).sram == split


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sram.capacity", "128", "ideal-64k: sram.capacity: '128' has no unit; write a capacity"),
        (
            "sram.capcity",
            "1 B",
            "ideal-64k: 'sram.capcity': unknown key 'capcity' (did you mean 'capacity'?); "
            "allowed keys: capacity, width, double_buffered, energy, leakage, ports",
        ),
        ("sram.input.capacity", "1 B", "ideal-64k: 'sram.input.capacity': unknown key 'input'"),
        ("clock.x", "1 Hz", "ideal-64k: 'clock.x': nothing is below '500 MHz'"),
        ("", "1 Hz", "ideal-64k: '': unknown key ''; allowed keys: name, clock"),
        ("pe_array.rows.dim", "K", "ideal-64k: pe_array: rows 'K' and cols 'K' both unroll K"),
    ],
)
def test_replace_refuses_what_a_file_could_not_hold(path: str, value: str, message: str) -> None:
    with pytest.raises(ArchError, match="^" + re.escape(message)):
        replace(load_arch("ideal-64k"), path, value)
