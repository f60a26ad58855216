"""A sample of the campaign at each commit; all of it at length."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import damaged, rewritten

ROOT = Path(__file__).parents[2]


# In a process of its own, which an abort would end, and whose memory is its own.
@pytest.mark.parametrize(
    ("count", "seed"),
    [(25, 0), *(pytest.param(1500, seed, marks=pytest.mark.long) for seed in range(1, 3))],
)
def test_every_input_is_read_or_refused_in_one_line(count, seed, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--count", str(count)]
    command += ["--seed", str(seed), "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"inputs in {tmp_path}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    )
    assert done.stdout.count(" 0 wrong") == 14


def test_mutations_change_their_seeds_and_are_repeatable():
    text = "name: x\nnodes: [1, 2, 3]\n" * 4
    for make, seeds in ((rewritten, [text]), (damaged, [text.encode()])):
        made = [make(random.Random(seed), seeds) for seed in range(200)]
        assert len({*made}) > 150
        assert made == [make(random.Random(seed), seeds) for seed in range(200)]
