import re

import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.spec import SweepError, load_spec
from bfpsim.workloads import Network, NetworkBuilder

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))


BOMB = "axes:\n- &a0 [0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"- &a{n} [{', '.join(8 * [f'*a{n - 1}'])}]\n" for n in range(1, 30)
)
MANY = ", ".join(f"a{axis}: {[0] * 40}" for axis in range(4)) + f", b: {[0] * 655}"


@pytest.fixture(scope="module")
def network() -> Network:
    build = NetworkBuilder("tiny", input_shape=(1, 8, 8, 4))
    build.conv("conv2", build.conv("conv1", "input", 8, kernel=3), 8, kernel=1)
    return build.network()


@pytest.fixture
def points(tmp_path):
    def read(text: str):
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return plan(load_spec(path))

    return read


def test_a_grid_crosses_everything_and_its_last_axis_runs_fastest(points):
    found = points("""
arch: ideal-64k
networks: [resnet18-fashion, vit-fashion]
formats: [bfp8, {I: bfp8, W: bfp8e4b8, O: plain16}]
objective: energy
ladder: false
axes:
  sram.capacity: [16 KiB, 64 KiB]
  sram.double_buffered: [false, true]
""")
    assert len(found) == 2 * 2 * 2 * 2
    assert [point.network.name for point in found] == ["resnet18-fashion"] * 8 + ["vit-fashion"] * 8
    mixed = LayerFormats(BFP(8, 3, 16), BFP(8, 4, 8), Plain(16))
    assert [set(point.formats) for point in found[:8]] == [{BFP8}] * 4 + [{mixed}] * 4
    assert [point.axes for point in found[:4]] == [
        (("sram.capacity", size), ("sram.double_buffered", double))
        for size in ("16 KiB", "64 KiB")
        for double in (False, True)
    ]
    edge = load_arch("ideal-64k")
    assert found[1].arch == replace(
        replace(edge, "sram.capacity", "16 KiB"), "sram.double_buffered", True
    )
    assert found[2].arch == edge
    assert {(point.objective, point.model, point.ladder) for point in found} == {
        ("energy", "full", False)
    }


def test_zip_takes_the_axes_together(points):
    found = points("""
arch: ideal-64k
networks: [resnet18-fashion]
kind: zip
axes:
  format: [bfp8, bfp16]
  pe_array.rows.size: [16, 8]
  objective: [dram, latency]
""")
    assert [
        (point.formats_name, point.arch.pe_array.rows.size, point.objective) for point in found
    ] == [("bfp8e3b16", 16, "dram"), ("bfp16e5b16", 8, "latency")]


def test_points_are_taken_as_listed_and_swapped_axes_of_an_array_at_once(points):
    # One after the other, both axes would unroll the same dimension for a moment.
    found = points("""
networks: [resnet18-fashion]
formats: [plain16]
kind: points
points:
- {arch: ideal-64k, pe_array.rows.dim: K, pe_array.cols.dim: C}
- {arch: ideal-64k-split, sram.input.capacity: 64 KiB, model: exact}
""")
    first, second = (point.arch for point in found)
    assert (first.pe_array.rows.dim, first.pe_array.cols.dim) == ("K", "C")
    assert (second.name, second.buffer("I").capacity) == ("ideal-64k-split", 64 * 8192)
    assert [point.model for point in found] == ["full", "exact"]
    assert found[0].axes == (("pe_array.rows.dim", "K"), ("pe_array.cols.dim", "C"))


def test_without_axes_a_sweep_is_networks_by_formats(network):
    (point,) = plan(load_spec({"arch": load_arch("ideal-16k"), "networks": [network],
                               "formats": [BFP(8, 3, 16)]}))  # fmt: skip
    assert (point.network, point.arch.name, point.formats) == (network, "ideal-16k", (BFP8,) * 2)
    assert point.axes == ()


SRAM = {"capacity": "64 KiB", "width": "128 bit"}


def test_a_whole_part_comes_before_what_is_below_it_and_stays_as_given(network):
    given = {**SRAM}
    found = plan(
        load_spec(
            {
                "arch": load_arch("ideal-64k"),
                "networks": [network],
                "formats": ["bfp8"],
                "kind": "points",
                "points": [
                    {"sram.capacity": "4 KiB", "sram": given},
                    {"sram": given, "sram.width": "64 bit"},
                    {"sram": given},
                ],
            }
        )
    )
    assert [p.arch.buffer("I").capacity for p in found] == [4 * 8192, 64 * 8192, 64 * 8192]
    assert [p.arch.sram.width for p in found] == [128, 64, 128]
    assert given == SRAM
    assert [dict(p.axes)["sram"] for p in found] == [SRAM] * 3


