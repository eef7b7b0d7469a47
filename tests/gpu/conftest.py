"""The stand-in for CuPy, for one test; FASTSOFTMAX_TEST_DEVICE=1: CuPy itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from gpu import nvrtc, stand_in

ON_DEVICE = os.environ.get("FASTSOFTMAX_TEST_DEVICE") == "1"

_ran: list[str] = []


@pytest.fixture
def cupy() -> Iterator[ModuleType]:
    """Install the stand-in; nothing of it is left after the test."""
    if ON_DEVICE:
        import cupy as module

        yield module
        return
    if not nvrtc.available():
        pytest.skip(nvrtc.MISSING)
    with stand_in.installed() as module:
        yield module
        _ran.extend(launch.kernel for launch in stand_in.machine.launches)


@pytest.fixture
def counted() -> None:
    """Ask for the stand-in, which counts launches and costs next to nothing."""
    if ON_DEVICE:
        pytest.skip("launches and host cost are counted on the stand-in for CuPy")


@pytest.fixture
def two_devices(cupy: ModuleType) -> None:
    """Ask for a second device; the stand-in has one."""
    if ON_DEVICE and cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices, this machine has one")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _ran:
        terminalreporter.write_line(
            f"No GPU ran: {len(_ran)} launches of {len(set(_ran))} CUDA kernels were "
            "interpreted."
        )
