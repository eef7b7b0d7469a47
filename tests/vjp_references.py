"""What gradients should be, in long double, and how far a result may be off."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from references import WIDE, WIDE_ENOUGH, Array, finfo, unit

from fastsoftmax import log_softmax, log_softmax_vjp, softmax, softmax_vjp

FORWARD = {softmax_vjp: softmax, log_softmax_vjp: log_softmax}
HALVES = [np.float16, ml_dtypes.bfloat16]
DTYPES = [np.float32, np.float64, *HALVES]

of_both = pytest.mark.parametrize("function", FORWARD)
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)
needs_wide = pytest.mark.skipif(not WIDE_ENOUGH, reason="no wider float to judge by")
judged = pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=needs_wide)]
)


def draw(
    function: Any, shape: tuple[int, ...], dtype: Any = np.float64, axis: Any = -1
) -> tuple[Array, Array]:
    """A result of softmax or log_softmax, and a gradient with respect to it."""
    y, dy = _drawn(function, shape, axis)
    return y.astype(dtype), dy.astype(dtype)


@functools.lru_cache(maxsize=2)
def _drawn(function: Any, shape: tuple[int, ...], axis: Any) -> tuple[Array, Array]:
    rng = np.random.default_rng([len(shape), *shape])
    y = FORWARD[function](rng.normal(0, 3, shape), axis=axis)
    return y, rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-2, 1, shape)


def compute_type(dtype: Any) -> Any:
    """The type that `dtype` is computed in."""
    return np.float32 if dtype in HALVES else np.dtype(dtype).type


def widened(x: Any) -> Array:
    x = np.asarray(x)
    return x if x.dtype == WIDE else x.astype(np.float64).astype(WIDE)


class Judge(NamedTuple):
    """The exact gradient, and how far a result may be off."""

    value: Array
    allowed: Array


def judge(
    function: Any,
    y: Array,
    dy: Any,
    axis: Any = None,
    temperature: Any = 1.0,
    dtype: Any = None,
) -> Judge:
    """Work in long double; say what rounding costs a result of `dtype` (that of y).

    With eps the distance from 1 to the next number, at most 3 eps of the result (for
    log_softmax_vjp: of the larger of its two terms), and what is lost of a sum of n
    terms in double: n roundings of at most 2^-53 of the sum of the moduli.

    Numbers below the smallest normal one are multiples of the smallest subnormal one,
    so that rounding may cost half of that: to softmax_vjp in the rest of the sum and in
    the product; to log_softmax_vjp in exp(y), in the rest of the sum and in two
    products; to both in the quotient, and the temperature divides all but the last.

    16 bits are rounded from float32, by half a unit of the 16-bit number next to that.
    """
    dtype = y.dtype if dtype is None else np.dtype(dtype)
    info = finfo(compute_type(dtype))
    terms = {softmax_vjp: _softmax_terms, log_softmax_vjp: _log_softmax_terms}
    with np.errstate(all="ignore"):
        divisor = WIDE(compute_type(dtype)(temperature))
        y, dy = np.broadcast_arrays(widened(y), widened(dy))
        value, magnitude, spread, underflows = terms[function](y, dy, axis)
        n = y.size // max(1, np.sum(y, axis=axis).size)
        lost = n * min(WIDE(2) ** -53, info.eps / 2) * spread
        subnormal = np.ldexp(WIDE(1), info.minexp - info.nmant)
        allowed = 3 * WIDE(info.eps) * magnitude + lost + underflows * subnormal / 2
        value, allowed = value / divisor, allowed / divisor + subnormal / 2
        if dtype in HALVES:
            allowed = allowed + unit(abs(value) + allowed, dtype) / 2
    return Judge(value, allowed)


def _softmax_terms(y: Array, dy: Array, axis: Any) -> tuple[Array, Array, Array, int]:
    products = y * dy
    value = y * (dy - products.sum(axis=axis, keepdims=True))
    spread = abs(y) * abs(products).sum(axis=axis, keepdims=True)
    return value, abs(value), spread, 2


def _log_softmax_terms(
    y: Array, dy: Array, axis: Any
) -> tuple[Array, Array, Array, int]:
    p = np.exp(y)
    product = p * dy.sum(axis=axis, keepdims=True)
    spread = p * abs(dy).sum(axis=axis, keepdims=True)
    return dy - product, np.maximum(abs(dy), abs(product)), spread, 4


def assert_within(dx: Any, expected: Judge, message: str = "") -> None:
    """Same shape, NaN and infinities; finite numbers as near as allowed."""
    assert np.shape(dx) == expected.value.shape, message
    wide = widened(dx)
    finite = np.isfinite(expected.value)
    np.testing.assert_array_equal(wide[~finite], expected.value[~finite], message)
    error = abs(wide[finite] - expected.value[finite])
    allowed = expected.allowed[finite]
    off = ~(error <= allowed)  # so that NaN is
    assert not off.any(), f"{error[off]} where {allowed[off]} is allowed {message}"


def assert_same_bits(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype
    bits = f"u{a.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(a).view(bits), np.ascontiguousarray(b).view(bits)
    )
