"""When threads share a job: where it pays, which is measured (process/wake.h)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from child import python
from kernel_driver import DRIVER, FLAGS, KERNELS, need, run

from fastsoftmax import _cpu, _threads


class Job(NamedTuple):
    """A job of a team, and the pause before it. Times are in us."""

    alone: float = 40  # what one thread takes
    asleep: float = 100  # what the team costs beyond its part of that: asleep
    awake: float = 3  # and awake
    pause: float = 4
    threads: int = 2
    pace: float = 0.3  # ns an element
    held_up: float = 0  # by memory, where it is shared
    aside: float = 0  # one of its members, for another process

    @property
    def cost(self) -> float:
        return self.awake if self.pause < 50 else self.asleep

    @property
    def best(self) -> float:
        return min(self.alone, self.alone / self.threads + self.cost)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("cc"), "needs cc")
    to = tmp_path_factory.mktemp("wake") / "wake"
    run("cc", *FLAGS, f"-I{KERNELS}", DRIVER / "wake.c", "-o", to, "-lm")
    return to


def took(program: Path, jobs: Sequence[Job]) -> np.ndarray:
    """Microseconds that each job took; negative where it was not shared."""
    lines = (
        f"{job.pause} {job.alone / job.pace * 1000} {job.alone} {job.threads} "
        f"{job.asleep} {job.awake} {job.held_up} {job.aside}\n"
        for job in jobs
    )
    printed = run(program, given="".join(lines).encode()).split()
    assert len(printed) == len(jobs)
    return np.array(printed, float)


@pytest.mark.parametrize("pause", [4, 1000])
@pytest.mark.parametrize("threads", [2, 16])
def test_close_to_the_better_of_sharing_and_not(
    program: Path, threads: int, pause: float
) -> None:
    times = product((10, 40, 300, 5000), (20, 300, 3000), (3, 300))
    for alone, asleep, awake in times:
        job = Job(alone, asleep, min(asleep, awake), pause, threads)
        count = max(1000, 100_000 // alone)
        ours = np.abs(took(program, [job] * count)).sum()
        # 12 ms to find out what is better; then a vain test now and then.
        assert ours <= 1.1 * count * alone + 12_000, job
        if asleep <= 300:
            assert ours <= 1.15 * count * job.best + 12_000, job


@pytest.mark.parametrize("alone", [52, 73, 163, 1000])
def test_late_arrivals_do_not_keep_jobs_in_one_thread(
    program: Path, alone: float
) -> None:
    # As on a Xeon of 16 cores: 10 ms of one job by turns with others' work. Every
    # other wake-up takes long, and now and then two jobs have a member that is late.
    job = Job(alone, asleep=60, pause=2, threads=16)
    count = round(10_000 / job.best)
    block = [job._replace(awake=107) if i % 100 < 2 else job for i in range(count)]
    first = [job._replace(asleep=late, pause=100_000) for late in (60, 700)]
    jobs = [first[0], *block, first[1], *block] * 4
    large = job._replace(alone=11_000, pace=0.7, held_up=1700)
    times = took(program, [large] * 30 + jobs)[30:]
    assert (times > 0).mean() > 0.95
    shared = sum(job.alone / job.threads + job.cost for job in jobs)
    assert np.abs(times).sum() < 1.05 * shared


@pytest.mark.parametrize("pause", [4, 1000])
@pytest.mark.parametrize("threads", [2, 16])
def test_what_memory_holds_up_does_not_keep_other_jobs_in_one_thread(
    program: Path, threads: int, pause: float
) -> None:
    job = Job(alone=200, asleep=60, pause=pause, threads=threads)
    fresh = job._replace(alone=8400, pace=2, held_up=3000)  # pages that are not there
    times = took(program, [fresh, *[job] * 10] * 100)[22:]
    assert (times > 0).all()


@pytest.mark.parametrize("pause", [4, 1000])
@pytest.mark.parametrize("every", [2, 10, 100])
@pytest.mark.parametrize("alone", [10, 40, 300])
@pytest.mark.parametrize("held", [{"awake": 3000, "asleep": 3000}, {"aside": 3000}])
def test_a_neighbour_that_holds_a_core_by_turns(
    program: Path, held: dict[str, float], alone: float, every: int, pause: float
) -> None:
    job = Job(alone, pause=pause)
    jobs = [job._replace(**held), *[job] * (every - 1)] * (20_000 // every)
    ours = np.abs(took(program, jobs)).sum()
    assert ours <= 1.1 * len(jobs) * alone


def test_a_burst_of_short_jobs_wakes_the_team_and_it_stays_awake(
    program: Path,
) -> None:
    shared = took(program, [Job(alone=40)] * 200) > 0
    assert 5 < shared.argmin() + shared.argmax() < 55
    assert shared[shared.argmax() :].all()


def test_lone_jobs_wake_it_if_they_are_worth_that(program: Path) -> None:
    assert (took(program, [Job(alone=1000, pause=1000)] * 100) > 0).all()
    assert (took(program, [Job(alone=47, asleep=170, pause=1000)] * 500) > 0).sum() < 5


def test_what_would_lose_a_tenth_is_not_shared(program: Path) -> None:
    jobs = [Job(alone=100, asleep=60, pause=1000)] * 500
    times = took(program, jobs)
    assert (times > 0).sum() < 50
    assert np.abs(times).sum() < 1.01 * 500 * 100


def test_the_first_job_and_a_very_bad_one_are_soon_forgotten(program: Path) -> None:
    lone = Job(alone=1000, pause=1000)
    slow = lone._replace(held_up=5000)  # its memory is fresh
    assert (took(program, [slow, *[lone] * 10]) > 0).all()
    busy = lone._replace(asleep=1e6)
    assert (took(program, [lone, busy, *[lone] * 1000])[700:] > 0).all()


@pytest.mark.parametrize("late", [9000, 30_000])
def test_a_very_bad_job_is_forgotten_in_12_ms_of_a_burst(
    program: Path, late: float
) -> None:
    job = Job(alone=200)
    bad = job._replace(awake=late, asleep=late)
    shared = took(program, [*[job] * 500, bad, *[job] * 300]) > 0
    assert shared[50:501].all()
    assert shared[561:].all()


def test_one_interruption_changes_nothing(program: Path) -> None:
    jobs = [Job(alone=40, pause=1000)] * 20
    jobs[10] = Job(alone=4000, pause=1000, pace=0.3 * 4000 / 40)
    assert not (took(program, jobs)[11:] > 0).any()
    jobs = [Job(alone=40)] * 600
    jobs[500] = Job(alone=40, awake=4000)
    assert (took(program, jobs)[100:] > 0).all()
    jobs[501] = jobs[500]
    assert not (took(program, jobs)[502:530] > 0).any()


def test_the_team_is_tried_again_when_a_busy_neighbour_has_gone(program: Path) -> None:
    busy, idle = [Job(300, 3000, 3000)] * 1000, [Job(300)] * 300
    shared = took(program, busy + idle) > 0
    assert shared[:1000].sum() < 20
    assert shared[1250:].all()


@pytest.mark.parametrize("alone", [40, 400, 4000])
def test_an_operation_ten_times_as_slow_as_expected(
    program: Path, alone: float
) -> None:
    times = took(program, [Job(alone, pace=3)] * 1000)
    assert (times[100:] > 0).all()
    assert np.abs(times[:100]).sum() < 100 * alone


def test_a_clock_that_is_set_back(program: Path) -> None:
    jobs = [Job()] * 100
    jobs[10] = Job(alone=-1e9, pace=-0.3e9 / 40)
    jobs[20] = Job(pause=-1e9)
    assert (took(program, jobs)[80:] > 0).all()


# ---- on this machine ----

# The first call of each try is not timed. `pause` is in seconds.
TIMED = """
import statistics, subprocess, sys, time
import numpy as np
import fastsoftmax

