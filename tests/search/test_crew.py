import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from bfpsim.search.crew import begin
from tests.long import often
from tests.search.sweep.driver import ROOT


@pytest.fixture
def worker():
    """A worker that has begun, as a pool of one, and its lifeline."""
    context = multiprocessing.get_context("spawn")
    far_end, lifeline = context.Pipe(duplex=False)
    with ProcessPoolExecutor(1, context, begin, (far_end,)) as pool:
        yield pool, lifeline
        lifeline.close()


def test_a_worker_is_deaf_to_interrupts_and_has_one_thread(worker):
    pool, _ = worker
    for one in (signal.SIGINT, signal.SIGHUP):
        assert pool.submit(signal.getsignal, one).result() == signal.SIG_IGN
    assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


def test_a_worker_ends_with_its_lifeline_whatever_it_does(worker):
    pool, lifeline = worker
    waiting = pool.submit(time.sleep, 60)
    pool.submit(os.getpid)  # the worker is there: it took the first call
    while not waiting.running():
        pass
    lifeline.close()
    with pytest.raises(BrokenProcessPool):
        waiting.result(timeout=30)


SCRIPT = """
import math
from bfpsim.search.crew import workers

print("begun")
with workers(2) as run:
    print(run(math.factorial, [(3,), (4,)]))
print(__name__, __spec__, "__file__" in dir())
"""


@pytest.mark.parametrize("place", often(1, ["standard input", "file"]))
def test_a_script_without_a_main_guard_has_workers(place, tmp_path):
    """They do not run it again, and it stays what it was."""
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    arguments, text = (["-"], SCRIPT) if place == "standard input" else ([str(file)], None)
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout.splitlines()[:2], done.stderr) == (["begun", "[6, 24]"], "")
    assert done.stdout.splitlines()[2].startswith("__main__ None")
