"""Lower floors never import higher ones; nothing heavy is imported before it is used."""

import subprocess
import sys

import pytest


def test_the_floors_hold() -> None:
    from importlinter.cli import lint_imports

    assert lint_imports(no_cache=True) == 0


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import bfpsim", ("numpy", "pandas", "torch", "matplotlib", "pydantic", "simpy")),
        (
            "import bfpsim.commands.app",
            ("numpy", "pandas", "torch", "matplotlib", "pydantic", "simpy"),
        ),
        ("import bfpsim as bs; bs.simulate, bs.ConvLayer, bs.BFP", ("torch", "matplotlib")),
        (
            "import bfpsim.reports.capacity, bfpsim.reports.tables, bfpsim.search.buffers",
            ("torch", "matplotlib"),
        ),
        ("import bfpsim.arch", ("ruamel",)),
        ("import bfpsim.commands.rtl, bfpsim.reports.rtl", ("amaranth",)),
        (
            "from bfpsim.commands.app import run; run('simulate vit-fashion'.split())",
            ("pandas", "pyarrow", "matplotlib", "torch", "pint"),
        ),
        ("import bfpsim.workloads", ("onnx", "torch", "safetensors.torch")),
        ("import bfpsim.quant.formats.ties", ("numba", "llvmlite", "torch")),
        ("import bfpsim.quant.torch.fake_quantize", ("numba", "llvmlite")),
    ],
)
def test_heavy_packages_load_only_where_they_are_used(
    statement: str, absent: tuple[str, ...]
) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in output.stdout.split()}
    assert not loaded & set(absent)


def test_every_public_name_is_there() -> None:
    import bfpsim

    for name in bfpsim.__all__:
        assert getattr(bfpsim, name) is not None
    assert set(bfpsim.__all__) < set(dir(bfpsim))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bfpsim.nonsense  # noqa: B018
