"""The promised bounds: 2 ULP in every entry, 1 ULP for logsumexp in float32.

The judge is long double, which mpmath judges in turn. Where long double is no wider
than double, mpmath judges float64 alone, in shorter rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp
from references import (
    WIDE,
    WIDE_ENOUGH,
    Array,
    Exact,
    exact,
    in_units,
    reference,
    silently,
    ulps,
    unit,
)

from fastsoftmax import log_softmax, logsumexp, softmax

FUNCTIONS = [softmax, log_softmax, logsumexp]
FLOATS = [np.float32, np.float64]
HALVES = [np.float16, ml_dtypes.bfloat16]

SHORT = [2, 3, 4, 5, 7, 10, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129]
LONG = [1000, 2047, 2049, 4097]
VERY_LONG = [32000, 65537, 151936]

# Below the maximum, in which softmax is subnormal.
SUBNORMAL = {np.float32: (80, 110), np.float64: (700, 745)}

Case = Callable[[np.random.Generator, tuple[int, int], type], Array]


def to_maximum(x: Array, maximum: float) -> Array:
    return x - x.max(axis=-1, keepdims=True) + maximum


def uniform(rng, shape, dtype):
    return rng.uniform(-30, 30, shape)


def normal(rng, shape, dtype):
    return rng.normal(size=shape)


def offset(by: float) -> Case:
    return lambda rng, shape, dtype: rng.uniform(-30, 30, shape) + by


def maximum(is_: float) -> Case:
    return lambda rng, shape, dtype: to_maximum(rng.normal(0, 8, shape), is_)


def half_far_below(rng, shape, dtype):
    x = rng.normal(size=shape)
    low, high = SUBNORMAL[dtype]
    x[:, 1::2] = x.max(axis=-1, keepdims=True) - rng.uniform(
        low, high, x[:, 1::2].shape
    )
    return x


def constant(rng, shape, dtype):
    return np.repeat(rng.uniform(-100, 100, (shape[0], 1)), shape[1], axis=1)


def rising(rng, shape, dtype):
    return np.sort(rng.uniform(-30, 30, shape), axis=-1)


def falling(rng, shape, dtype):
    return -rising(rng, shape, dtype)


def one_above_many(rng, shape, dtype):
    x = rng.uniform(-20, -12, shape)
    x[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 0.3
    return x


def one_far_above_many(rng, shape, dtype):
    x = rng.uniform(-60, -30, shape)
    x[:, -1] = 0
    return x


def log_probabilities(rng, shape, dtype):
    x = rng.normal(0, 4, shape)
    return np.asarray(exact(x).log_softmax, np.float64)


def wide_apart(rng, shape, dtype):
    return rng.uniform(-1e4, 1e4, shape)


def nearly_equal(rng, shape, dtype):
    return rng.uniform(-1e-5, 1e-5, shape)


CASES: dict[str, Case] = {
    "uniform": uniform,
    "normal": normal,
    **{f"offset {by}": offset(by) for by in (700, -700, 1000.5, 9999, -9999)},
    # The method changes at 200 (float32) and 1500 (float64).
    **{
        f"maximum {is_}": maximum(is_)
        for is_ in (199.9, -199.9, 200.1, -200.1, 1499.9, -1499.9, 1500.1, -1500.1)
    },
    "half far below": half_far_below,
    "constant": constant,
    "rising": rising,
    "falling": falling,
    "one above many": one_above_many,
    "one far above many": one_far_above_many,
    "log-probabilities": log_probabilities,
    "wide apart": wide_apart,
    "nearly equal": nearly_equal,
}

# Judging costs a hundred times the functions: very long rows are judged in these.
IN_VERY_LONG_ROWS = (
    "uniform",
    "normal",
    "offset 1000.5",
    "half far below",
    "one above many",
)

LAYOUTS: dict[str, tuple[Callable[[Array], Array], int]] = {
    "last axis": (lambda x: x, -1),
    "first axis": (lambda x: np.ascontiguousarray(x.T), 0),
    "middle axis": (lambda x: np.stack(np.split(x.T, 2, axis=1)), 1),
}


def rows_of(n: int) -> int:
    """Rows (or columns) to test: more and less than a vector's or a block's."""
    return 70 if n <= 130 else 18 if n <= 1000 else 4


def draw(case: str, dtype: type, n: int, rows: int) -> Array:
    rng = np.random.default_rng([n, list(CASES).index(case)])
    return CASES[case](rng, (rows, n), dtype).astype(dtype)


class Judge(NamedTuple):
    """What the functions should make of rows, and the ULP their errors count in."""

    expected: Exact
    units: dict[str, Array]

    def error(self, function, y: Array, axis: int = -1) -> float:
        """Largest error of a result over `axis`, however its rows are arranged."""
        name = function.__name__
        value = getattr(self.expected, name)
        y = y if function is logsumexp else np.moveaxis(y, axis, -1)
        return in_units(y.reshape(value.shape), value, self.units[name])


def judge(x: Array, expected: Exact | None = None) -> Judge:
    expected = exact(x) if expected is None else expected
    units = {
        "softmax": unit(expected.softmax, x.dtype),
        "log_softmax": unit(expected.log_softmax, x.dtype),
        "logsumexp": unit(expected.logsumexp, x.dtype),
    }
    if x.dtype == np.float64:
        units["logsumexp"] = unit(expected.largest, x.dtype)
    elif expected.logsumexp.ndim:
        # Where the two terms cancel further, long double has too few digits to judge:
        # test_logsumexp_of_log_probabilities asks mpmath.
        untold = abs(expected.logsumexp) < 2.0**-28 * expected.largest
        units["logsumexp"][untold] = np.inf
    return Judge(expected, units)


@functools.lru_cache(maxsize=1)
def data(case: str, dtype: type) -> list[tuple[Array, Judge]]:
    """Rows of every length, and their judge."""
    lengths = SHORT + LONG + (VERY_LONG if case in IN_VERY_LONG_ROWS else [])
    drawn = [draw(case, dtype, n, rows_of(n)) for n in lengths]
    return [(x, judge(x)) for x in drawn]


def bound(function, dtype: type) -> int:
    return 1 if function is logsumexp and dtype is np.float32 else 2


judged = pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        pytest.param(
            np.float64,
            marks=pytest.mark.skipif(
                not WIDE_ENOUGH, reason="no wider float to judge by"
            ),
        ),
    ],
)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
@judged
def test_every_entry_is_within_the_bound(dtype, case, layout, function):
    lay_out, axis = LAYOUTS[layout]
    errors = {}
    for x, judged_by in data(case, dtype):
        y = silently(function, lay_out(x), axis=axis)
        assert y.dtype == dtype
        errors[x.shape[-1]] = judged_by.error(function, y, axis)
    assert max(errors.values()) <= bound(function, dtype), errors
    assert not any(np.isnan(list(errors.values())))


@pytest.mark.parametrize("n", [2, 3, 10, 64, 65])
@pytest.mark.parametrize(
    "case", ["uniform", "half far below", "maximum 199.9", "log-probabilities"]
)
@judged
def test_many_rows_are_within_the_bound(dtype, case, n):
    x = draw(case, dtype, n, 200_000 // n)
    judged_by = judge(x)
    for function in FUNCTIONS:
        worst = judged_by.error(function, function(x, axis=-1))
        assert worst <= bound(function, dtype), function


@pytest.mark.parametrize("n", [2, 3, 17, 64, 65])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_mpmath_agrees_with_the_functions_and_with_long_double(dtype, case, n):
    x = draw(case, dtype, n, 1)
    judged_by = judge(x, by_mpmath(x))
    for function in FUNCTIONS:
        y = function(x, axis=-1)
        assert judged_by.error(function, y) <= bound(function, dtype)
    if WIDE_ENOUGH:
        assert_agrees(exact(x), judged_by.expected)


def assert_agrees(ours: Exact, theirs: Exact) -> None:
    """Long double is off by less than 16 of its own ULP, 2^-7 of float64's."""
    for name in ("softmax", "log_softmax", "logsumexp"):
        value = getattr(theirs, name)
        scale = unit(theirs.largest if name == "logsumexp" else value, WIDE)
        assert np.max(abs(getattr(ours, name) - value) / scale) < 16, name


