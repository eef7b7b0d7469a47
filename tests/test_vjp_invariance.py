"""A gradient is the same to the bit, wherever its set is and whoever computes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from references import LAYOUTS, Array, silently
from vjp_references import assert_same_bits, draw, of_both, of_every_dtype

LENGTHS = [*range(1, 131, 5), 16, 32, 64, 128, 255, 256, 257, 2047, 2048, 2049, 5000]
LONG = [65_537, 131_073, 300_001]
# Rows that stay rows in memory: the loops over columns add up in another order.
ROWS = [k for k in LAYOUTS if k not in ("F", "axes rotated", "byte-swapped F")]


@of_both
@of_every_dtype
def test_a_row_in_a_batch_equals_the_row_alone(dtype, function):
    for n in [*LENGTHS, *LONG]:
        y, dy = draw(function, (19 if n <= 257 else 3, n), dtype)
        alone = [function(*pair) for pair in zip(y, dy, strict=True)]
        assert_same_bits(function(y, dy, axis=-1), np.array(alone))


@of_both
@of_every_dtype
def test_columns_do_not_depend_on_the_width(dtype, function):
    for n in (2, 3, 5, 64, 300, 2049):
        y, dy = draw(function, (n, 600 if n <= 300 else 300), dtype, axis=0)
        dx = function(y, dy, axis=0)
        for width in (16, 17, 31, 33, 65, 255, 256, 257, 293):
            part = np.s_[:, 5 : 5 + width]
            columns = function(y[part].copy(), dy[part].copy(), axis=0)
            assert_same_bits(columns, dx[part])


@of_both
@of_every_dtype
def test_narrow_columns_do_not_see_their_neighbours(dtype, function):
    """Nor where they stand; how many there are, they may: fewer than FS_NARROW."""
    for n in (2, 3, 5, 64, 300, 2049):
        for width in range(2, 16):
            y, dy = draw(function, (n, width), dtype, axis=0)
            dx = function(y, dy, axis=0)
            swapped = y[:, ::-1].copy(), dy[:, ::-1].copy()
            assert_same_bits(function(*swapped, axis=0), dx[:, ::-1])
            dy[:, 1:] = 1
            assert_same_bits(function(y, dy, axis=0)[:, 0], dx[:, 0])


# All above 262144 elements, from which on threads share the work.
SHAPES = [
    ((3000, 100), 1),
    ((1, 300_001), 1),
    ((3, 300_001), 1),
    ((5, 70_000), 1),
    ((100_001, 3), 0),
    ((40, 7001), 0),
    ((7, 50, 801), 1),
    ((70, 80, 50), (0, 1)),
    ((70, 80, 50), (0, 2)),
    ((600, 501), None),
]


@of_both
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_with_1_2_and_8_threads(shape, axis, dtype, function, use_threads):
    y, dy = draw(function, shape, dtype, axis)
    use_threads(1)
    expected = function(y, dy, axis=axis)
    one_for_all = function(y, dy[:1], axis=axis, temperature=0.7)
    for threads in (2, 8):
        use_threads(threads)
        assert_same_bits(function(y, dy, axis=axis), expected)
        same = function(y, dy[:1], axis=axis, temperature=0.7)
        assert_same_bits(same, one_for_all)
        out = dy.copy()
        assert_same_bits(function(y, out, axis=axis, out=out), expected)


Ways = dict[str, Callable[[Callable[..., Array], Array, Array, object], Array]]


def _with_out(function, y, dy, axis):
    return function(y, dy, axis, out=np.full_like(y, 9))


def _in_place_of_y(function, y, dy, axis):
    y = y.copy()
    return function(y, dy, axis, out=y)


def _in_place_of_dy(function, y, dy, axis):
    dy = dy.copy()
    return function(y, dy, axis, out=dy)


def _with_options(function, y, dy, axis):
    return function(y, dy, (axis,), temperature=np.float64(1))


def _broadcast(function, y, dy, axis):
    """Broadcast over a dimension that is no set's."""
    y, dy = np.stack([y, y[::-1]]), np.stack([dy, dy])
    whole = function(y, dy[:1], axis + 1)
    assert_same_bits(whole, function(y, dy, axis + 1))
    return whole[0]


GENERAL: Ways = {
    "out": _with_out,
    "in place of y": _in_place_of_y,
    "in place of dy": _in_place_of_dy,
    "options": _with_options,
    "broadcast": _broadcast,
}


@of_both
@of_every_dtype
@pytest.mark.parametrize("way", GENERAL)
def test_the_fast_path_and_the_general_one_agree(way, dtype, function):
    """Plain C-contiguous arrays without options take a shorter way in."""
    for n in (1, 2, 17, 64, 65, 257, 2049, 70_000):
        y, dy = draw(function, (7 if n < 5000 else 2, n), dtype)
        for axis in (0, 1):
            general = silently(GENERAL[way], function, y, dy, axis)
            assert_same_bits(general, function(y, dy, axis))


@of_both
@of_every_dtype
@pytest.mark.parametrize("layout", ROWS)
def test_layouts_of_rows(layout, dtype, function):
    """Of y, beside every layout of dy."""
    for n in (2, 17, 65, 2049):
        y, dy = draw(function, (7, n), dtype)
        expected = function(y, dy, axis=-1)
        for other in LAYOUTS:
            dx = function(LAYOUTS[layout](y), LAYOUTS[other](dy), axis=-1)
            assert_same_bits(dx, expected)


@of_both
@of_every_dtype
def test_calls_repeat(dtype, function):
    y, dy = draw(function, (300, 100), dtype)
    for axis in (0, 1):
        first = function(y, dy, axis=axis)
        assert_same_bits(function(y, dy, axis=axis), first)
