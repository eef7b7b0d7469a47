"""Arithmetic as the machine does it: one rounding, flushed subnormals, PTX's NaN rules.

Which NaN an operation gives is left open, except where PTX says so.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from gpu.ptx.types import Array

SMALLEST_NORMAL = np.float32(2.0**-126)
CANONICAL = {
    2: np.array(0x7FFF, np.uint16).view(np.float16),
    4: np.array(0x7FFFFFFF, np.uint32).view(np.float32),
    8: np.array(0x7FF8000000000000, np.uint64).view(np.float64),
}


def flush(values: Array) -> Array:
    """Turn float32 subnormals into zeros of the same sign; nothing else changes."""
    if values.dtype != np.float32:
        return values
    small = np.abs(values) < SMALLEST_NORMAL
    if small.any():
        return np.where(small, np.copysign(np.float32(0), values), values)
    return values


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the rounded sum and its error: a + b exactly, if nothing overflows."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _split(a: Array) -> tuple[Array, Array]:
    scaled = a * 134217729.0  # 2^27 + 1: halves of 26 bits, whose products are exact
    high = scaled - (scaled - a)
    return high, a - high


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the rounded product and its error, where neither over- nor underflows."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    error = a_low * b_low - (
        ((product - a_high * b_high) - a_low * b_high) - a_high * b_low
    )
    return product, error


def sum_to_odd(a: Array, b: Array) -> Array:
    """Return a + b in float64, rounded to odd.

    An inexact sum ends in a one, so that rounding it once more, to 51 bits or fewer,
    gives what rounding a + b at once would give.
    """
    total, error = two_sum(a, b)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    if not inexact.any():
        return total
    away = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + away, bits).view(np.float64)


def add_towards_zero(a: Array, b: Array) -> Array:
    exact = sum_to_odd(a.astype(np.float64), b.astype(np.float64))
    nearest = exact.astype(np.float32)
    beyond = np.abs(nearest.astype(np.float64)) > np.abs(exact)
    return np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c with one rounding: the product is exact in float64."""
    product = a.astype(np.float64) * b.astype(np.float64)
    return sum_to_odd(product, c.astype(np.float64)).astype(np.float32)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c with one rounding (Boldo and Melquiond, 2008).

    The products and sums in between are exact while |a| and |b| are in
    [2^-450, 2^450] and |c| is zero or in [2^-900, 2^900]; other finite lanes are done
    in fractions.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = two_product(a, b)
    with_c, rest = two_sum(c, low)
    total, error = two_sum(high, with_c)
    result = total + sum_to_odd(rest, error)
    safe = _within(a, 450) & _within(b, 450) & (_within(c, 900) | (c == 0))
    if safe.all():
        return result
    product_finite, c_finite = np.isfinite(a) & np.isfinite(b), np.isfinite(c)
    result = np.where(safe, result, a * b + c)
    result = np.where(product_finite & ~c_finite, c, result)
    doubtful = ~safe & product_finite & c_finite & (a != 0) & (b != 0)
    for lane in np.flatnonzero(doubtful):
        result[lane] = _fma_of_fractions(a[lane], b[lane], c[lane])
    return result


def _within(values: Array, exponent: int) -> Array:
    size = np.abs(values)
    return (size >= 2.0**-exponent) & (size <= 2.0**exponent)


def _fma_of_fractions(a: float, b: float, c: float) -> float:
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return np.inf if exact > 0 else -np.inf


def extreme(a: Array, b: Array, largest: bool, keep_nan: bool) -> Array:
    """Return min or max: -0 is below +0; a NaN loses, unless it is to be kept."""
    result = np.fmax(a, b) if largest else np.fmin(a, b)
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        negative = np.signbit(a) & np.signbit(b)
        if not largest:
            negative = np.signbit(a) | np.signbit(b)
        zero = np.where(negative, -0.0, 0.0).astype(result.dtype)
        result = np.where(zeros, zero, result)
    nan = np.isnan(a) | np.isnan(b) if keep_nan else np.isnan(result)
    if nan.any():
        result = np.where(nan, CANONICAL[result.dtype.itemsize], result)
    return result


def quotient(a: Array, b: Array) -> Array:
    """Divide integers towards zero; by zero gives all ones."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    result = a // safe
    if a.dtype.kind == "i":
        inexact = result * safe != a
        result = result + (inexact & ((a < 0) != (safe < 0)))
    return np.where(b == 0, ~np.zeros_like(a), result).astype(a.dtype)
