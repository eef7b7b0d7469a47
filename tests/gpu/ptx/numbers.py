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
    """Turn float32 subnormals into zeros of the same sign."""
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


def to_float32(exact: Array, rounding: str) -> Array:
    """Round float64 values, or sums rounded to odd, to float32."""
    return _directed(exact, exact.astype(np.float32), rounding)


def to_float16(exact: Array, rounding: str) -> Array:
    return _directed(exact, exact.astype(np.float16), rounding)


def _directed(exact: Array, nearest: Array, rounding: str) -> Array:
    """Move the nearest value to its neighbour where it lies on the wrong side."""
    if rounding == "rn":
        return nearest
    infinity = np.array(np.inf, nearest.dtype)
    wide = nearest.astype(np.float64)
    above, below = wide > exact, wide < exact
    down, up = np.nextafter(nearest, -infinity), np.nextafter(nearest, infinity)
    if rounding == "rz":
        above, below = above & (exact > 0), below & (exact < 0)
    elif rounding == "rm":
        below = np.zeros_like(below)
    else:
        above = np.zeros_like(above)
    return np.where(above, down, np.where(below, up, nearest))


def _zero_of_sum(total: Array, a: Array, b: Array, rounding: str) -> Array:
    """Give zeros of opposite terms the sign that the rounding asks for."""
    if rounding != "rm":
        return total
    opposite = (total == 0) & (np.signbit(a) != np.signbit(b))
    return np.where(opposite, -0.0, total)


def add32(a: Array, b: Array, rounding: str) -> Array:
    if rounding == "rn":
        return a + b
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    total = _zero_of_sum(sum_to_odd(wide_a, wide_b), wide_a, wide_b, rounding)
    return to_float32(total, rounding)


def mul32(a: Array, b: Array, rounding: str) -> Array:
    if rounding == "rn":
        return a * b
    return to_float32(a.astype(np.float64) * b.astype(np.float64), rounding)


def fma32(a: Array, b: Array, c: Array, rounding: str) -> Array:
    """Return a * b + c with one rounding: the product is exact in float64."""
    product = a.astype(np.float64) * b.astype(np.float64)
    wide = c.astype(np.float64)
    total = _zero_of_sum(sum_to_odd(product, wide), product, wide, rounding)
    return to_float32(total, rounding)


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


def saturate(values: Array) -> Array:
    """Clamp to [0, 1]; a NaN gives +0."""
    inside = np.where(values > 0, np.minimum(values, 1), 0)
    return inside.astype(values.dtype)


def to_integral(values: Array, rounding: str) -> Array:
    return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](
        values
    )


def to_integer(values: Array, dtype: np.dtype[np.integer]) -> Array:
    """Convert integral floats; beyond the range gives its end.

    A NaN gives 0, or the highest bit alone where either side has 64 bits.
    """
    limits = np.iinfo(dtype)
    wide = values.astype(np.float64)
    too_high, too_low = wide >= float(limits.max), wide <= float(limits.min)
    nan = np.isnan(wide)
    plain = np.where(too_high | too_low | nan, 0, wide).astype(dtype)
    result = np.where(too_high, limits.max, np.where(too_low, limits.min, plain))
    result = result.astype(dtype)
    of_nan = np.zeros(1, dtype)
    if values.dtype.itemsize == 8 or dtype.itemsize == 8:
        of_nan = np.array([1], f"u{dtype.itemsize}") << (dtype.itemsize * 8 - 1)
        of_nan = of_nan.astype(dtype.str.replace("i", "u")).view(dtype)
    return np.where(nan, of_nan, result) if nan.any() else result


def high_product(a: Array, b: Array) -> Array:
    """Return the upper half of the product of integers of one type."""
    size, signed = a.dtype.itemsize, a.dtype.kind == "i"
    if size < 8:
        wide = np.dtype(f"{a.dtype.kind}{size * 2}")
        return ((a.astype(wide) * b.astype(wide)) >> (size * 8)).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    low = (x & mask) * (y & mask)
    middle = (x >> half) * (y & mask) + (low >> half)
    other = (x & mask) * (y >> half) + (middle & mask)
    high = (x >> half) * (y >> half) + (middle >> half) + (other >> half)
    if signed:
        high = high - np.where(a < 0, y, 0) - np.where(b < 0, x, 0)
    return high.view(a.dtype)


def quotient(a: Array, b: Array) -> Array:
    """Divide integers towards zero; by zero gives all ones."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    result = a // safe
    if a.dtype.kind == "i":
        inexact = result * safe != a
        result = result + (inexact & ((a < 0) != (safe < 0)))
    return np.where(b == 0, ~np.zeros_like(a), result).astype(a.dtype)


def remainder(a: Array, b: Array) -> Array:
    """Return the remainder, of the sign of a; by zero gives a."""
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    return np.where(b == 0, a, np.fmod(a, safe)).astype(a.dtype)
