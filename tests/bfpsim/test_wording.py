"""Messages: the name that was meant, folders called folders, every fault of a file at once."""

import os
from difflib import SequenceMatcher
from pathlib import Path

import pytest

import bfpsim as bs
from bfpsim.arch import dump_arch, load_arch, shipped
from bfpsim.commands.app import run
from bfpsim.wording import hint, nearest, reason, same
from bfpsim.workloads import names


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    return code, *capsys.readouterr()


@pytest.mark.parametrize("known", [names(), shipped()], ids=["networks", "architectures"])
def test_a_slip_of_the_pen_leads_to_the_name(known: tuple[str, ...]) -> None:
    for place, name in enumerate(known):
        at = place % (len(name) - 1)
        swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
        for slip in (name[:at] + name[at + 1 :], swapped, name.upper(), name + "x"):
            found = nearest(slip, known)
            assert found is not None
            likeness = SequenceMatcher(None, slip.lower(), found.lower()).ratio()
            best = max(SequenceMatcher(None, slip.lower(), own.lower()).ratio() for own in known)
            assert likeness >= best - 0.07, (slip, found)  # the ratio depends on who comes first
            assert repr(found) in hint(slip, known)
        assert same(name.upper(), known) == name
    assert nearest("zzzz", known) is None
    assert same("zzzz", known) is None
    assert hint("zzzz", known) == ""


def test_two_names_that_differ_in_case_alone_are_not_mixed_up() -> None:
    assert same("NET", ["net", "Net"]) is None


def test_names_in_another_case_are_what_they_name(tmp_path: Path, monkeypatch) -> None:
    assert bs.load_workload("ResNet18") == bs.load_workload("resnet18")
    assert load_arch("EDGE-64K") == load_arch("edge-64k")
    monkeypatch.chdir(tmp_path)
    own = load_arch("ideal-16k")
    Path("EDGE-64K").write_text(dump_arch(own))  # a file of that very name comes first
    if "edge-64k" not in os.listdir("."):
        assert load_arch("EDGE-64K") == own


def test_mobilenetv2_is_the_paper_s_without_attention() -> None:
    network = bs.load_workload("mobilenetv2")
    # 299,494,272 of its 52 convolutions (arXiv 1801.04381: "300 M"), 1280 x 1000 of the last layer.
    assert (network.macs, len(network.layers)) == (299_494_272 + 1_280_000, 53)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulate", "resnet81"], "'resnet81' is not shipped (did you mean 'resnet18'?)"),
        (["simulate", "MobileNet"], "(did you mean 'mobilenetv2'?)"),
        (["simulate", "resnet18", "--arch", "edge64k"], "(did you mean 'edge-64k'?)"),
        (["simulate", "resnet18", "--layer", "Conv_1"], "(did you mean 'conv1'?)"),
        (["simulate", "."], "workload '.' is a folder"),
        (["simulate", "folder.yaml"], "folder.yaml: cannot be read: it is a folder"),
        (["simulate", "folder.csv"], "folder.csv: cannot be read: it is a folder"),
        (["simulate", "resnet18", "--arch", "."], "'.' cannot be read: it is a folder"),
        (["simulate", "resnet18", "--mappings", "."], ".: cannot be read: it is a folder"),
        (["sweep", "."], ".: cannot be read: it is a folder"),
    ],
)
def test_commands_name_what_was_meant(
    capsys, monkeypatch, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder.yaml", "folder.csv"):
        Path(name).mkdir()
    code, _, error = call(capsys, *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error


def test_reasons_are_words() -> None:
    assert reason(IsADirectoryError(21, "Is a directory")) == "it is a folder"
    assert reason(FileNotFoundError(2, "No such file or directory")) == "No such file or directory"
    assert reason(ValueError("embedded null byte")) == "embedded null byte"


def test_every_fault_of_an_architecture_is_said_at_once(capsys, tmp_path: Path) -> None:
    """Each fault alone makes the same line as in a file that has all of them."""
    faults = [
        ("clock: 500 MHz", "clock: 500 Mz"),
        ("6.4 GB/s", "6.4 GB"),
        ("64 KiB", "64"),
        ("stationary: weight", "stationary: wait"),
        ("mac_bits: 8", "mac_bit: 8"),
    ]
    good = dump_arch(load_arch("ideal-64k"))
    file = tmp_path / "my.yaml"
    alone = []
    for old, new in faults:
        assert good.count(old) == 1
        file.write_text(good.replace(old, new))
        code, _, error = call(capsys, "arch", "check", str(file))
        assert (code, error.count("\n")) == (2, 1)
        alone.append(error.strip())
    text = good
    for old, new in faults:
        text = text.replace(old, new)
    file.write_text(text)
    _, _, error = call(capsys, "simulate", "resnet18", "--arch", str(file))
    lines = error.strip().split("\n")
    assert lines[0] == alone[-1] + f" (and {len(faults) - 1} more)"  # a mistyped key comes first
    assert sorted(lines[1:]) == sorted(alone[:-1])


def test_every_fault_of_a_network_is_said_at_once(capsys, tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(
        "name: net\nnodes:\n"
        "- {name: image, op: input, shape: [1, 8, 8, 3]}\n"
        "- {name: a, op: conv, inputs: [image], K: 0}\n"
        "- {name: b, op: conv, inputs: [a], K: 4}\n"  # reads a, of which nothing is known
        "- {name: c, op: conv, inputs: [imag], K: 4}\n"
        "- {name: d, op: conv, inputs: [image], K: 4, paddin: 1}\n"
        "- {name: e, op: conv, inputs: [image], K: 4, R: 9, S: 9}\n"
    )
    code, _, error = call(capsys, "simulate", str(file))
    lines = error.strip().split("\n")
    assert code == 2
    assert [line.split("net.yaml:")[1].split(":")[0] for line in lines] == ["4", "6", "7", "8"]
    assert "did you mean 'image'?" in lines[1]
    assert "did you mean 'padding'?" in lines[2]


def test_of_many_faults_the_first_are_said(capsys, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        dump_arch(load_arch("ideal-64k")) + "".join(f"key{place}: 1\n" for place in range(500))
    )
    _, _, error = call(capsys, "arch", "check", str(file))
    assert error.count("\n") == 21
