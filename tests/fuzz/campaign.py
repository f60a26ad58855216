"""Bad inputs by the thousand into every reader: none may end in a traceback, abort, hang or swell.

    python -m tests.fuzz.campaign [--count N] [--seed N] [--reader NAME ...] [--keep FOLDER]

Each input is read in this process, which prints a line per reader, and stops at a crash. An input
whose error is not one of bfpsim's own, is not one line, or takes longer than 10 s, is kept. Exit
code 1 if there is one, or if the process grew beyond 1 GiB.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from bfpsim.commands.app import _bad_input
from bfpsim.workloads.files.text import visible
from tests.fuzz.readers import Reader, all_readers

MOST_KIB = 1 << 20
MOST_SECONDS = 10.0
_ADDRESSES = 6 << 30  # bytes of address space, so that what swells fails here and nowhere else


SOUND = ("read", "refused")
"""Outcomes that are right."""


def outcome(reader: Reader, path: Path) -> str:
    """One of `SOUND`, or what is wrong with how a file is read."""
    ended = "read"
    start = time.perf_counter()
    try:
        reader.read(path)
    except _bad_input() as error:
        line = visible(str(error))
        if "\n" in line or not line.strip() or len(line) > 10_000:
            return f"a message of {len(line)} characters: {line[:200]!r}"
        ended = "refused"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    seconds = time.perf_counter() - start
    return f"{seconds:.0f} s" if seconds > MOST_SECONDS else ended


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="inputs per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", nargs="*", help="only these")
    parser.add_argument("--keep", type=Path, help="folder for inputs that are read wrong")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    warnings.simplefilter("ignore")
    faults = run(options.count, options.seed, options.reader, options.keep)
    grown = _peak_kib()
    print(f"largest: {grown >> 10} MiB")
    sys.exit(faults > 0 or grown > MOST_KIB)


def _peak_kib() -> int:
    """The most memory that this program held [KiB]; rusage has its parent's in it, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1])


def run(count: int, seed: int, names: list[str] | None, keep: Path | None) -> int:
    """Read so many inputs with each reader; how many were read wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "good").mkdir()
        readers = all_readers(Path(folder) / "good")
        for name, reader in readers.items():
            if names and name not in names:
                continue
            rng, kinds, start = random.Random(f"{seed} {name}"), Counter[str](), time.perf_counter()
            for number in range(count):
                work = Path(folder) / "work"
                work.mkdir()
                path = work / f"input{reader.suffix}"
                reader.make(rng, path)
                copy = Path(folder) / "copy"
                shutil.copy(path, copy)
                ended = outcome(reader, path)
                kinds[ended] += 1
                if ended not in SOUND and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    copy.replace(keep / f"{name}-{seed}-{number}{reader.suffix}")
                shutil.rmtree(work)
            bad = {ended: times for ended, times in kinds.items() if ended not in SOUND}
            wrong += sum(bad.values())
            seconds = time.perf_counter() - start
            shown = ", ".join(f"{kinds[ended]} {ended}" for ended in SOUND)
            print(f"{name}: {shown}, {sum(bad.values())} wrong, {seconds:.0f} s", flush=True)
            for ended, times in bad.items():
                print(f"  {times} x {ended}", flush=True)
    return wrong


if __name__ == "__main__":
    main()
