"""Other Cython code can cimport the row functions, and call them without the GIL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import child
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# One loop over rows, as a user would write it.
EXAMPLE = """
# cython: language_level=3, boundscheck=False, wraparound=False
from fastsoftmax cimport log_softmax_row, logsumexp_row, real, softmax_row


def each_row(real[:, ::1] x, real[:, ::1] y, real[:, ::1] logs, real[::1] sums):
    cdef Py_ssize_t i
    with nogil:
        for i in range(x.shape[0]):
            softmax_row(&x[i, 0], &y[i, 0], x.shape[1])
            log_softmax_row(&x[i, 0], &logs[i, 0], x.shape[1])
            sums[i] = logsumexp_row(&x[i, 0], x.shape[1])


def in_place(real[::1] x):
    softmax_row(&x[0], &x[0], x.shape[0])
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="example", ext_modules=cythonize([Extension("example", ["example.pyx"])]))
"""

# The results are those of the Python functions, to the bit.
COMPARISON = """
import numpy as np
import example
import fastsoftmax

for dtype in (np.float32, np.float64):
    for n in (1, 2, 7, 64, 65, 1000, 200_000):
        x = np.random.default_rng(n).uniform(-90, 90, (3, n)).astype(dtype)
        x[1, n // 2] = -np.inf
        x[2, n // 2] = np.nan
        y, logs, sums = np.empty_like(x), np.empty_like(x), np.empty(3, dtype)
        example.each_row(x, y, logs, sums)
        for got, function in (
            (y, fastsoftmax.softmax),
            (logs, fastsoftmax.log_softmax),
            (sums, fastsoftmax.logsumexp),
        ):
            wanted = function(x, axis=-1)
            assert np.array_equal(got, wanted, equal_nan=True), (dtype, n, function)
        assert abs(y[0].sum() - 1) < 1e-3 and np.isnan(y[2]).all()
        copy = x[0].copy()
        example.in_place(copy)
        assert np.array_equal(copy, y[0])
print("equal")
"""


def test_example_that_cimports(tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="needs Cython")
    pytest.importorskip("setuptools", reason="needs setuptools")
    (tmp_path / "example.pyx").write_text(EXAMPLE)
    (tmp_path / "setup.py").write_text(SETUP)
    for command in (["setup.py", "build_ext", "--inplace"], ["-c", COMPARISON]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=child.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout == "equal\n"
