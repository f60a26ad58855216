"""One door for every source: which reader is asked, and what is said where there is none."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bfpsim.workloads import (
    NetworkBuilder,
    WorkloadError,
    load_with_weights,
    load_workload,
    names,
    resnet18,
    save_workload,
)


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """Importers that return a marked network, and the list of what they were asked."""
    network = NetworkBuilder("imported", (1, 2, 2, 1)).network()
    calls = []

    def importer(kind):
        def run(source, shapes):
            calls.append((kind, str(source) if isinstance(source, Path) else source, shapes))
            return SimpleNamespace(network=network, weights={"some": "weights"})

        return run

    for module, functions in (
        ("onnx.model", ("import_onnx",)),
        ("torch.module", ("import_torch", "import_module_function")),
    ):
        fake = ModuleType(f"bfpsim.workloads.importers.{module}")
        for function in functions:
            setattr(fake, function, importer(function))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return calls


@pytest.mark.parametrize(
    ("source", "importer"),
    [
        ("nets/model.onnx", "import_onnx"),
        ("MODEL.ONNX", "import_onnx"),
        (Path("model.onnx"), "import_onnx"),
        ("C:/nets/model.onnx", "import_onnx"),
        ("package.module:function", "import_module_function"),
        ("nets/model.py:function", "import_module_function"),
    ],
)
@pytest.mark.parametrize("shapes", [None, {"x": (1, 3, 8, 8)}])
def test_the_importer_that_a_source_asks_for(asked, source, importer, shapes):
    network, weights = load_with_weights(source, shapes)
    assert (network.name, weights) == ("imported", {"some": "weights"})
    assert load_workload(source, shapes) == network
    assert asked == 2 * [(importer, str(source), shapes)]


def test_a_torch_module_stands_for_itself(asked):
    module = torch.nn.Linear(2, 2)
    assert load_workload(module, {"x": (1, 2)}).name == "imported"
    assert asked == [("import_torch", module, {"x": (1, 2)})]


def test_names_and_files_ask_no_importer(asked, tmp_path):
    assert load_workload("resnet18") == resnet18()
    assert load_workload(Path("resnet18")) == resnet18()
    for suffix in ("yaml", "yml", "csv", "YAML", "Csv"):
        path = tmp_path / f"a:b.{suffix}"
        save_workload(resnet18(), path)
        assert load_workload(path) == load_workload(str(path)) == resnet18()
    topology = tmp_path / "mine.csv"
    topology.write_text("\ufeff\nLayer,M,N,K,\nL0,2,3,4,\n", "utf-8")
    assert load_with_weights(topology)[0].macs == 24
    assert load_with_weights(topology)[1] == {}
    assert not asked


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "resnet81",
            "workload 'resnet81' is not shipped (did you mean 'resnet18'?); allowed: "
            f"{', '.join(names())}",
        ),
        ("", "workload '' is not shipped; allowed: "),
        ("net.txt", "also allowed: a .yaml, .yml, .csv or .onnx file, or package.module:function"),
        (Path("net"), "workload 'net' is not shipped"),
        (["resnet18"], "workload ['resnet18'] must be a shipped name, a .yaml"),
        (torch.nn.Linear, "must be a shipped name"),
        ("none.yaml", "none.yaml: cannot be read: No such file or directory"),
        ("none.csv", "none.csv: cannot be read: No such file or directory"),
        ("a\0b.csv", "a\0b.csv: cannot be read: embedded null byte"),
    ],
)
def test_what_is_no_source(asked, source, expected):
    with pytest.raises(WorkloadError) as caught:
        load_workload(source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not asked


@pytest.mark.parametrize("source", ["resnet18", "net.yaml", "net.csv"])
def test_shapes_are_refused_where_they_would_mean_nothing(source):
    with pytest.raises(WorkloadError, match="shapes of x, y are refused, it has its own; allowed"):
        load_workload(source, {"x": (1,), "y": (2,)})


def test_without_torch_nothing_is_a_module(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(WorkloadError, match="must be a shipped name"):
        load_workload(json)
