"""Damaged ONNX files are imported or refused in a line: none ends the process or takes a GiB."""

import os
import subprocess
import sys

import pytest


def fuzz(tmp_path, seed, count):
    """Imported and refused, in a process of its own, which a file might end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workloads.importers.onnx_fuzz", str(tmp_path), str(seed),
         str(count)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported, refused = map(int, done.stdout.split())
    assert imported + refused == count
    return imported, refused


def test_a_few(tmp_path):
    imported, refused = fuzz(tmp_path, 1, 400)
    assert min(imported, refused) > 40


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_many(seed, tmp_path):
    fuzz(tmp_path, seed, 2000)
