from collections.abc import Iterable
from pathlib import Path

import pytest

from bfpsim.arch import load_arch
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.run import sweep
from bfpsim.workloads import Network, NetworkBuilder, save_workload


@pytest.fixture(scope="session")
def network() -> Network:
    """Three layers, the first two equal but for their names."""
    build = NetworkBuilder("tiny", input_shape=(1, 6, 6, 4))
    x = build.conv("conv1", "input", 4, kernel=3, padding=1)
    x = build.conv("conv2", x, 4, kernel=3, padding=1)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    return build.network()


@pytest.fixture(scope="session")
def point(network) -> Point:
    formats = (LayerFormats.uniform(BFP(8, 3, 16)),) * len(network.layers)
    return Point(network, load_arch("ideal-16k"), formats)


@pytest.fixture(scope="session")
def spec(network, tmp_path_factory) -> Path:
    """A sweep of 32 points, 8 of which have no legal mapping."""
    return _written(network, tmp_path_factory.mktemp("spec"), range(2))


@pytest.fixture(scope="session")
def long_spec(network, tmp_path_factory) -> Path:
    """A sweep of 1,600 points, 400 of which have no legal mapping."""
    return _written(network, tmp_path_factory.mktemp("long"), range(100))


@pytest.fixture(scope="session")
def finished(spec, tmp_path_factory) -> Path:
    """The store of that sweep, run by one worker without a stop."""
    store = tmp_path_factory.mktemp("finished") / "store"
    sweep(spec, store, workers=1)
    return store


@pytest.fixture(scope="session")
def undisturbed(spec, finished, tmp_path_factory) -> dict[str, bytes]:
    """Its files."""
    return _exported(spec, finished, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def long_undisturbed(long_spec, tmp_path_factory) -> dict[str, bytes]:
    """The files of the longer one."""
    folder = tmp_path_factory.mktemp("long_undisturbed")
    return _exported(long_spec, folder / "store", folder)


def files(folder: Path) -> dict[str, bytes]:
    """What is in every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _exported(spec: Path, store: Path, folder: Path) -> dict[str, bytes]:
    sweep(spec, store, workers=1).export(folder / "out")
    return files(folder / "out")


def _written(network: Network, folder: Path, rates: Iterable[int]) -> Path:
    save_workload(network, folder / "tiny.yaml")
    path = folder / "sweep.yaml"
    path.write_text(f"""
arch: ideal-16k
networks: [{folder}/tiny.yaml]
formats: [bfp8, bfp16]
axes:
  sram.capacity: [16 B, 1 KiB, 2 KiB, 16 KiB]
  sram.double_buffered: [false, true]
  dram.bandwidth: [{", ".join(f"{1 + rate} GB/s" for rate in rates)}]
""")
    return path
