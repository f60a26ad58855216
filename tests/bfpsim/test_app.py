"""The command line, run in process: help, and one line for every bad input."""

import pytest

from bfpsim.commands.app import run

FASHION = ["simulate", "resnet18-fashion"]
SMALL = ["--layer", "fc"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_and_version(capsys) -> None:
    assert call(capsys, "--help")[0] == 0
    assert call(capsys, "simulate", "--help")[0] == 0
    code, text, _ = call(capsys, "--version")
    assert (code, text.split()[0]) == (0, "bfpsim")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ""),
        (["frobnicate"], "No such command"),
        (["simulate"], "Missing argument"),
        (["simulate", "resnet99"], "'resnet99'"),
        ([*FASHION, "--arch", "edge-1t"], "'edge-1t' is neither a file nor a shipped"),
        ([*FASHION, "--format", "bfp3e2b4"], "leaves a mantissa of 1 bit"),
        ([*FASHION, "--format", "bfp8,bfp8"], "has 2 parts; allowed: 1, or 3"),
        ([*FASHION, "--layer", "conv9"], "--layer 'conv9' is not in resnet18-fashion"),
        ([*FASHION, "--order", "KC"], "need --layer"),
        ([*FASHION, *SMALL, "--tile", "K"], "--tile part 'K'"),
        ([*FASHION, *SMALL, "--tile", "K=²"], "--tile part 'K=²'; allowed: DIM=SIZE"),
        ([*FASHION, *SMALL, "--tile", "K=1,K=2"], "names K twice"),
        ([*FASHION, *SMALL, "--order", "R"], "R and S stay whole"),
        ([*FASHION, *SMALL, "--tile", "K=99"], "tile K=99; allowed: 1..10"),
        (
            [*FASHION, *SMALL, "--tile", "K=4", "--order", "K", "-f", "bfp8e3b8"],
            "cuts a block of 8",
        ),
        (
            ["simulate", "resnet18", "--layer", "conv1", "--tile", "P=56", "--order", "P"],
            "shared SRAM is short by",
        ),
        ([*FASHION, "--json", "--csv"], "exclude each other"),
        ([*FASHION, "--weights", "x"], "need --images"),
        ([*FASHION, "--images", "shipped", *SMALL], "runs the whole network"),
        ([*FASHION, "--images", "none.idx"], "none.idx"),
        ([*FASHION, "--images", "shipped", "--count", "1001"], "1001 images asked for"),
        ([*FASHION, "--images", "shipped", "--count", "0"], "--count"),
        ([*FASHION, "--images", "shipped", "--weights", "none.safetensors"], "none.safetensors"),
        (["simulate", "resnet18", "--images", "shipped"], "no weights are shipped"),
        (["arch", "check", "none.yaml"], "none.yaml"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, arguments, expected: str) -> None:
    code, _, error = call(capsys, *arguments)
    assert code == 2
    assert expected in error
    assert error.count("\n") == (1 if arguments else 0)
    assert "Traceback" not in error
