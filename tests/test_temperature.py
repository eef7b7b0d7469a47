"""Temperatures that are arrays, and quotients beyond the type computed in."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from oracle import GRADIENTS, LAYOUTS, SOFTMAXES, of_every, taken
from oracle.arithmetic import DTYPES, dtypes, silently

from fastsoftmax import log_softmax, softmax

INF, NAN = np.inf, np.nan

of_all = of_every([*SOFTMAXES[:2], *GRADIENTS])
of_both = pytest.mark.parametrize("function", [softmax, log_softmax])


def draw(shape, dtype=np.float64):
    return np.random.default_rng([*shape]).normal(0, 3, shape).astype(dtype)


# ---- temperatures, one for each set ----


@dtypes(*DTYPES, np.int16, ">f4")
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), None])
@of_all
def test_a_temperature_for_each_set(oracle, axis, dtype):
    shape, rng = (5, 19, 7), np.random.default_rng(0)
    given = tuple(x.reshape(shape) for x in oracle.draw(5 * 19, 7, dtype))
    t = rng.uniform(0.3, 3, np.zeros(shape).sum(axis, keepdims=True).shape)
    out = np.empty(shape, *oracle.types(dtype))
    [y] = oracle.check(given, axis, temperature=t, out=out)
    assert y is out
    oracle.check(given, axis, temperature=t.ravel()[0].astype(np.float16))


@pytest.mark.parametrize(
    ("oracle", "dtype"),
    [
        *itertools.product([*SOFTMAXES[:2], *GRADIENTS], [np.longdouble]),
        *itertools.product(SOFTMAXES[:2], [np.clongdouble]),
    ],
    ids=str,
)
def test_a_temperature_for_each_set_of_other_types(oracle, dtype):
    given = oracle.draw(6, 40, dtype)
    t = np.geomspace(0.1, 10, 6)[:, np.newaxis]
    results = oracle.over(given, temperature=t)
    for i, one in enumerate(t[:, 0]):
        [alone] = oracle.over(taken(given, [i]), temperature=one)
        np.testing.assert_array_equal(results[0][i : i + 1], alone, strict=True)


@of_both
def test_temperatures_with_other_options(function):
    x = draw((6, 70), np.float32)
    t = np.float32([[0.1], [0.5], [1], [2], [3], [10]])
    where, out = x > -1, np.empty((6, 70), np.float32)
    expected = function(x / t, axis=1, where=where)
    for given in (t, t.tolist(), t.astype("f8"), np.broadcast_to(t[:1], (1, 1))):
        wanted = expected
        if np.shape(given) == (1, 1):
            wanted = function(x / t[0], axis=1, where=where)
        y = function(x, axis=1, temperature=given, where=where, out=out)
        assert y is out
        np.testing.assert_array_equal(y, wanted)
    same = x.copy()
    function(same, axis=1, temperature=t, where=where, out=same)
    np.testing.assert_array_equal(same, expected)


@of_all
def test_temperatures_of_another_shape(oracle):
    given = oracle.draw(3, 4, np.float32)
    for shape in ((3,), (3, 4), (1, 4), (4,), (2, 3, 1), (2, 1)):
        words = r"temperature must broadcast against [xy], with"
        with pytest.raises(ValueError, match=words):
            oracle.call(*given, axis=1, temperature=np.ones(shape))
    for bad in (-1, INF, NAN):
        words = r"temperature must be finite and > 0 in float32, got .* at 1, 0"
        with pytest.raises(ValueError, match=words):
            oracle.call(*given, axis=1, temperature=[[1], [bad], [1]])


@of_all
@pytest.mark.parametrize("temperature", [0, 0.0, [[1], [0], [2]], np.zeros((3, 1))])
def test_at_temperature_0_the_limit_is_named(temperature, oracle):
    with pytest.raises(ValueError, match="argmax"):
        oracle.call(*oracle.draw(3, 4, np.float32), axis=1, temperature=temperature)


# ---- a set of finite numbers never gives NaN ----

FAR = np.finfo("f4").max


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [3, 30, 300, 5000])
@pytest.mark.parametrize("in_place", [False, True])
def test_quotients_that_overflow(in_place, n, axis):
    rows = {
        0.9: np.full(n, -FAR, "f4"),
        0.4: np.array([FAR] + [0] * (n - 1), "f4"),
        0.5: np.array([FAR, FAR] + [-FAR] * (n - 2), "f4"),
        1e-39: np.arange(n).astype("f4"),
        1e-44: np.linspace(-1, 1, n).astype("f4"),
    }
    exact = {0.9: 1 / n, 0.5: 0.5}  # beside chunks of -inf alone
    for t, row in rows.items():
        x = np.stack([row, np.linspace(0, 1e-9, n), row], dtype="f4")
        x = np.ascontiguousarray(np.moveaxis(x, 1, axis))
        wanted = np.where(row == row.max(), np.float32(exact.get(t, 1)), 0)
        for function, one in ((softmax, wanted), (log_softmax, np.float32(0))):
            given = x.copy()
            y = silently(
                function, given, axis, temperature=t, out=given if in_place else None
            )
            y = np.moveaxis(y, axis, 1)
            assert not np.isnan(y).any()
            if function is softmax:
                np.testing.assert_array_equal(y[[0, 2]], [one, one])
            elif t == 0.4:
                np.testing.assert_array_equal(y[0], [0] + [-INF] * (n - 1))
            if t > 1e-30:
                alone = function(np.linspace(0, 1e-9, n, dtype="f4"), temperature=t)
                np.testing.assert_allclose(y[1], alone, rtol=1e-6)


@of_both
def test_a_smaller_dtype(function):
    wide = np.array([[1e299, 2.0, 1e298], [1, 2, 3], [-1e300, -1e300, -INF]])
    for layout in LAYOUTS.values():
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
            y = silently(function, layout(wide), axis=1, dtype=dtype).astype(float)
            with np.errstate(all="ignore"):
                expected = function(wide, axis=1)
                expected = expected.astype(dtype).astype(float)
            np.testing.assert_allclose(y, expected, rtol=1e-2)
    cube = np.stack([wide, wide]).transpose(1, 0, 2)
    y = silently(function, cube, axis=(0, 2), dtype=np.float32)
    assert not np.isnan(y).any()
    huge = np.longdouble([1e300, 1]) * np.longdouble(1e300)
    y = silently(function, huge, dtype=np.float32)
    np.testing.assert_array_equal(y, [1, 0] if function is softmax else [0, -INF])


@of_both
def test_infinities_beside_quotients_that_overflow(function):
    x = np.float32([[INF, FAR], [NAN, FAR], [-INF, FAR], [-INF, -INF]])
    y = silently(function, x, axis=1, temperature=0.5)
    expected = silently(function, np.float32([[INF, 1], [NAN, 1], [-INF, 1]]), axis=1)
    np.testing.assert_array_equal(y[:3], expected)
    assert np.isnan(y[3]).all()
    masked = silently(function, x, axis=1, temperature=0.5, where=np.isfinite(x))
    np.testing.assert_array_equal(
        np.exp(masked) if function is log_softmax else masked,
        [[0, 1], [0, 1], [0, 1], [0, 0]],
    )
