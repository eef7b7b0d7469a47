"""Threads: how many there are, when they start, and what they survive."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import cpu, threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
parallel = pytest.mark.skipif(not cpu.openmp, reason="a build without OpenMP")
two_cpus = pytest.mark.skipif(
    threads.count(2) < 2, reason="one CPU: nothing to share the work with"
)

SETTINGS = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")

# What every child knows: a job large enough for threads, and its right result.
PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
import fastsoftmax
from fastsoftmax import softmax

x = np.random.default_rng(1).uniform(-30, 30, (256, 4096)).astype(np.float32)
fastsoftmax.set_num_threads(1)
right = softmax(x, axis=-1)
fastsoftmax.set_num_threads(None)
assert right.sum() > 255

def works():
    return bool((softmax(x, axis=-1) == right).all())

def tasks():
    return set(os.listdir("/proc/self/task"))
"""


def python(
    folder: Path, script: str, *, timeout: float = 60, **environment: str
) -> str:
    """Run a script in a fresh interpreter outside the checkout; return its output."""
    kept = {name: text for name, text in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
    return done.stdout


@pytest.fixture
def default_threads() -> Iterator[None]:
    """Undo what a test sets."""
    yield
    fastsoftmax.set_num_threads(None)


# ---- fork ----

IN_A_CHILD = """
def in_a_child(act):
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # a child that hangs dies of it
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0
"""


@forks
def test_child_and_grandchild_compute_and_so_does_the_parent(tmp_path: Path) -> None:
    python(
        tmp_path,
        IN_A_CHILD
        + """
fastsoftmax.set_num_threads(2)
assert works()
assert in_a_child(works)
assert in_a_child(lambda: in_a_child(works))
assert in_a_child(lambda: works() and in_a_child(works) and works())
assert works()
""",
    )


@forks
def test_child_computes_in_one_thread(tmp_path: Path) -> None:
    python(
        tmp_path,
        IN_A_CHILD
        + """
fastsoftmax.set_num_threads(2)
assert in_a_child(lambda: fastsoftmax.get_num_threads() == 1 and works())
assert fastsoftmax.get_num_threads() == (2 if fastsoftmax.cpu.openmp else 1)
""",
    )


@forks
def test_multiprocessing_fork_pool(tmp_path: Path) -> None:
    python(
        tmp_path,
        """
        import multiprocessing

        fastsoftmax.set_num_threads(2)
        assert works()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            parts = pool.starmap_async(softmax, [(part, -1) for part in x.reshape(4, 64, -1)])
            assert (np.concatenate(parts.get(5)) == right).all()
            long_row = pool.apply_async(softmax, (x.reshape(-1),))
            assert abs(long_row.get(5).sum() - 1) < 1e-3
        assert works()
        """,
    )


@forks
def test_150_forks_beside_two_busy_threads(tmp_path: Path) -> None:
    python(
        tmp_path,
        IN_A_CHILD
        + """
fastsoftmax.set_num_threads(2)
done, wrong, calls = threading.Event(), [], [0, 0]

def call(which):
    while not done.is_set():
        calls[which] += 1
        if not works():
            wrong.append(which)

busy = [threading.Thread(target=call, args=(which,)) for which in range(2)]
for thread in busy:
    thread.start()
results = [in_a_child(works) for _ in range(150)]
done.set()
for thread in busy:
    thread.join(5)
assert results == [True] * 150, results
assert not wrong and min(calls) > 10, (wrong, calls)
assert works()
""",
    )


# ---- after a pause ----

PAUSES = """
import statistics

job = x[:N_ROWS]

def run_after_a_pause(count):
    fastsoftmax.set_num_threads(count)
    time.sleep(0.05)
    start = time.perf_counter()
    softmax(job, axis=-1, out=out)
    return time.perf_counter() - start

def seconds(count):
    fastsoftmax.set_num_threads(count)
    start = time.perf_counter()
    for _ in range(100):
        softmax(job, axis=-1, out=out)
    return (time.perf_counter() - start) / 100
"""


@parallel
@two_cpus
@pytest.mark.parametrize("neighbours", [0, 1])
def test_a_short_job_after_a_pause(tmp_path: Path, neighbours: int) -> None:
    script = """
    import statistics, subprocess

    # A job of some 0.2 ms.
    rows = 16
    while True:
        job = np.tile(x, (4, 1))[:rows].copy()
        out = np.empty_like(job)
        start = time.perf_counter()
        for _ in range(20):
            softmax(job, axis=-1, out=out)
        if (time.perf_counter() - start) / 20 > 1e-4 or rows >= 1024:
            break
        rows += 16

    def after_a_pause(count):
        fastsoftmax.set_num_threads(count)
        time.sleep(0.05)
        start = time.perf_counter()
        softmax(job, axis=-1, out=out)
        return time.perf_counter() - start

    endless = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(endless) for _ in range(int(sys.argv[1]))]
    pass
    """
    assert script


