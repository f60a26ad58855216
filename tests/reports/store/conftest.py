from collections.abc import Iterable
from pathlib import Path

import pytest

from bfpsim.mapping.nest import MappingError
from bfpsim.reports.store.findings import Findings, read_findings
from bfpsim.reports.store.write import write_report
from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS, Point
from bfpsim.search.sweep.spec import load_spec
from bfpsim.workloads import NetworkBuilder, save_workload

NAME = r"tiny & <b>co</b> [/x] $\frac{y$"


def fill(path: Path, points: Iterable[Point]) -> Path:
    """A store of these points, as a sweep would leave it."""
    with Store(path) as store:
        for point in points:
            try:
                store.put(POINTS, point.key, evaluate(point).to_json())
            except MappingError as error:
                store.put_error(POINTS, point.key, str(error))
    return path


@pytest.fixture(scope="session")
def spec(tmp_path_factory) -> Path:
    """A sweep of 16 points, of which the 4 with 16 B have no legal mapping."""
    folder = tmp_path_factory.mktemp("spec")
    build = NetworkBuilder(NAME, input_shape=(1, 8, 8, 4))
    x = build.conv("=a$\\frac{x$", "input", 8, kernel=3, padding=1)
    x = build.conv("conv2", x, 12, kernel=3, padding=1, stride=2)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    save_workload(build.network(), folder / "tiny.yaml")
    path = folder / "sweep.yaml"
    path.write_text(f"""
arch: ideal-16k
networks: ['{folder}/tiny.yaml']
formats: [bfp8, {{I: bfp8, W: bfp8e2b4, O: plain16}}]
axes:
  sram.capacity: [16 B, 1 KiB, 2 KiB, 1 MiB]
  dram.bandwidth: [1 GB/s, 2 GB/s]
""")
    return path


@pytest.fixture(scope="session")
def planned(spec) -> tuple[Point, ...]:
    return plan(load_spec(spec))


@pytest.fixture(scope="session")
def store(planned, tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("store") / "sweep.sqlite", planned)


@pytest.fixture(scope="session")
def findings(store, spec) -> Findings:
    return read_findings(store, spec)


@pytest.fixture(scope="session")
def accuracy(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("accuracy") / "choices.csv"
    path.write_text(
        "label,energy_pj,accuracy_loss\nbfp4,1e6,0.08\nbfp8,2e6,0.01\nbfp8b,3e6,0.02\nplain,4e6,0\n"
    )
    return path


@pytest.fixture(scope="session")
def report(store, spec, accuracy, tmp_path_factory) -> Path:
    """The folder of the whole report."""
    folder = tmp_path_factory.mktemp("report")
    write_report(store, folder, sweep=spec, accuracy=accuracy)
    return folder
