"""What the tests of the command line share: programs for children, files, checks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastsoftmax

Array = npt.NDArray[Any]

COMMANDS = ("softmax", "log-softmax", "logsumexp")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

QUICK = """
import sys
from fastsoftmax.cli.main import main

sys.exit(main(sys.argv[1:]))
"""

# A child in which every block of 4096 bytes takes a fifth of a second.
SLOW = """
import sys, time, fastsoftmax
from fastsoftmax.cli import blocks, main

blocks.BLOCK_BYTES = 4096
softmax = fastsoftmax.softmax

def slow(x, **options):
    time.sleep(0.2 if x.shape != (1, 1) else 0)
    return softmax(x, **options)

fastsoftmax.softmax = slow
sys.exit(main.main(sys.argv[1:]))
"""

# What a child does first: undo what shells do for jobs in the background; stay below
# a file size; let permissions count for root too (the new program does not get
# CAP_DAC_OVERRIDE, number 1, which PR_CAPBSET_DROP, number 24, has removed).
HEEDING_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
ON_A_FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""
AS_A_PLAIN_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "fastsoftmax", *sys.argv[1:]])
"""

# A child that prints the peak of its own resident memory in kB. (ru_maxrss would
# still hold what the parent had when it forked.)
MEASURED = """
import re, sys
from fastsoftmax.cli.main import main

if main(sys.argv[1:]):
    sys.exit(1)
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""


def run(
    folder: Path, *arguments: str, code: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command line, or `code`, in another process and in `folder`."""
    start = ("-m", "fastsoftmax") if code is None else ("-c", code)
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def table(shape: tuple[int, ...] = (6, 5), dtype: npt.DTypeLike = "f4") -> Array:
    """Return logits of both signs, large enough for a naive exp to overflow."""
    rng = np.random.default_rng(7)
    return rng.uniform(-120, 120, shape).astype(dtype)


def assert_one_line(stderr: str, *words: str) -> None:
    """Assert that `stderr` is a single line that holds `words`."""
    assert stderr.startswith("fastsoftmax")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr


def public(command: str) -> Callable[..., Any]:
    """Return the function behind a command."""
    function: Callable[..., Any] = getattr(fastsoftmax, command.replace("-", "_"))
    return function


def assert_same(result: Array, expected: Any) -> None:
    """Assert equal bits, shape and dtype."""
    expected = np.asarray(expected)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


def sparse(path: Path, shape: tuple[int, ...], order: str = "C") -> None:
    """Write a file of float32 zeros that takes no room on the disk."""
    header = {"descr": "<f4", "fortran_order": order == "F", "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * int(np.prod(shape)))