def test_an_alias_in_the_file_stands_for_what_it_names(points):
    found = points("""
arch: ideal-64k
networks: [resnet18-fashion]
formats: [bfp8]
kind: points
points:
- {sram: &a {capacity: 64 KiB, width: 128 bit}}
- {sram: *a, sram.capacity: 2 KiB}
- {sram: *a, sram.width: 64 bit}
""")
    assert [p.arch.buffer("I").capacity for p in found] == [64 * 8192, 2 * 8192, 64 * 8192]


def test_two_things_of_one_name_are_refused(network):
    edge = load_arch("ideal-64k")
    spec = {"arch": edge, "networks": [network], "formats": ["bfp8"]}
    build = NetworkBuilder("tiny", input_shape=(1, 8, 8, 4))
    build.conv("conv1", "input", 8, kernel=1)
    with pytest.raises(SweepError, match=r"networks\.1: .*networks\.0 .*its name, 'tiny'; allowed"):
        plan(load_spec(spec | {"networks": [network, build.network()]}))
    del spec["arch"]
    axes = {"arch": [edge, replace(edge, "sram.capacity", "1 KiB")]}
    with pytest.raises(SweepError, match=r"axes\.arch\.1: .*axes\.arch\.0 .*its name, 'ideal-64k'"):
        plan(load_spec(spec | {"axes": axes}))
    axes = {"arch": [edge, replace(axes["arch"][1], "name", "small")]}
    assert len(plan(load_spec(spec | {"axes": axes}))) == 2


