"""NaN, infinities, zeros and empty sets in the gradients, always silently."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from references import Array, silently
from vjp_references import (
    DTYPES,
    FORWARD,
    assert_same_bits,
    assert_within,
    compute_type,
    draw,
    judge,
    of_both,
    of_every_dtype,
)

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

INF, NAN = np.inf, np.nan
LENGTHS = [1, 2, 17, 64, 65, 2049]
# Some beginnings and ends of pieces; long enough to be shared between threads.
VERY_LONG = 140_000

IN_DY = [(NAN,), (INF,), (-INF,), (INF, INF), (INF, -INF), (NAN, INF)]
IN_Y = {
    softmax_vjp: [(NAN,), (INF,), (0.0, INF)],
    log_softmax_vjp: [(NAN,), (-INF,), (-INF, NAN)],
}


def over(function, y: Array, dy: Array, axis: int, **options) -> Array:
    """Gradient of each row, the rows laid along `axis`."""
    if axis == 1:
        return silently(function, y, dy, axis=1, **options)
    return silently(function, y.T.copy(), dy.T.copy(), axis=0, **options).T


def with_specials(function, n: int, dtype) -> tuple[Array, Array]:
    """Two ordinary rows around each one that is not."""
    cases = [(1, values) for values in IN_DY] + [(0, v) for v in IN_Y[function]]
    places = sorted({0, n // 2, n - 1})
    row = iter(range(1, 2 * len(cases) * len(places), 2))
    given = draw(function, (2 * len(cases) * len(places) + 1, n), dtype)
    for which, values in cases:
        for place in places:
            at = (place + 7 * np.arange(len(values))) % n
            given[which][next(row), at] = values
    return given


@of_both
@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", LENGTHS)
def test_nan_and_infinities_follow_ieee_in_their_own_set(n, axis, dtype, function):
    y, dy = with_specials(function, n, dtype)
    dx = over(function, y, dy, axis)
    assert_within(dx, judge(function, y, dy, 1))
    clean = over(function, *draw(function, y.shape, dtype), axis)
    assert_same_bits(dx[::2], clean[::2])


@of_both
@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
def test_in_a_set_of_several_pieces(axis, dtype, function):
    y, clean = draw(function, (3, VERY_LONG), dtype)
    y[1] = y[1, 0]
    undisturbed = over(function, y, clean, axis)
    for special, place in ((NAN, 0), (INF, 65535), (-INF, 65536), (INF, VERY_LONG - 1)):
        dy = clean.copy()
        dy[1, place] = special
        dx = over(function, y, dy, axis)
        expected = np.full(VERY_LONG, -special)
        expected[place] = NAN
        np.testing.assert_array_equal(dx[1].astype(np.float64), expected)
        assert_same_bits(dx[::2], undisturbed[::2])


@of_both
@of_every_dtype
def test_long_double_and_temperature_follow_ieee_too(dtype, function):
    for n in (2, 17, 65):
        y, dy = with_specials(function, n, dtype)
        wide = [x.astype(np.float64).astype(np.longdouble) for x in (y, dy)]
        for temperature in (0.5, 3.0):
            for given in ((y, dy), wide):
                dx = silently(function, *given, axis=1, temperature=temperature)
                assert_within(dx, judge(function, *given, 1, temperature))


# ---- zeros ----


def masked(function, shape: tuple[int, int], dtype) -> tuple[Array, Array, Array]:
    """A y of which `where` left some, its mask, and dy: some rows whole, some none."""
    rng = np.random.default_rng(list(shape))
    where = rng.random(shape) < 0.6
    where[::5] = False
    where[1::5] = True
    x = rng.normal(0, 3, shape).astype(dtype)
    y = FORWARD[function](x, axis=1, where=where)
    return y, where, rng.normal(size=shape).astype(dtype)


@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [1, 2, 17, 64, 65, 2049, 70_000])
def test_what_where_left_out_has_no_gradient(n, axis, dtype):
    y, where, dy = masked(softmax_vjp, (6, n), dtype)
    for options in ({}, {"temperature": 0.7}):
        dx = over(softmax_vjp, y, dy, axis, **options)
        assert (dx[~where] == 0).all()
        assert_within(dx, judge(softmax_vjp, y, dy, 1, **options))


@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [1, 2, 17, 64, 65, 2049, 70_000])
def test_where_y_is_minus_infinity_dy_is_what_remains(n, axis, dtype):
    y, where, dy = masked(log_softmax_vjp, (6, n), dtype)
    assert_same_bits(over(log_softmax_vjp, y, dy, axis)[~where], dy[~where])
    compute = compute_type(dtype)
    for temperature in (0.7, 3.0):
        dx = over(log_softmax_vjp, y, dy, axis, temperature=temperature)
        expected = (dy.astype(compute) / compute(temperature)).astype(dtype)
        assert_same_bits(dx[~where], expected[~where])
        assert_within(dx, judge(log_softmax_vjp, y, dy, 1, temperature))


@pytest.mark.parametrize("dtype", [*DTYPES, np.longdouble])
@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (2, 2049)])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_fully_masked_sets(axis, shape, dtype):
    x, dy = draw(softmax_vjp, shape, dtype)
    y = softmax(x, axis=axis, where=False)
    assert (silently(softmax_vjp, y, dy, axis=axis) == 0).all()
    y = log_softmax(x, axis=axis, where=False)
    assert (silently(log_softmax_vjp, y, dy, axis=axis) == dy).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_that_underflowed(dtype):
    y = softmax(np.array([[0.0, -2000.0, 1.0, -1000.0]] * 9, dtype), axis=1)
    dy = draw(softmax_vjp, y.shape, dtype)[1]
    for axis in (0, 1):
        dx = over(softmax_vjp, y, dy, axis)
        assert (dx[:, 1::2] == 0).all()
        assert (dx[:, ::2] != 0).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_beyond_the_type_is_infinite(axis):
    y, dy = np.float32([[1, 1, 0]]), np.float32([[3e38, 3e38, 1]])
    dx = over(softmax_vjp, y, dy, axis)
    np.testing.assert_array_equal(dx, [[-np.inf, -np.inf, np.nan]])


@pytest.mark.parametrize("axis", [0, 1])
def test_log_softmax_vjp_of_a_sum_beyond_the_type(axis):
    """The sum is a double, and comes with a factor."""
    half = np.log(np.full((1, 2), 0.5, np.float32))
    dy = np.full((1, 2), 3e38, np.float32)
    dx = over(log_softmax_vjp, half, dy, axis)
    np.testing.assert_allclose(dx, [[0, 0]], atol=3e38 * 3 * 2.0**-23)


# ---- what is no logarithm of a probability ----


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 50), (np.float64, 400)])
@pytest.mark.parametrize("axis", [0, 1])
def test_too_large_logarithms_count_as_infinite(axis, dtype, large):
    """Be `lo`, what the sum has beyond its leading digits, 0 or of either sign."""
    for of_dy in ((1.0, 0.0), (1.0, 0.1), (0.1, 0.3), (-1.0, -0.1), (1.0, -1.0)):
        dy = np.array([of_dy] * 9, dtype)
        for value in (large, INF):
            y = np.full(dy.shape, -1, dtype)
            y[:, 0] = value
            expected = judge(log_softmax_vjp, np.where(y > 0, INF, y), dy, 1)
            assert_within(over(log_softmax_vjp, y, dy, axis), expected, f"{of_dy}")


@pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 41), (np.float64, 352)])
@pytest.mark.parametrize("axis", [0, 1])
def test_logarithms_up_to_1e18_and_1e153_do_not(axis, dtype, largest):
    y, dy = draw(log_softmax_vjp, (9, 40), dtype)
    y[:, ::3] = np.random.default_rng(0).uniform(0, largest, y[:, ::3].shape)
    expected = judge(log_softmax_vjp, y, dy, 1)
    assert np.isfinite(expected.value).all()
    assert_within(over(log_softmax_vjp, y, dy, axis), expected)


# ---- empty sets, sets of one ----


@of_both
@pytest.mark.parametrize("dtype", [*DTYPES, np.longdouble, np.int8])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
def test_empty(shape, dtype, function):
    y = np.empty(shape, dtype)
    for axis in (None, 0, -1, (), tuple(range(len(shape)))):
        for dy in (y, np.ones(1, dtype)):
            dx = silently(function, y, dy, axis=axis)
            assert dx.shape == shape
            assert dx.dtype == (np.float64 if dtype is np.int8 else dtype)


@of_both
@pytest.mark.parametrize("dtype", [*DTYPES, np.longdouble])
@pytest.mark.parametrize("axis", [None, 0, -1, ()])
def test_scalars_give_numpy_scalars(axis, dtype, function):
    y, dy = np.array(0.5).astype(dtype), np.array(3.0).astype(dtype)
    with_array = functools.partial(silently, function, axis=axis)
    for of_y, of_dy in ((y, dy), (y[()], dy[()]), (y, 3.0)):
        dx = with_array(of_y, of_dy)
        assert type(dx) is dtype
        assert_within(dx, judge(function, y, dy))
    assert with_array(y[np.newaxis], dy).shape == (1,)
    assert type(with_array(0.5, 3)) is np.float64
