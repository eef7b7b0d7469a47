"""Lets the tests find their helpers and the installed package, and shared fixtures."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernel_driver import Build

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def _arrange_imports() -> None:
    """Put the helpers on the path; take off it the sources, unless compiled there.

    `python -m pytest` puts the current folder first, so that in the root of a clone
    sources without kernels would hide the installed package. Where they are compiled,
    children take them, too.
    """
    compiled = any((ROOT / "fastsoftmax").glob("_cpu.*.so")) or any(
        (ROOT / "fastsoftmax").glob("_cpu.*.pyd")
    )
    if not compiled:
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    elif any(Path(entry).resolve() == ROOT for entry in sys.path):
        os.environ["PYTHONPATH"] = str(ROOT)
    sys.path.insert(0, str(TESTS))


_arrange_imports()


def pytest_configure(config: pytest.Config) -> None:
    """Say in one sentence that there is nothing to test."""
    if importlib.util.find_spec("fastsoftmax") is None:
        raise pytest.UsageError(
            'fastsoftmax is not installed: run `pip install ".[test]"` first'
        )
    if config.inipath is None:  # a copy of tests/ alone, without pyproject.toml
        config.addinivalue_line("markers", "slow: minutes rather than seconds")
        config.option.markexpr = config.option.markexpr or "not slow"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line why tests were skipped, and how many for each reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if reasons:
        counts = [f"{count} x {why}" for why, count in reasons.most_common()]
        terminalreporter.write_line(f"skipped: {'; '.join(counts)}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which holds IN.npy of 6 x 5 float32."""
    import numpy as np
    from command_line import table

    monkeypatch.chdir(tmp_path)
    np.save("IN.npy", table())
    return tmp_path


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Compile the kernels' driver once for each machine."""
    from kernel_driver import Build, Target, compile_to

    @functools.cache
    def compiled(machine: str) -> Build:
        folder = tmp_path_factory.mktemp(machine)
        launcher = Target(machine, "scalar").launcher
        return Build(compile_to(folder, machine), launcher)

    return compiled


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads, which share what is large enough; undo it after."""
    import fastsoftmax
    from fastsoftmax import _cpu

    _cpu.share_always(True)
    yield fastsoftmax.set_num_threads
    _cpu.share_always(False)
    fastsoftmax.set_num_threads(None)