HEAD = "arch: ideal-64k\nnetworks: [resnet18-fashion]\nformats: [bfp8]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is no mapping; allowed keys: arch, networks, formats, objective, model, "),
        ("a: [", ":1: not valid YAML: while parsing a flow"),
        (HEAD + "arch: ideal-16k", ":4: not valid YAML: while constructing a mapping found dupl"),
        (HEAD + "axis: {}", ":4: axis: unknown key (did you mean 'axes'?); allowed keys: arch, n"),
        (HEAD + "kind: list", ":4: kind: 'list' is refused; allowed: 'grid', 'zip' or 'points'"),
        (HEAD + "ladder: 3", ":4: ladder: 3 is refused; allowed: true or false"),
        (HEAD + "axes: {sram.capacity: 3}", ":4: axes.sram.capacity: 3 is refused; allowed: a l"),
        (HEAD + "axes: {sram.capacity: []}", ":4: axes.sram.capacity: [] is refused; allowed: a"),
        (HEAD + "objective: speed", ":4: objective: 'speed' is refused; allowed: 'dram', 'energy"),
        (HEAD + "kind: points", ":4: kind: 'points' needs the key points; allowed: grid, zip, or"),
        (HEAD + "points: [{}]", ":4: points: kind is 'grid'; allowed: with 'kind: points'"),
        (HEAD + "axes: {1: [1 KiB]}", ":4: axes.1: 1 is refused; allowed: text"),
        (
            HEAD + "kind: points\npoints: [{a: 1}]\naxes: {a: [1]}",
            ":6: axes: exclude points; allowed: one of them",
        ),
        (
            HEAD + "kind: zip\naxes: {sram.capacity: [16 KiB], dram.burst: [1 bit, 32 B]}",
            ":5: axes: differ in length: sram.capacity has 1, dram.burst has 2; allowed with zip",
        ),
        ("networks: [resnet18]\nformats: [bfp8]", ": arch is missing; allowed: arch, or an axis a"),
        ("arch: ideal-64k\nformats: [bfp8]", ": networks is missing; allowed: networks, or an axi"),
        (
            HEAD + "axes:\n  sram.capacity:\n  - 64 KiB\n  - 16\n",
            ":7: axes.sram.capacity.1: ideal-64k: sram.capacity: 16 has no unit; write a capacity",
        ),
        (
            HEAD + "axes: {sram.size: [1]}",
            ":4: axes.sram.size.0: ideal-64k: 'sram.size': unknown key 'size'; allowed keys: capa",
        ),
        (
            HEAD + "axes:\n  sram.size: [1]\n  sram.width: [128 bit]",
            ":5: axes.sram.size.0: ideal-64k: 'sram.size': unknown key 'size'; allowed keys: capa",
        ),
        (
            HEAD + "axes:\n  sram.capacity: [1]\n  sram.width: [128 bit]",
            ":5: axes.sram.capacity.0: ideal-64k: sram.capacity: 1 has no unit; write a capacity",
        ),
        (
            HEAD + "axes:\n  pe_array.rows.dim: [C, K]\n  pe_array.cols.dim: [K]\n",
            ":6: axes.pe_array.cols.dim.0: ideal-64k: pe_array: rows 'K' and cols 'K' both unroll",
        ),
        (
            HEAD + "axes:\n  network: [resnet18]",
            ":5: axes.network.0: network is given by networks too; allowed: once",
        ),
        (
            HEAD + "axes: {model: [rough]}",
            ":4: axes.model.0: 'rough' is refused; allowed: exact, f",
        ),
        (
            "arch: edge-9\nnetworks: [resnet18-fashion]\nformats: [bfp8]",
            ":1: arch: 'edge-9' is neither a file nor a shipped architecture",
        ),
        (HEAD + "[[a]]: 1\n", ":4: a key is a list or a mapping; write keys as text"),
        (HEAD + "objective: !!bool x\n", ":4: tag 'tag:yaml.org,2002:bool'; write the value with"),
        (HEAD + "axes: {a: &a [*a]}\n", ":4: anchor 'a' stands within itself; write the value ou"),
        (HEAD + BOMB, ":9: aliases stand for too much; at most 10000 values in all"),
        (HEAD + "axes: {" + MANY + "}\n", ": has 1676800000 points; allowed: at most 1000000"),
        (
            HEAD + "kind: " + "9" * 300,
            ":4: '999999999999...9999999999999' is too long; at most 256",
        ),
        ("arch: 3\nnetworks: [resnet18-fashion]\nformats: [bfp8]", ":1: arch: 3 is no architect"),
        ("arch: ideal-64k\nnetworks:\n- resnet19\nformats: [bfp8]", ":3: networks.0: "),
        (
            "arch: ideal-64k\nnetworks: [resnet18-fashion]\nformats: [bfp8, fp8]",
            ":3: formats.1: format 'fp8'; allowed: bfp8",
        ),
        (
            "arch: ideal-64k\nnetworks: [resnet18-fashion]\nformats: [{I: bfp8, W: bfp8}]",
            ":3: formats.0: {'I': 'bfp8', 'W': 'bfp8'} is no format; allowed: bfp8 or another",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line_before_anything_runs(points, text, message):
    with pytest.raises(SweepError, match=rf"sweep\.yaml{re.escape(message)}") as caught:
        points(text)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"arch: \xff")
    (tmp_path / "deep.yaml").write_text("[" * 1000)
    for name, message in (
        ("gone.yaml", "cannot be read: No such file"),
        ("latin.yaml", "not valid YAML: 'utf-8' codec can't decode"),
        ("deep.yaml", "1: nested too deep; at most 16"),
    ):
        with pytest.raises(SweepError, match=f"{name}: ?{message}"):
            load_spec(tmp_path / name)
    with pytest.raises(SweepError, match="sweep: axis: unknown key"):
        load_spec({"axis": {}})


CALLED = """
from pathlib import Path

Path("called").touch()


def make():
    import torch

    return torch.nn.Conv2d(3, 4, 3)
"""


@pytest.mark.parametrize(
    "text",
    [
        "arch: ideal-64k\nnetworks: ['os:abort']\nformats: [bfp8]\n",
        "arch: ideal-64k\nnetworks: ['made.py:make']\nformats: [bfp8]\n",
        "arch: ideal-64k\nformats: [bfp8]\naxes: {network: ['made.py:make']}\n",
        "arch: ideal-64k\nformats: [bfp8]\nkind: points\npoints: [{network: 'made:make'}]\n",
    ],
)
def test_a_file_runs_no_code_that_it_names(points, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.py").write_text(CALLED)
    with pytest.raises(SweepError, match=r"' would be run as it is loaded; allowed: .* --trust$"):
        points(text)
    assert not (tmp_path / "called").exists()


def test_who_trusts_a_file_lets_it_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.py").write_text(CALLED.replace("(3, 4, 3)", "(3, 4, 'wrong')"))
    path = tmp_path / "sweep.yaml"
    path.write_text("arch: ideal-64k\nnetworks: ['made.py:make']\nformats: [bfp8]\n")
    with pytest.raises(SweepError, match=r"networks\.0: workload 'made\.py:make'"):
        plan(load_spec(path, trust=True))
    assert (tmp_path / "called").exists()
