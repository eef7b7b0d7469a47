"""A row's result is the same to the bit, wherever it is and whoever computes it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from references import LAYOUTS, Array

from fastsoftmax import _cpu, log_softmax, logsumexp, softmax

FUNCTIONS = [softmax, log_softmax, logsumexp]
ELEMENTWISE = [softmax, log_softmax]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]

UP_TO_130 = range(1, 131)
LARGER = [131, 200, 255, 256, 257, 511, 1000, 2047, 2048, 2049, 4096, 4097, 10_000]
LONG = [65_535, 65_536, 65_537, 131_072, 131_073, 262_145, 300_001]

# FS_NARROW: of fewer columns, several rows may be worked on side by side.
NARROW = 16

# From so many elements on, work is shared between threads.
FOR_THREADS = 32_768

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw(rows: int, n: int, dtype: type) -> Array:
    """Rows that differ in everything: level, spread, sign."""
    rng = np.random.default_rng([rows, n])
    level = rng.uniform(-300, 300, (rows, 1))
    spread = rng.choice([0.01, 1, 20], (rows, 1))
    return (level + spread * rng.normal(size=(rows, n))).astype(dtype)


def rows_of(n: int) -> int:
    return 67 if n <= 130 else 5


def assert_same_bits(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(bits(a), bits(b))


def bits(a: Array) -> Array:
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def alone(function, x: Array) -> Array:
    return np.array([function(row.copy()) for row in x])


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_in_a_batch_equals_the_row_alone(function, dtype):
    for n in [*UP_TO_130, *LARGER]:
        x = draw(rows_of(n), n, dtype)
        assert_same_bits(function(x, axis=-1), alone(function, x))


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_does_not_see_its_neighbours(function, dtype):
    """Nor how many there are, nor where in the batch it stands."""
    for n in (2, 10, 33, 64, 65, 100, 300):
        x = draw(200, n, dtype)
        y = function(x, axis=-1)
        for first, last in ((0, 1), (0, 9), (1, 18), (63, 65), (64, 200), (3, 131)):
            assert_same_bits(function(x[first:last].copy(), axis=-1), y[first:last])
        assert_same_bits(function(x[::-1].copy(), axis=-1), y[::-1])


def shift_by_one(x: Array) -> Array:
    return LAYOUTS["one element off"](x)


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_shifted_by_one_element(function, dtype):
    for n in [*UP_TO_130, *LARGER]:
        x = draw(7, n, dtype)
        assert_same_bits(function(shift_by_one(x), axis=-1), function(x, axis=-1))


@of_every_dtype
@pytest.mark.parametrize("function", ELEMENTWISE)
def test_in_place(function, dtype):
    for n in [*UP_TO_130, *LARGER, *LONG]:
        x = draw(7 if n <= 4097 else 2, n, dtype)
        expected = function(x, axis=-1)
        assert_same_bits(function(x, axis=-1, out=x), expected)


COUNT = """
import os
import sys

import numpy as np

import fastsoftmax

