"""How many wrong versions of the movement rules and the machine the tests notice.

    python -m tests.mutants.campaign [--count N] [--module sim/channel.py] [--seed N] [--workers N]

Each mutant (`mutate`) stands in a copy of the tree of its own, and the tests that should tell run
there until one fails. `report.csv` keeps every outcome; a further run tries what is not in it, and
tries again what survived. Exit code 1 if fewer than 95 % of those that differ are killed.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutants.equivalent import EQUIVALENT, Equivalent
from tests.mutants.mutate import Mutant, mutants_of, mutated, sample

ROOT = Path(__file__).resolve().parents[2]
REPORT = Path(__file__).with_name("report.csv")
SOURCES = ("arch", "bfpsim", "mapping", "quant", "reports", "search", "sim", "tests", "workloads")
CPU_S = 120
"""Processor time of a mutant's tests [s]; unmutated ones take less than half. More is a hang."""
MEMORY_BYTES = 6 << 30
LEAST_PER_MODULE = 3
WANTED = 0.95

GOLDEN = "tests/golden/test_golden.py::test_random_points[0]"
GRID = "tests/mapping/test_mapper.py::test_every_point_of_the_grid_is_priced_and_judged_as_alone"


def _tests(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/test_{name}.py" for name in names.split())


_SIM = (
    *_tests("sim", "timing clock recurrence exactness"),
    *_tests("mapping", "price"),
    "tests/sim/test_occupancy.py",
)
_STEPS = (
    *_tests("mapping", "distinct price boxes levels movement bursts"),
    *_tests("sim", "timing"),
)
_PROGRAMS = _tests("sim", "program_time program")
_CLOSED = (*_tests("mapping", "levels tables movement paper_grid models"), GRID, GOLDEN)
_FORMATS = (
    *_tests("quant/formats", "packing layout blocks quantize exact"),
    *_tests("mapping", "price bursts"),
    "tests/sim/test_exactness.py",
)

TESTS: dict[str, tuple[str, ...]] = {
    "mapping/steps/tiles.py": (*_STEPS, GOLDEN),
    "mapping/steps/price.py": (*_STEPS, "tests/sim/test_exactness.py", GOLDEN),
    "mapping/steps/bursts.py": (*_tests("mapping", "bursts price models"), GOLDEN),
    "mapping/steps/array.py": (*_tests("mapping", "pe_array array_model price"), GOLDEN),
    "mapping/array.py": (*_tests("mapping", "pe_array inner_levels array_model"), GOLDEN),
    "mapping/steps/inside.py": (*_tests("mapping", "inner_levels price"), GOLDEN),
    "mapping/steps/volumes.py": (*_tests("mapping", "price inner_levels"), GOLDEN),
    "mapping/closed/levels.py": (*_tests("mapping", "inner_levels array_model"), GOLDEN),
    "mapping/closed/level_grid.py": _tests("mapping", "inner"),
    "mapping/closed/leaves.py": _CLOSED,
    "mapping/closed/exact.py": (*_tests("mapping", "capacity"), *_CLOSED),
    "mapping/closed/movement.py": _CLOSED,
    "mapping/closed/paper.py": (*_tests("mapping", "paper_grid models mapper"), GOLDEN),
    "mapping/closed/traffic.py": (*_tests("mapping", "levels movement models"), GOLDEN),
    "mapping/closed/grid.py": (
        *_tests("mapping", "capacity array_model movement"),
        GRID,
        *_tests("mapping", "models mapper"), GOLDEN,
    ),
    "mapping/closed/array.py": (
        *_tests("mapping", "code_reads array_model pe_array models mapper"), GOLDEN,
    ),
    "mapping/window.py": (*_tests("mapping", "window boxes price tables pe_array models"), GOLDEN),
    "mapping/room.py": _tests("mapping", "capacity mapper"),
    "mapping/fit.py": _tests("mapping", "capacity mapper"),
    "mapping/nest.py": (*_tests("mapping", "nest levels capacity movement models"), GOLDEN),
    "mapping/models.py": (
        *_tests("mapping", "models movement"), *_tests("sim", "counts"), GOLDEN,
    ),
    "sim/buffer.py": _SIM,
    "sim/channel.py": _SIM,
    "sim/clock.py": _SIM,
    "sim/counters.py": _SIM,
    "sim/recurrence.py": _SIM,
    "sim/accelerator.py": (*_SIM, GOLDEN),
    "sim/arbiter.py": _PROGRAMS,
    "sim/machine.py": _PROGRAMS,
    "sim/room.py": _PROGRAMS,
    "quant/formats/packing.py": _FORMATS,
    "quant/formats/layout.py": _FORMATS,
    "quant/formats/blocks.py": _FORMATS,
}  # fmt: skip
"""The modules, and for each the tests that should tell, quickest first."""


class Row(NamedTuple):
    """One line of the report.

    outcome: killed, survived or equivalent; test: the one that killed it, or the limit passed
    """

    module: str
    function: str
    operator: str
    was: str
    becomes: str
    number: int
    line: int
    outcome: str
    test: str
    seconds: float

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """Of the mutant."""
        return self[:6]


def chosen(mutants: dict[str, list[Mutant]], count: int, seed: int) -> list[Mutant]:
    """A sample over all modules, each with a few at the least and more the longer it is."""
    every = sum(map(len, mutants.values()))
    spread = max(0, count - LEAST_PER_MODULE * len(mutants))
    picked = []
    for own in mutants.values():
        share = LEAST_PER_MODULE + -(-spread * len(own) // every)
        picked += sample(own, share, seed)
    return picked


def excused(mutant: Mutant) -> Equivalent | None:
    """Why no test can kill it, if that is known."""
    looks = (mutant.module, mutant.operator, mutant.text, mutant.was, mutant.becomes)
    return next((one for one in EQUIVALENT if one[:5] == looks), None)


def copy_tree(folder: Path) -> Path:
    """A copy of what the tests need, links kept."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "out")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(tree: Path, tests: Sequence[str], extra: Sequence[str] = ()) -> tuple[str, str]:
    """(passed, ""), or (failed, the first test that failed or the limit that was passed)."""
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
        "-p", "tests.mutants.settings", "--tb=no", "-rfE", *extra, *tests,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command, cwd=tree, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_limit,
    )  # fmt: skip
    output, _ = run.communicate()
    if run.returncode == 0:
        return "passed", ""
    if run.returncode < 0:
        return "failed", "time limit"
    first = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", output, re.MULTILINE)
    return "failed", first[1] if first else f"exit code {run.returncode}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(10)


def put(tree: Path, module: str, source: str) -> None:
    """Write a module into a copy, and forget what was compiled of the one before."""
    path = tree / module
    path.write_text(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def tried(mutant: Mutant, trees: SimpleQueue[Path]) -> Row:
    """The outcome of one mutant."""
    source = (ROOT / mutant.module).read_text()
    tree = trees.get()
    begin = time.monotonic()
    try:
        put(tree, mutant.module, mutated(source, mutant))
        outcome, test = run_tests(tree, TESTS[mutant.module])
    finally:
        put(tree, mutant.module, source)
        trees.put(tree)
    seconds = round(time.monotonic() - begin, 1)
    killed = "killed" if outcome == "failed" else "survived"
    return Row(*mutant.key, mutant.line, killed, test, seconds)


def read_report() -> list[Row]:
    """The rows so far."""
    if not REPORT.exists():
        return []
    with REPORT.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [Row(*row[:5], int(row[5]), int(row[6]), *row[7:9], float(row[9])) for row in rows]


def write_report(rows: Iterable[Row]) -> None:
    """Write all rows in the order of the modules and their lines."""
    modules = list(TESTS)
    partial = REPORT.with_suffix(".part")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(sorted(rows, key=lambda row: (modules.index(row.module), row[6], row)))
    partial.replace(REPORT)


def summary(rows: Sequence[Row]) -> str:
    """Outcomes by module, and the share killed of those that differ."""
    lines = [f"{'module':28} {'mutants':>7} {'killed':>7} {'survived':>8} {'equivalent':>10}"]
    for module in [*TESTS, "all"]:
        outcomes = Counter(row.outcome for row in rows if module in (row.module, "all"))
        if outcomes:
            lines.append(
                f"{module:28} {outcomes.total():7} {outcomes['killed']:7} "
                f"{outcomes['survived']:8} {outcomes['equivalent']:10}"
            )
    for row in rows:
        if row.outcome == "survived":
            lines.append(f"survived: {row.module}:{row.line} {row.was} -> {row.becomes}")
    return "\n".join([*lines, f"killed of those that differ: {score(rows):.1%}"])


def score(rows: Sequence[Row]) -> float:
    """The share killed of those that differ."""
    outcomes = Counter(row.outcome for row in rows)
    return outcomes["killed"] / max(1, outcomes["killed"] + outcomes["survived"])


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.mutants.campaign")
    parser.add_argument("--count", type=int, default=150, help="mutants over all modules, about")
    parser.add_argument("--module", action="append", choices=list(TESTS), help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="which mutants")
    parser.add_argument("--workers", type=int, default=2, help="tried at once")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests unmutated")
    options = parser.parse_args()

    every = {name: mutants_of(name, (ROOT / name).read_text()) for name in TESTS}
    known = {mutant.key: mutant for own in every.values() for mutant in own}
    rows = {row.key: row for row in read_report() if row.key in known}
    modules = options.module or list(TESTS)
    wanted = [m for m in chosen(every, options.count, options.seed) if m.module in modules]
    again = [known[k] for k, r in rows.items() if r.outcome != "killed" and r.module in modules]
    trials: dict[object, Mutant] = {}
    for mutant in [*wanted, *again]:
        if excused(mutant):
            rows[mutant.key] = Row(*mutant.key, mutant.line, "equivalent", "", 0.0)
        elif mutant.key not in rows or rows[mutant.key].outcome != "killed":
            trials[mutant.key] = mutant
    write_report(rows.values())
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for worker in range(options.workers if trials else 0):
            trees.put(copy_tree(Path(folder, str(worker))))
        if trials and not options.unchecked:
            tree = trees.get()
            tests = dict.fromkeys(t for m in trials.values() for t in TESTS[m.module])
            outcome, test = run_tests(tree, list(tests), ("-n", str(options.workers)))
            if outcome == "failed":
                print(f"without any mutant {test} fails")
                return 2
            trees.put(tree)
        with ThreadPoolExecutor(options.workers) as pool:
            running = [pool.submit(tried, mutant, trees) for mutant in trials.values()]
            for done, future in enumerate(as_completed(running), 1):
                row = future.result()
                rows[row.key] = row
                write_report(rows.values())
                print(
                    f"{done}/{len(running)} {row.outcome} {row.seconds} s {row.module}:{row.line} "
                    f"{row.was} -> {row.becomes} {row.test}".replace("\n", " "),
                    flush=True,
                )
    print(summary(read_report()))
    return 0 if score(read_report()) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
