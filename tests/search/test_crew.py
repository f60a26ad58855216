import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from bfpsim.search.crew import begin


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