fastsoftmax.set_num_threads(3)
fastsoftmax._cpu.share_always(True)
before = len(os.listdir("/proc/self/task"))
fastsoftmax.softmax(np.zeros((int(sys.argv[1]) // 64, 64)), axis=-1)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not _cpu.openmp, reason="built without threads")
def test_threads_share_work_of_the_size_tested_here(tmp_path):
    command = [sys.executable, "-c", COUNT, str(FOR_THREADS)]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "2\n"


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_with_1_2_and_8_threads(function, dtype, use_threads):
    for n in [*UP_TO_130[::7], *LARGER[::2]]:
        x = draw(rows_of(n), n, dtype)
        use_threads(1)
        expected = function(x, axis=-1)
        repeats = FOR_THREADS // x.size + 1
        many = np.tile(x, (repeats, 1))
        for threads in (2, 8):
            use_threads(threads)
            y = function(many, axis=-1).reshape(repeats, *expected.shape)
            assert_same_bits(y, np.broadcast_to(expected, y.shape))


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_long_rows(function, dtype, use_threads):
    """A long row is cut into pieces that threads share, if rows are few."""
    for n in LONG:
        x = draw(2, n, dtype)
        use_threads(1)
        expected = function(x[0])
        for threads in (1, 2, 8):
            use_threads(threads)
            assert_same_bits(function(x[0]), expected)
            assert_same_bits(function(x, axis=-1)[0], expected)
            assert_same_bits(function(shift_by_one(x), axis=-1)[0], expected)
            if n < 2 * LONG[0]:
                assert_same_bits(function(x[[1] * 16 + [0]], axis=-1)[16], expected)


OPTIONS: dict[str, Callable[[int], dict[str, object]]] = {
    "where": lambda n: {"where": np.arange(n) % 3 < 2},
    "temperature": lambda n: {"temperature": 0.7},
    "dtype": lambda n: {"dtype": np.float64},
}


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("function", ELEMENTWISE)
def test_with_options(function, option, dtype, use_threads):
    for n in (2, 17, 64, 65, 129, 2049, 65_537):
        x = draw(140 if n == 2049 else 67 if n < 2049 else 5, n, dtype)
        options = OPTIONS[option](n)
        expected = alone(functools.partial(function, **options), x)
        for threads in (1, 2, 8):
            use_threads(threads)
            assert_same_bits(function(x, axis=-1, **options), expected)


COLUMNS_IN_MEMORY = ("F", "axes rotated", "byte-swapped F")


@pytest.mark.parametrize("layout", [k for k in LAYOUTS if k not in COLUMNS_IN_MEMORY])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_layouts_of_rows(function, layout):
    """Whatever the strides and the alignment, the bits are those of C order."""
    for n in (2, 17, 64, 65, 129, 2049):
        x = draw(67, n, np.float32)
        assert_same_bits(function(LAYOUTS[layout](x), axis=-1), function(x, axis=-1))


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_columns_do_not_depend_on_the_width(function, dtype):
    for n in (2, 3, 10, 64, 65, 300, 2049, 4097):
        x = draw(600 if n <= 300 else 70, n, dtype).T.copy()
        y = function(x, axis=0)
        for width in (2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 255, 256, 257, 513):
            part = x[:, 5 : 5 + width].copy()
            if width >= NARROW:
                assert_same_bits(function(part, axis=0), y[..., 5 : 5 + width])
            assert_same_bits(
                function(shift_by_one(part), axis=0), function(part, axis=0)
            )


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_narrow_columns_do_not_see_their_neighbours(function, dtype):
    """Nor where they stand; how many there are, they may."""
    for n in (2, 3, 10, 64, 65, 300, 2049, 4097):
        for width in range(2, NARROW):
            x = draw(width, n, dtype).T.copy()
            y = function(x, axis=0)
            assert_same_bits(function(x[:, ::-1].copy(), axis=0), y[..., ::-1])
            assert_same_bits(function(shift_by_one(x), axis=0), y)
            many = np.stack([x, x[::-1], x], axis=1)
            assert_same_bits(function(many[:, ::2], axis=0)[..., 1, :], y)
            x[:, 1:] = 0
            assert_same_bits(function(x, axis=0)[..., 0], y[..., 0])


@of_every_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_columns_do_not_depend_on_threads(function, dtype, use_threads):
    for shape in ((40, 7000), (3, 90_000), (9000, 30), (7, 50, 800), (60_000, 5)):
        x = draw(shape[0], int(np.prod(shape[1:])), dtype).reshape(shape)
        axis = len(shape) - 2
        use_threads(1)
        expected = function(x, axis=axis)
        for threads in (2, 8):
            use_threads(threads)
            assert_same_bits(function(x, axis=axis), expected)


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_columns_in_place(function):
    for shape in ((2, 2), (65, 17), (300, 600), (2049, 3)):
        x = draw(*shape, np.float32)
        expected = function(x, axis=0)
        assert_same_bits(function(x, axis=0, out=x), expected)