def by_mpmath(x: Array) -> Exact:
    """`references.exact`, by mpmath."""
    with mp.workdps(60):
        rows = [_row_by_mpmath([mp.mpf(float(v)) for v in row]) for row in x]
        return Exact(*(to_wide(np.array(values)) for values in zip(*rows, strict=True)))


def _row_by_mpmath(x: list[mp.mpf]) -> tuple[object, ...]:
    top = max(x)
    first = x.index(top)
    rest = mp.fsum(mp.exp(v - top) for v in x[:first] + x[first + 1 :])
    log_term = mp.log1p(rest)
    return (
        [mp.exp(v - top) / (1 + rest) for v in x],
        [(v - top) - log_term for v in x],
        top + log_term,
        max(abs(top), log_term),
    )


def to_wide(values: Array) -> Array:
    """Long doubles of mpmath's numbers, good to a hundred bits where it has them."""
    with np.errstate(under="ignore"):
        parts = [mp.frexp(v) for v in values.flat]
        highs = np.array([float(part) for part, _ in parts], WIDE)
        lows = np.array([float(part - float(part)) for part, _ in parts], WIDE)
        exponents = np.array([max(int(e), -(2**30)) for _, e in parts])
        return np.ldexp(highs + lows, exponents).reshape(values.shape)


