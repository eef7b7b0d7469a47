"""Columns: every loop gives the same bits, within 2 ULP, exact where people look.

Which loop takes an array depends on n, inner, and what caches hold: strips, tiles,
chunks of tall columns. The lengths and widths here are those around each bound of
kernels/loops/units.h, columns.h and tall_columns.h.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from oracle import right
from oracle.arithmetic import Array, assert_right, assert_same_bits

from fastsoftmax import log_softmax, logsumexp, softmax

FUNCTIONS = [softmax, log_softmax, logsumexp]
DTYPES = [np.float32, np.float64]

# Strips from 16 rows on, sums apart from 128 on, chunks of 256 from 2049 on.
HEIGHTS = [2, 15, 16, 17, 31, 128, 129, 300, 2048, 2049, 2303, 2304, 2305, 2817]
# A vector and half of one, tiles of 120 (float64) and 240 columns.
WIDTHS = [16, 17, 23, 24, 32, 119, 121, 239, 240, 241, 300]
# Fewer than 16 columns: chunks of 1024 from 128 rows on.
NARROW_HEIGHTS = [2, 127, 128, 129, 1023, 1024, 1025, 2100]

of_every_function = pytest.mark.parametrize("function", FUNCTIONS)
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def draw(n: int, width: int, dtype: type) -> Array:
    """Columns of every level and spread; some hold -inf, some are deep, or peaked."""
    rng = np.random.default_rng([n, width])
    level = rng.uniform(-300, 300, width)
    spread = rng.choice([0.01, 1, 20, 60], width)
    x = level + spread * rng.normal(size=(n, width))
    x[rng.random((n, width)) < 0.2 * (rng.random(width) < 0.2)] = -np.inf
    x[n // 2, rng.random(width) < 0.1] = 600
    return x.astype(dtype)


def swapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder())


def spaced(x: Array) -> Array:
    room = np.zeros((len(x), 2 * x.shape[1]), x.dtype)
    room[:, ::2] = x
    return room[:, ::2]


def rows_apart(x: Array) -> Array:
    room = np.zeros((len(x), x.shape[1] + 3), x.dtype)
    room[:, :-3] = x
    return room[:, :-3]


@of_every_dtype
@of_every_function
def test_every_loop_gives_the_same(function, dtype):
    """Alone, in place, converted on the way in, and in slabs one behind the other."""
    for n in HEIGHTS:
        x = draw(n, 300, dtype)
        y = function(x, axis=0)
        for width in WIDTHS:
            part = x[:, :width].copy()
            assert_same_bits(function(part, axis=0), y[..., :width])
            for layout in (swapped, spaced, rows_apart):
                assert_same_bits(function(layout(part), axis=0), y[..., :width])
            slabs = np.stack([part, x[:, 300 - width :]])
            both = function(slabs, axis=1)
            assert_same_bits(both[0], y[..., :width])
            assert_same_bits(both[1], y[..., 300 - width :])
            if function is not logsumexp:
                function(part, axis=0, out=part)
                assert_same_bits(part, y[:, :width])


@of_every_dtype
@of_every_function
def test_narrow_columns(function, dtype):
    """Layout, slabs and place change nothing for them, either."""
    for n in NARROW_HEIGHTS:
        for width in (2, 3, 5, 8, 15):
            x = draw(n, width, dtype)
            y = function(x, axis=0)
            for layout in (swapped, spaced, rows_apart):
                assert_same_bits(function(layout(x), axis=0), y)
            slabs = function(np.stack([x[:, ::-1], x]), axis=1)
            assert_same_bits(slabs[1], y)
            assert_same_bits(slabs[0][..., ::-1], y)
            if function is not logsumexp:
                function(x, axis=0, out=x)
                assert_same_bits(x, y)


@of_every_function
@pytest.mark.parametrize(
    "shape", [(100, 30_000), (300, 9000), (2500, 900), (9000, 240)]
)
def test_arrays_that_no_cache_holds(function, shape):
    """Terms are made again, results written past the caches: 10 to 30 MB."""
    x = draw(*shape, np.float32)
    y = function(x, axis=0)
    for first in (0, 7, shape[1] - 40):
        part = x[:, first : first + 40].copy()
        assert_same_bits(function(part, axis=0), y[..., first : first + 40])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@of_every_function
def test_threads(function, dtype, use_threads):
    """Few tall columns, wide ones, slabs, and strips of which the last overlap."""
    shapes = [(1, 100_001, 16), (1, 90_000, 3), (1, 3000, 500), (3, 40_001, 7)]
    shapes += [(60, 100, 50), (1, 40, 7001), (300, 300, 5), (2, 600, 333)]
    for shape in shapes:
        slabs, n, width = shape
        x = draw(slabs * n, width, dtype).reshape(shape)
        use_threads(1)
        expected = function(x, axis=1)
        for threads in (2, 3, 16):
            use_threads(threads)
            assert_same_bits(function(x, axis=1), expected)
            if function is not logsumexp:
                out = x.copy()
                assert_same_bits(function(out, axis=1, out=out), expected)


def levels(n: int, width: int) -> Array:
    """Chunks of one column far apart: each has a shift of its own, or none."""
    rng = np.random.default_rng(n)
    steps = [0, 30, -30, 190, 210, -250, 700, -3000, 215, 600]
    at = np.array(steps)[(np.arange(n) // 256)[:, None] % np.arange(1, width + 1)]
    return at + rng.normal(size=(n, width))


@of_every_dtype
@of_every_function
@pytest.mark.parametrize("scale", [1, 10])
def test_chunks_far_apart(function, dtype, scale):
    x = (scale * levels(2600, 10)).astype(dtype)
    expected = right(function, x, axis=0)
    for given in (np.tile(x, (1, 2)), x):
        y = function(given, axis=0)[..., :10]
        assert_right(y, expected)


HOLES: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: np.zeros(x.shape, bool),
    "whole chunks": lambda x: np.broadcast_to(
        np.arange(len(x))[:, None] // 900 % 2 > 0, x.shape
    ),
    "some": lambda x: np.broadcast_to(np.arange(len(x))[:, None] % 3 > 0, x.shape),
}


@of_every_dtype
@pytest.mark.parametrize("holes", HOLES)
@pytest.mark.parametrize("width", [3, 16, 40, 300])
def test_what_people_look_at_is_exact(dtype, holes, width):
    """Equal entries give 1/n, one far above the others 1, beside other columns."""
    for n in (3, 7, 17, 130, 300, 2047, 2049, 2500):
        x = draw(n, width, dtype)
        flat, peaked = slice(0, None, 3), slice(1, None, 3)
        x[:, flat] = np.linspace(-250, 250, width, dtype=dtype)[flat]
        x[:, peaked] = -np.arange(n)[:, None] % 5
        x[n // 3 * 3 % n, peaked] = 80
        x[HOLES[holes](x)] = -np.inf
        kept = x > -np.inf
        for given in (x, swapped(x)):
            y = softmax(given, axis=0)
            share = np.where(
                kept, dtype(1) / np.maximum(kept.sum(0, dtype=dtype), 1), 0
            )
            np.testing.assert_array_equal(y[:, flat], share[:, flat])
            np.testing.assert_array_equal(y[n // 3 * 3 % n, peaked], 1)


def test_so_many_columns_that_they_are_done_in_parts(use_threads):
    """Some 280 MB of states, if all were kept at once, of tiles that no cache holds."""
    use_threads(2)
    x = np.random.default_rng(5).normal(size=(4400, 1)).astype(np.float32)
    expected = logsumexp(np.broadcast_to(x, (4400, 64)), axis=0)
    many = logsumexp(np.broadcast_to(x, (4400, 323_037)), axis=0)
    assert (many == expected[0]).all()


def test_one_hole_in_more_rows_than_float32_counts():
    """2^24 + 1 are rounded to 2^24: the hole went unseen, and came out as NaN."""
    x = np.zeros((2**24 + 1, 2), np.float32)
    x[::2] = -1
    x[7, 0] = -np.inf
    y = softmax(x, axis=0, out=x)
    assert (y[7] == [0, y[9, 1]]).all()


@pytest.mark.parametrize("n", [2, 5])
def test_columns_that_a_plain_sum_tells_beside_those_it_does_not(n):
    """Neighbours that are far from 0, or next to it, change no bit of the others."""
    x = np.random.default_rng(n).normal(size=(n, 4800)).astype(np.float32)
    mixed = x.copy()
    mixed[:, ::16], mixed[:, 7::16] = 700, 0
    mixed[1:, 7::16] = -40
    anywhere = np.ndarray((4800,), np.float32, np.empty(4 * 4801, "u1"), offset=1)
    y, expected = logsumexp(mixed, axis=0, out=anywhere), logsumexp(x, axis=0)
    others = ~np.isin(np.arange(4800) % 16, [0, 7])
    assert_same_bits(y[others], expected[others])
    assert (y[::16] == np.float32(700 + np.log(n))).all()
    assert (y[7::16] == np.float32((n - 1) * np.exp(-40.0))).all()
