"""softmax_vjp and log_softmax_vjp: their formulas, within their bounds."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from references import WIDE, Array, silently
from vjp_references import (
    FORWARD,
    HALVES,
    assert_same_bits,
    assert_within,
    draw,
    judge,
    judged,
    needs_wide,
    of_both,
    of_every_dtype,
    widened,
)

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

# Around what the kernels cut a line into: vectors, blocks of 2048, pieces of 65536.
SHORT = [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 255, 256, 257]
LONG = [2047, 2048, 2049, 5000, 65535, 65536, 65537, 131073, 300001]
# Around vectors and tiles of 256 columns.
WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 255, 256, 257, 513]
AXES = [
    *range(-4, 4),
    *(p for k in (0, 2, 3, 4) for p in itertools.permutations(range(4), k)),
    (-1, 0),
    (-3, -1),
    None,
]


def test_known_values():
    y, dy = np.array([0.25, 0.75]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(softmax_vjp(y, dy), [0.1875, -0.1875])
    np.testing.assert_array_equal(
        softmax_vjp(y, dy, temperature=2), [0.09375, -0.09375]
    )
    np.testing.assert_allclose(
        log_softmax_vjp(np.log(y), dy), [0.75, -0.75], rtol=2.0**-51
    )


@of_both
def test_the_default_axis_is_the_whole_array(function):
    y, dy = draw(function, (4, 6), axis=None)
    assert_same_bits(function(y, dy), function(y, dy, axis=(0, 1)))
    assert not np.allclose(function(y, dy), function(y, dy, axis=-1))


# ---- the formula, in long double ----


@of_both
@pytest.mark.parametrize("n", SHORT + LONG)
@judged
def test_lengths(dtype, n, function):
    rows = 35 if n <= 100 else 3 if n <= 5000 else 1
    y, dy = draw(function, (2, rows, n), dtype)
    expected = judge(function, y, dy, -1)
    for place in range(3):
        moved = [np.moveaxis(x, -1, place).copy() for x in (y, dy)]
        dx = silently(function, *moved, axis=place)
        assert dx.dtype == dtype
        assert_within(np.moveaxis(dx, place, -1), expected, f"axis {place}")


@of_both
@pytest.mark.parametrize("n", [2, 4, 5, 7, 256, 259])
@judged
def test_columns_of_any_number(dtype, n, function):
    for width in WIDTHS:
        y, dy = draw(function, (n, width), dtype, axis=0)
        dx = silently(function, y, dy, axis=0)
        assert_within(dx, judge(function, y, dy, 0), f"{width} columns")


@of_both
@pytest.mark.parametrize(
    "dtype", [np.float32, *HALVES, *(pytest.param("d", marks=needs_wide), "g")]
)
def test_axes(dtype, function):
    for axis in AXES:
        y, dy = draw(function, (3, 5, 4, 7), np.dtype(dtype), axis)
        dx = silently(function, y, dy, axis=axis)
        assert dx.dtype == dtype
        assert_within(dx, judge(function, y, dy, axis), f"axis {axis}")


@of_both
@pytest.mark.parametrize("temperature", [0.7, 3, 100.0, 1e-3, np.float32(0.1)])
@pytest.mark.parametrize(
    "dtype", [np.float32, *HALVES, *(pytest.param("d", marks=needs_wide), "g")]
)
def test_temperature(dtype, temperature, function):
    for shape in ((70, 64), (33, 70), (3, 2049)):
        y, dy = draw(function, shape, np.dtype(dtype))
        for axis in (0, 1):
            dx = silently(function, y, dy, axis=axis, temperature=temperature)
            assert_within(dx, judge(function, y, dy, axis, temperature), f"{axis}")


@of_both
@of_every_dtype
def test_a_temperature_of_two_halves(dtype, function):
    y, dy = draw(function, (9, 70), dtype)
    for axis in (0, 1, None):
        whole = function(y, dy * dtype(2), axis=axis)
        assert_same_bits(function(y, dy * dtype(4), axis=axis, temperature=2), whole)


@of_both
def test_set_of_every_element_alone(function):
    y, dy = draw(function, (3, 4))
    expected = {softmax_vjp: y * (dy - y * dy), log_softmax_vjp: dy - np.exp(y) * dy}
    np.testing.assert_allclose(
        function(y, dy, axis=()), expected[function], rtol=1e-13, atol=1e-15
    )


# ---- digits that cancel ----


@pytest.mark.parametrize("n", [17, 64, 1000, 2049, 70_000])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_cancels_in_float32_is_not_lost(axis, n):
    """One probability of nearly 1: its dy is nearly the sum."""
    rng = np.random.default_rng(n)
    x = rng.normal(-12 - np.log(n), 1, (4, n))
    x[np.arange(4), rng.integers(0, n, 4)] = 0
    y = softmax(x.astype(np.float32), axis=1)
    dy = rng.uniform(0.5, 2, (4, n)).astype(np.float32)
    expected = judge(softmax_vjp, y, dy, 1)
    usual = y * (dy - (y * dy).sum(axis=1, keepdims=True))
    error = abs(usual - expected.value) / expected.allowed
    assert (error.max(axis=1) > 100).all()
    if axis == 0:
        dx = softmax_vjp(y.T.copy(), dy.T.copy(), axis=0).T
    else:
        dx = softmax_vjp(y, dy, axis=1)
    assert_within(dx, expected)


@pytest.mark.parametrize("n", [3, 64, 2049])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_label_that_is_certain_keeps_the_digits_of_the_others(axis, n):
    """There exp(y) is exactly 1, and dy - sum(dy) the sum of the others."""
    rng = np.random.default_rng(n)
    y = np.full((4, n), -90, np.float32)
    y[:, 0] = 0
    dy = rng.uniform(-1e-4, 2e-4, (4, n)).astype(np.float32)
    dy[:, 0] = 1000
    others = -widened(dy)[:, 1:].sum(axis=1)
    moved = [np.moveaxis(x, 1, axis).copy() for x in (y, dy)]
    dx = np.moveaxis(log_softmax_vjp(*moved, axis=axis), axis, 1)
    allowed = 3 * 2.0**-23 * abs(others) + n * 2.0**-53 * abs(dy).sum(axis=1)
    assert (abs(widened(dx[:, 0]) - others) <= allowed).all()


@judged
def test_gradients_that_cancel_in_the_sum(dtype):
    """A sum that is far smaller than its terms, and what double leaves of it."""
    y, dy = draw(log_softmax_vjp, (9, 3000), dtype)
    dy[:, 1::2] = -dy[:, ::2]
    dy[:, 7] += dtype(2.0**-20)
    for axis in (0, 1):
        dx = log_softmax_vjp(y, dy, axis=axis)
        assert_within(dx, judge(log_softmax_vjp, y, dy, axis))


@of_both
def test_gradients_sum_to_nothing(function):
    """Adding a number to the logits changes no softmax."""
    for axis in (0, 1, 2, (0, 2), None):
        y, dy = draw(function, (5, 19, 7), axis=axis)
        total = function(y, dy, axis=axis).sum(axis=axis)
        np.testing.assert_allclose(total, 0, atol=1e-12)


# ---- 16 bits ----


@of_both
@pytest.mark.parametrize("n", [2, 17, 64, 65, 2049, 65537])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_rounded_once_from_float32(dtype, n, function):
    y, dy = draw(function, (5 if n < 5000 else 1, n), dtype)
    for axis in (0, 1):
        dx = silently(function, y, dy, axis=axis)
        as_floats = [x.astype(np.float32) for x in (y, dy)]
        assert_same_bits(dx, function(*as_floats, axis=axis).astype(dtype))
        assert_within(dx, judge(function, y, dy, axis))


# ---- types ----

NUMBERS = [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.int64, bool]


def draw_as(function, dtype_of_y, dtype_of_dy) -> tuple[Array, Array]:
    """Rows of both types; of integers those that come near."""
    y, dy = draw(function, (5, 33))
    if np.dtype(dtype_of_y).kind in "bi":
        y = np.rint(y)
    if np.dtype(dtype_of_dy).kind in "bi":
        dy = np.rint(dy)
    return y.astype(dtype_of_y), dy.astype(dtype_of_dy)


@of_both
@pytest.mark.parametrize("dtype_of_dy", NUMBERS)
@pytest.mark.parametrize("dtype_of_y", NUMBERS)
def test_types_are_numpys(dtype_of_y, dtype_of_dy, function):
    y, dy = draw_as(function, dtype_of_y, dtype_of_dy)
    dtype = np.result_type(y, dy)
    dtype = dtype if dtype.kind == "f" else np.dtype(float)
    for axis in (0, 1, None):
        dx = silently(function, y, dy, axis=axis)
        assert dx.dtype == dtype
        assert_within(dx, judge(function, y, dy, axis, dtype=dtype), f"axis {axis}")


@of_both
@pytest.mark.parametrize(
    ("other", "dtype"),
    [
        (ml_dtypes.bfloat16, ml_dtypes.bfloat16),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.longdouble),
        (np.int8, np.float32),
        (np.int64, np.float64),
    ],
)
def test_bfloat16_beside_others(other, dtype, function):
    for pair in ((ml_dtypes.bfloat16, other), (other, ml_dtypes.bfloat16)):
        y, dy = draw_as(function, *pair)
        dx = silently(function, y, dy, axis=1)
        assert dx.dtype == dtype
        assert_within(dx, judge(function, y, dy, 1, dtype=dtype))


@of_both
def test_long_double_keeps_its_digits(function):
    y, dy = draw(function, (5, 33), WIDE)
    dy += WIDE(2) ** -58
    dx = silently(function, y, dy, axis=1)
    assert_within(dx, judge(function, y, dy, 1))


# ---- logarithms far below 0 ----

SCALES = {np.float32: [1e-30, 1.0, 1e30], np.float64: [1e-300, 1e-30, 1.0, 1e30, 1e300]}
LOWEST = {np.float32: -131, np.float64: -1000}  # below, exp(y) counts as 0
SUBNORMAL = {np.float32: (-104, -87), np.float64: (-745, -708)}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        pytest.param(dtype, scale, marks=[needs_wide] if dtype is np.float64 else [])
        for dtype, scales in SCALES.items()
        for scale in scales
    ],
)
def test_log_probabilities_far_below_0(dtype, scale, axis):
    """Half of dy is 0, so that nothing but exp(y) sum(dy) is left there.

    That is exact down to the smallest normal number, though exp(y) alone be subnormal.
    """
    rng = np.random.default_rng(axis)
    for n in (3, 64, 2049):
        y = rng.uniform(LOWEST[dtype], 0, (33, n))
        y[::3] = rng.uniform(*SUBNORMAL[dtype], (11, n))
        y[1::3] = rng.uniform(-130, 0, (11, n))
        dy = rng.uniform(0.5, 1, (33, n)) * scale * (rng.random((33, n)) < 0.5)
        y, dy = y.astype(dtype), dy.astype(dtype)
        dx = silently(log_softmax_vjp, y, dy, axis=axis)
        assert_within(dx, judge(log_softmax_vjp, y, dy, axis), f"n = {n}")


def test_log_probabilities_that_count_as_minus_infinity():
    for dtype, y, total in ((np.float32, -133, 1e30), (np.float64, -1064, 1e300)):
        dx = log_softmax_vjp(np.array([y, 0], dtype), np.array([0, total], dtype))
        np.testing.assert_array_equal(dx, [0, 0])


# ---- against difference quotients ----


@of_both
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (0, 1), None])
def test_is_the_derivative(axis, temperature, function):
    rng = np.random.default_rng(1)
    x, dy, direction = rng.normal(size=(3, 4, 5, 3))
    forward, step = FORWARD[function], 2.0**-17

    def loss(x: Array) -> float:
        return np.vdot(dy, forward(x, axis=axis, temperature=temperature))

    y = forward(x, axis=axis, temperature=temperature)
    dx = function(y, dy, axis=axis, temperature=temperature)
    for place in np.ndindex(x.shape):
        h = np.zeros_like(x)
        h[place] = step
        quotient = (loss(x + h) - loss(x - h)) / (2 * step)
        np.testing.assert_allclose(dx[place], quotient, atol=2e-9, rtol=0)
    quotient = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(np.vdot(dx, direction), quotient, atol=1e-8, rtol=0)


def test_cross_entropy():
    """Minus the log-probability of a label: softmax minus one-hot."""
    x = np.random.default_rng(0).normal(size=(6, 10))
    one_hot = np.eye(10)[np.arange(6)]
    dx = log_softmax_vjp(log_softmax(x, axis=-1), -one_hot, axis=-1)
    np.testing.assert_allclose(dx, softmax(x, axis=-1) - one_hot, rtol=1e-14)