@pytest.mark.parametrize("n", [2, 7, 63, 65, 1000])
def test_logsumexp_of_log_probabilities(n):
    x = draw("log-probabilities", np.float32, n, 200_000 // n)
    ours = exact(x)
    deepest = np.argsort(abs(ours.logsumexp) / ours.largest)[:5]
    expected = by_mpmath(x[deepest]).logsumexp
    assert (abs(expected) < 1e-7).all()
    # What double has lost of the largest entry may show where the rest cancels.
    allowed = np.maximum(unit(expected, x.dtype), 2.0**-52 * ours.largest[deepest])
    for y in (logsumexp(x, axis=-1), logsumexp(x.T.copy(), axis=0)):
        assert in_units(y[deepest], expected, allowed) <= 1


def test_subnormal_results_are_not_flushed():
    x = draw("half far below", np.float32, 100, 70)
    expected = exact(x)
    tiny = np.finfo(np.float32).tiny
    subnormal = (expected.softmax > tiny / 2**20) & (expected.softmax < tiny)
    assert np.count_nonzero(subnormal) > 100
    assert (softmax(x, axis=-1)[subnormal] > 0).all()
    assert (softmax(np.float32([-95, 0]))[0], softmax([-740.0, 0.0])[0]) > (0, 0)


# ---- 16 bits: the float32 result, rounded once ----


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_rounded_once_from_float32(dtype, axis, function):
    for case in ("uniform", "normal", "offset 700", "one above many", "constant"):
        for n in (2, 17, 64, 65, 100, 2049, 65537):
            x = draw(case, np.float32, n, rows_of(n)).astype(dtype)
            x = x.T.copy() if axis == 0 else x
            y = silently(function, x, axis=axis)
            with np.errstate(all="ignore"):
                expected = function(x.astype(np.float32), axis=axis).astype(dtype)
            assert y.dtype == dtype
            np.testing.assert_array_equal(y.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_half_a_unit_from_the_exact_value(dtype, function):
    x = draw("uniform", np.float32, 1000, 19).astype(dtype)
    value = getattr(exact(x), function.__name__)
    assert ulps(function(x, axis=-1), value) <= 0.5 + 2.0**-10


def test_halves_do_not_saturate():
    assert logsumexp(np.zeros(100_000, np.float16)) == np.float16(np.log(100_000))
    y = softmax(np.zeros(100_000, np.float16))
    assert (y == np.float16(1e-5)).all()


# ---- temperature ----


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("temperature", [0.7, 3.0, 100.0, 1e-3])
@judged
def test_temperature_divides_as_numpy_does(dtype, temperature, function):
    for n in (3, 64, 65, 2049, 65537):
        x = draw("uniform", dtype, n, rows_of(n))
        judged_by = judge(x / dtype(temperature))
        for lay_out, axis in LAYOUTS.values():
            y = silently(function, lay_out(x), axis=axis, temperature=temperature)
            assert judged_by.error(function, y, axis) <= 2


@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_temperature_of_integers_and_halves(function):
    rng = np.random.default_rng(5)
    whole = rng.integers(-90, 90, (9, 70))
    y = function(whole, axis=-1, temperature=0.7)
    if WIDE_ENOUGH:
        assert judge(whole / 0.7).error(function, y) <= 2
    half = rng.normal(size=(9, 70)).astype(np.float16)
    quotient = half.astype(np.float32) / np.float32(0.7)
    y = function(half, axis=-1, temperature=0.7)
    np.testing.assert_array_equal(y, function(quotient, axis=-1).astype(np.float16))


# ---- what the usual formula loses ----


def test_the_remainder_beside_a_dominant_entry_is_kept():
    expected = reference("log_softmax", np.array([0.0, -40.0]))
    assert ulps(log_softmax([0.0, -40.0]), expected) <= 2
    assert ulps(np.atleast_1d(logsumexp([0.0, -40.0])), -expected[:1]) <= 2


def test_a_million_float32_along_either_axis():
    x = draw("normal", np.float32, 1_000_000, 2)
    judged_by = judge(x)
    for function in FUNCTIONS:
        y = function(x, axis=1)
        assert judged_by.error(function, y) <= bound(function, np.float32)
        y = function(x.T.copy(), axis=0)
        assert judged_by.error(function, y, axis=0) <= bound(function, np.float32)