pause, neighbours, calls = {pause}, {neighbours}, {calls}
x = np.random.default_rng(1).normal(0, 5, (64, 1000)).astype(np.float32)
out = np.empty_like(x)
busy = [
    subprocess.Popen([sys.executable, "-c", "while True: pass"])
    for _ in range(neighbours)
]

def seconds():
    if pause:
        time.sleep(pause)
    start = time.perf_counter()
    fastsoftmax.softmax(x, axis=-1, out=out)
    return time.perf_counter() - start

def median(threads):
    fastsoftmax.set_num_threads(threads)
    return statistics.median([seconds() for _ in range(calls + 1)][1:])

try:
    for _ in range(5):
        one, two = median(1), median(2)
        print(f"{{one * 1e6:.0f}} us with one thread, {{two * 1e6:.0f}} with two")
        if two <= 1.15 * one:
            print("in time")
            break
finally:
    for process in busy:
        process.kill()
"""


@pytest.mark.skipif(not _cpu.openmp, reason="a build without OpenMP")
@pytest.mark.skipif(_threads.count(2) < 2, reason="one CPU: nothing to share with")
@pytest.mark.parametrize(
    ("pause", "neighbours", "calls"),
    [(0, 0, 3000), (1e-3, 0, 100), (50e-3, 0, 20), (0, 1, 3000), (1e-3, 1, 100)],
    ids=["back to back", "1 ms", "50 ms", "busy", "1 ms, busy"],
)
def test_a_short_job_is_not_slower_than_with_one_thread(
    tmp_path: Path, pause: float, neighbours: int, calls: int
) -> None:
    script = TIMED.format(pause=pause, neighbours=neighbours, calls=calls)
    printed = python(tmp_path, script, timeout=60)
    assert printed.endswith("in time\n"), printed
