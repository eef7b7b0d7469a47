"""softmax_vjp and log_softmax_vjp: what their definitions say, over axes and types."""

from __future__ import annotations

import functools
import itertools

import ml_dtypes
import numpy as np
import pytest
from oracle import right
from oracle.arithmetic import (
    DTYPES,
    HALVES,
    WIDE,
    Array,
    assert_right,
    assert_same_bits,
    needs_wide,
    silently,
)
from vjp_calls import FORWARD, draw, of_both

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

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


# ---- axes ----


@of_both
@pytest.mark.parametrize(
    "dtype", [np.float32, *HALVES, *(pytest.param("d", marks=needs_wide), "g")]
)
def test_axes(dtype, function):
    for axis in AXES:
        y, dy = draw(function, (3, 5, 4, 7), np.dtype(dtype), axis)
        dx = silently(function, y, dy, axis=axis)
        assert dx.dtype == dtype
        assert_right(dx, right(function, y, dy, axis=axis), f"axis {axis}")


@of_both
def test_set_of_every_element_alone(function):
    y, dy = draw(function, (3, 4))
    expected = {softmax_vjp: y * (dy - y * dy), log_softmax_vjp: dy - np.exp(y) * dy}
    np.testing.assert_allclose(
        function(y, dy, axis=()), expected[function], rtol=1e-13, atol=1e-15
    )


@of_both
def test_gradients_sum_to_nothing(function):
    """Adding a number to the logits changes no softmax."""
    for axis in (0, 1, 2, (0, 2), None):
        y, dy = draw(function, (5, 19, 7), axis=axis)
        total = function(y, dy, axis=axis).sum(axis=axis)
        np.testing.assert_allclose(total, 0, atol=1e-12)


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
        assert_right(dx, right(function, y, dy, axis=axis, dtype=dtype), f"axis {axis}")


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
        assert_right(dx, right(function, y, dy, axis=1, dtype=dtype))


@of_both
def test_long_double_keeps_its_digits(function):
    y, dy = draw(function, (5, 33), WIDE)
    dy += WIDE(2) ** -58
    dx = silently(function, y, dy, axis=1)
    assert_right(dx, right(function, y, dy, axis=1))


@of_both
@pytest.mark.parametrize("dtype", [*DTYPES, np.longdouble])
@pytest.mark.parametrize("axis", [None, 0, -1, ()])
def test_scalars_give_numpy_scalars(axis, dtype, function):
    y, dy = np.array(0.5).astype(dtype), np.array(3.0).astype(dtype)
    with_array = functools.partial(silently, function, axis=axis)
    for of_y, of_dy in ((y, dy), (y[()], dy[()]), (y, 3.0)):
        dx = with_array(of_y, of_dy)
        assert type(dx) is dtype
        assert_right(dx, right(function, y, dy))
    assert with_array(y[np.newaxis], dy).shape == (1,)
    assert type(with_array(0.5, 3)) is np.float64


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
