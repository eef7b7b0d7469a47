"""A worker leaves the processor of the thread that called (process/place.h)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import with_threads
from kernel_driver import DRIVER, FLAGS, KERNELS, need, run

from fastsoftmax import _cpu

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two processors",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("cc"), "needs cc")
    to = tmp_path_factory.mktemp("place") / "place"
    run("cc", *FLAGS, "-D_GNU_SOURCE", f"-I{KERNELS}", DRIVER / "place.c", "-o", to)
    return to


def attempt(program: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 2:
        pytest.skip("no filters of system calls here")
    return done.returncode, done.stdout


def test_it_moves_and_may_work_where_it_might_before(program: Path) -> None:
    code, printed = attempt(program, "-", "here", "2")
    moved, same = map(int, printed.split())
    assert code == 0
    assert moved > 90  # the kernel may move it back
    assert same == 100


def test_no_call_moves_one_that_is_elsewhere_or_has_no_other_place(
    program: Path,
) -> None:
    killed = (-signal.SIGSYS, "")
    assert attempt(program, "strict", "here", "2") == killed
    assert attempt(program, "strict", "elsewhere", "2")[0] == 0
    more = str(len(os.sched_getaffinity(0)) + 1)
    assert attempt(program, "strict", "here", more)[0] == 0


def test_no_call_that_the_filter_of_a_service_may_forbid(program: Path) -> None:
    service = {"INVOCATION_ID": "8f4e7b"}
    assert attempt(program, "strict", "here", "2", **service)[0] == 0
    if "Seccomp:\t0" in Path("/proc/self/status").read_text():  # a container has one
        assert int(attempt(program, "-", "here", "2", **service)[1].split()[0]) > 90


@pytest.mark.skipif(not _cpu.openmp, reason="a build without OpenMP")
def test_a_worker_that_has_slept_beside_its_caller(tmp_path: Path) -> None:
    with_threads(
        tmp_path,
        """
        fastsoftmax.set_num_threads(2)
        before = tasks()
        assert works()
        worker, = map(int, tasks() - before)
        here, there = sorted(os.sched_getaffinity(0))[:2]
        os.sched_setaffinity(0, {here})

        def where():
            with open(f"/proc/self/task/{worker}/stat") as file:
                return int(file.read().rsplit(")", 1)[1].split()[36])

        for _ in range(3):
            os.sched_setaffinity(worker, {here})
            assert works()
            time.sleep(0.1)
            os.sched_setaffinity(worker, {here, there})
            assert where() == here
            assert any(works() and where() == there for _ in range(200))
            assert os.sched_getaffinity(worker) == {here, there}
        """,
    )
