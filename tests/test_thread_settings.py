"""How many threads there are, and by whose settings."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from child import SETTINGS, attempt, with_threads

import fastsoftmax
from fastsoftmax import _cpu, _threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
parallel = pytest.mark.skipif(not _cpu.openmp, reason="a build without OpenMP")
two_cpus = pytest.mark.skipif(
    _threads.count(2) < 2, reason="one CPU: nothing to share the work with"
)


@pytest.fixture
def default_threads() -> Iterator[None]:
    """Undo what a test sets."""
    yield
    fastsoftmax.set_num_threads(None)


# ---- how many threads ----


def default_count(folder: Path, script: str = "", **environment: str) -> int:
    """Return the default number of threads of a fresh process."""
    script = textwrap.dedent(script) + "\nprint(fastsoftmax.get_num_threads())"
    return int(with_threads(folder, script, **environment))


@parallel
@pytest.mark.parametrize("asked", [1, 2, 64])
def test_default_heeds_omp_num_threads(tmp_path: Path, asked: int) -> None:
    count = default_count(tmp_path, OMP_NUM_THREADS=str(asked))
    assert count == min(asked, _threads.count(1024))


@linux
@parallel
@two_cpus
def test_default_heeds_the_affinity_of_now(tmp_path: Path) -> None:
    script = """
    import os

    every = os.sched_getaffinity(0)
    assert fastsoftmax.get_num_threads() >= 2
    os.sched_setaffinity(0, {min(every)})
    assert fastsoftmax.get_num_threads() == 1
    before = tasks()
    assert works() and tasks() == before
    os.sched_setaffinity(0, every)
    assert fastsoftmax.get_num_threads() >= 2
    os.sched_setaffinity(0, {min(every)})
    """
    assert default_count(tmp_path, script) == 1


@linux
@parallel
@two_cpus
def test_default_and_chosen_count_heed_threadpoolctl(tmp_path: Path) -> None:
    script = """
    import threadpoolctl

    for wanted in (None, 2):
        fastsoftmax.set_num_threads(wanted)
        assert fastsoftmax.get_num_threads() >= 2
        with threadpoolctl.threadpool_limits(1):
            assert fastsoftmax.get_num_threads() == 1
            before = tasks()
            assert works() and tasks() == before
        assert fastsoftmax.get_num_threads() >= 2
    """
    with_threads(tmp_path, script)


@linux
@parallel
@pytest.mark.parametrize("machine", [1, 2])
def test_limits_that_are_what_the_machine_has(tmp_path: Path, machine: int) -> None:
    script = f"""
    import threadpoolctl

    def limits():
        found = threadpoolctl.threadpool_info()
        return [one["num_threads"] for one in found if one["user_api"] == "openmp"]

    before = limits()
    for _ in range(2):
        fastsoftmax.set_num_threads(8)
        assert fastsoftmax.get_num_threads() == 8 and works()
        for limit in range({machine}, 0, -1):
            with threadpoolctl.threadpool_limits(limit):
                assert fastsoftmax.get_num_threads() == limit
                count = len(tasks())
                assert works() and len(tasks()) <= count
            assert fastsoftmax.get_num_threads() == 8
    with threadpoolctl.threadpool_limits({machine}):
        fastsoftmax.set_num_threads(5)
        assert fastsoftmax.get_num_threads() == 5
    fastsoftmax.set_num_threads(6)
    assert fastsoftmax.get_num_threads() == 6
    fastsoftmax.set_num_threads(None)
    assert limits() == before and fastsoftmax.get_num_threads() <= {machine}
    """
    with_threads(tmp_path, script, OMP_NUM_THREADS=str(machine))


@pytest.mark.usefixtures("default_threads")
@pytest.mark.parametrize("quota", [0.5, 1.0, 1.99])
def test_default_heeds_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float) -> None:
    monkeypatch.setattr(_threads, "_quota", lambda: quota)
    monkeypatch.setattr(_threads, "_affinity", lambda: 8)
    assert _threads.count(8) == 1
    monkeypatch.setattr(_threads, "_quota", lambda: quota + 3)
    assert _threads.count(8) == int(quota + 3)


@pytest.mark.usefixtures("default_threads")
def test_a_chosen_count_holds_until_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "_affinity", lambda: 3)
    monkeypatch.setattr(_threads, "_quota", lambda: 4.0)
    assert _threads.count(8) == 3
    for chosen in (1, 5, np.int64(7), 1024):
        fastsoftmax.set_num_threads(chosen)  # type: ignore[arg-type]
        assert _threads.count(1024) == chosen
        if _cpu.openmp:
            assert fastsoftmax.get_num_threads() == chosen
    fastsoftmax.set_num_threads(None)
    assert _threads.count(8) == 3


@pytest.mark.usefixtures("default_threads")
@pytest.mark.parametrize("bad", [0, -1, 1025, 2**70, -(2**70)])
def test_counts_out_of_range(bad: int) -> None:
    fastsoftmax.set_num_threads(3)
    with pytest.raises(ValueError, match=f"from 1 to 1024, got {bad}$"):
        fastsoftmax.set_num_threads(bad)
    assert _threads.count(1024) == 3


@pytest.mark.usefixtures("default_threads")
@pytest.mark.parametrize("bad", [1.0, "2", True, False, np.True_, [2], 2 + 0j, np.nan])
def test_counts_that_are_no_integers(bad: object) -> None:
    fastsoftmax.set_num_threads(3)
    with pytest.raises(TypeError, match="must be an integer or None, got"):
        fastsoftmax.set_num_threads(bad)  # type: ignore[arg-type]
    assert _threads.count(1024) == 3


def test_a_serial_build_says_one(tmp_path: Path) -> None:
    if _cpu.openmp:
        pytest.skip("this build has OpenMP")
    assert default_count(tmp_path, "fastsoftmax.set_num_threads(4)") == 1


# ---- the settings of others ----


def test_import_leaves_the_environment_alone(tmp_path: Path) -> None:
    script = f"print(*(os.environ.get(name) for name in {SETTINGS}))"
    assert with_threads(tmp_path, script) == "None None None\n"
    own = {"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}
    assert with_threads(tmp_path, script, **own) == "7 active 2\n"
    for name in SETTINGS[:2]:
        expected = ["None"] * 3
        expected[SETTINGS.index(name)] = own[name]
        output = with_threads(tmp_path, script, **{name: own[name]})
        assert output.split() == expected


@linux
@parallel
def test_spins_are_short_unless_the_user_has_chosen(tmp_path: Path) -> None:
    def shown(**environment: str) -> str:
        """Return what libgomp prints of its setting when it is loaded."""
        script = "import fastsoftmax"
        done = attempt(
            tmp_path, script, without=SETTINGS, OMP_DISPLAY_ENV="verbose", **environment
        )
        found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
        if not found:
            pytest.skip("the OpenMP runtime is not libgomp")
        return found[1]

    assert shown() == "2000"
    assert shown(GOMP_SPINCOUNT="77") == "77"
    assert shown(OMP_WAIT_POLICY="passive") == "0"


def test_an_exception_while_loading_restores_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def load() -> None:
        with _threads.short_spins():
            assert os.environ["GOMP_SPINCOUNT"]
            raise ImportError

    with pytest.raises(ImportError):
        load()
    assert "GOMP_SPINCOUNT" not in os.environ
