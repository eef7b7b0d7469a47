"""What the kernels should give, in long double, and how far they may be off.

float32 kernels flush subnormal numbers: where a result is one, 0 is right, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from oracle.arithmetic import WIDE, WIDE_ENOUGH, Array, finfo, unit, widened
from oracle.softmaxes import by_table as by_table
from oracle.softmaxes import exact

from gpu import nvrtc

EXACT_NAMES = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "LogSumExp": "logsumexp",
}

needs = pytest.mark.skipif(
    not (nvrtc.available() and WIDE_ENOUGH),
    reason="needs NVRTC, and a float wider than float64 to judge by",
)

# The largest error of normal results by operation and type, in the units of Expected;
# not of 16 bits, which their rounding hides.
largest_errors: dict[tuple[str, str], float] = defaultdict(float)


def errors_seen() -> Iterator[str]:
    for (name, dtype), error in sorted(largest_errors.items()):
        yield f"{name:20} {dtype:10} {error:6.3f}"


@dataclass
class Expected:
    """Values in long double, and how far a float32 or float64 result may be off.

    `units` is what one unit of the error is, `allowed` so many of them; `beside` what
    is lost beside them.
    """

    value: Array
    units: Array
    allowed: float
    beside: Any = 0.0


def computed(dtype: Any) -> np.dtype[Any]:
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


# ---- the softmaxes ----


def divided(x: Array, temperature: float) -> Array:
    """x / temperature, rounded as division rounds it, in the type computed in."""
    wide = computed(x.dtype).type
    return x.astype(wide) / wide(temperature)


def ulp_allowed(name: str, dtype: Any) -> float:
    """float64's log1p is good to 1 ULP, the exponentials in its argument to 0.9."""
    if np.dtype(dtype) == np.float64:
        return 3.0
    return 4.0 if np.dtype(dtype).itemsize == 2 else 3.0


def softmaxes(name: str, x: Array, temperature: float = 1.0) -> Expected:
    """Of finite rows [..., n]."""
    results = exact(divided(x, temperature))
    value = getattr(results, EXACT_NAMES[name])
    scale = results.largest if name == "LogSumExp" else value
    return Expected(value, unit(scale, computed(x.dtype)), ulp_allowed(name, x.dtype))


def weighted(a: Array, b: Array) -> tuple[Expected, Array]:
    """log|sum(b exp(a))| of finite rows, and the sum's sign.

    A sum that cancels is known to so many units of the sum of the moduli.
    """
    wide, weights = widened(a), widened(b)
    wide = np.where(weights == 0, -np.inf, wide)
    with np.errstate(all="ignore"):
        peak = wide.max(axis=-1, keepdims=True)
        terms = weights * np.exp(wide - peak)
        total = terms.sum(axis=-1)
        log = np.log(abs(total))
        value = peak[..., 0] + log
        number = computed(a.dtype)
        lost = 2 * finfo(number).eps * abs(terms).sum(axis=-1) / abs(total)
        scale = np.maximum(abs(peak[..., 0]), abs(log))
    return Expected(value, unit(scale, number), 4.0, lost), np.sign(total)


# ---- gradients ----


def gradients(name: str, y: Array, dy: Array, temperature: float = 1.0) -> Expected:
    """3 units of the larger term, and what the sum and subnormal steps lose."""
    number = computed(y.dtype)
    info, y, dy = finfo(number), widened(y), widened(dy)
    n = y.shape[-1]
    with np.errstate(all="ignore"):
        if name == "SoftmaxVjp":
            products = y * dy
            value = y * (dy - products.sum(axis=-1, keepdims=True))
            magnitude = abs(value)
            spread = abs(y) * abs(products).sum(axis=-1, keepdims=True)
        else:
            p = np.exp(y)
            product = p * dy.sum(axis=-1, keepdims=True)
            value = dy - product
            magnitude = np.maximum(abs(dy), abs(product))
            spread = p * abs(dy).sum(axis=-1, keepdims=True)
        # Sums are pairs of float32; those of float64 are better than long double.
        of_sum = n * max(WIDE(2) ** -46 if info.nmant == 23 else 0, WIDE(2) ** -62)
        tiny = WIDE(
            info.smallest_normal if info.nmant == 23 else info.smallest_subnormal
        )
        divisor = WIDE(number.type(temperature))
        beside = (of_sum * spread + 4 * tiny) / divisor + tiny
        # A sum of n products, of each of which flushing may take a bit.
        beside = beside + n * tiny
        return Expected(
            value / divisor, WIDE(info.eps) * magnitude / divisor, 3.0, beside
        )


# ---- the hinge losses ----


@dataclass
class Hinge:
    """Losses, pairs and the gradient of rows, and that of their positives."""

    losses: Array
    pairs: Array
    gradient: Array
    of_positives: Array


def excesses(margin: float, positives: Array, scores: Array) -> Array:
    """margin - s+ + s, exactly where it is finite, but for the last rounding."""
    one, other = WIDE(margin), -widened(positives)[..., None]
    high = one + other
    part = high - one
    low = (one - (high - part)) + (other - part)
    return (widened(scores) + high) + np.where(np.isfinite(high), low, 0)


def hinge(
    scores: Array,
    positives: Array,
    counted: Array,
    *,
    margin: float,
    p: int,
    largest: bool,
    weights: Array,
    scale: float,
) -> Hinge:
    """`counted` says which scores are negatives; those of masked ones are not."""
    with np.errstate(all="ignore"):
        t = np.where(counted, excesses(margin, positives, scores), 0)
        t = np.where(t < 0, 0, t)
        slopes = t ** (p - 1) * np.where(t > 0, 1, t)
        pairs = t**p
        picked = np.ones(t.shape, bool)
        if largest:
            picked = np.zeros(t.shape, bool)
            for row, place in enumerate(_first_largest(scores, t, counted)):
                picked[row, place] = place >= 0
        losses = np.where(picked, pairs, 0).sum(axis=-1)
        factor = (weights * scale * p).astype(computed(scores.dtype)).astype(WIDE)
        gradient = np.where(picked, slopes, 0)
        gradient = np.where(gradient == 0, 0, gradient * factor[:, None])
        shown = weights.astype(computed(scores.dtype)).astype(WIDE)
        return Hinge(
            np.where(losses == 0, 0, losses * weights),
            np.where(pairs == 0, 0, pairs * shown[:, None]),
            gradient,
            -gradient.sum(axis=-1),
        )


def _first_largest(scores: Array, t: Array, counted: Array) -> Iterator[int]:
    """The first NaN, or the first largest score, of those that count; -1: none."""
    for row, terms, there in zip(widened(scores), t, counted, strict=True):
        if np.isnan(terms).any():
            yield int(np.isnan(terms).argmax())
        else:
            row = np.where(there, row, -np.inf)
            yield int(row.argmax()) if row.max() > -np.inf else -1


# ---- judging ----


def rounded_to(value: Array, dtype: Any) -> Array:
    """Round once, to a 16-bit type, in float64."""
    info = finfo(dtype)
    value = np.asarray(value, np.float64)
    with np.errstate(all="ignore"):
        exponent = np.maximum(np.frexp(value)[1] - 1, info.minexp)
        quantum = np.ldexp(1.0, exponent - info.nmant)
        rounded = np.rint(value / quantum) * quantum
        rounded = np.where(
            abs(rounded) > float(info.max), np.sign(value) * np.inf, rounded
        )
    return np.where(np.isfinite(value), rounded, value)


def check(name: str, result: Array, expected: Expected, where: Any = "") -> None:
    """Same NaN and infinities; finite numbers as near as allowed."""
    wide, value = widened(result), np.asarray(expected.value, WIDE)
    assert wide.shape == value.shape, (wide.shape, value.shape)
    bound = expected.allowed * expected.units + expected.beside
    with np.errstate(all="ignore"):
        if result.dtype.itemsize == 2:
            low = rounded_to(value - bound, result.dtype)
            high = rounded_to(value + bound, result.dtype)
            good = (low <= wide) & (wide <= high)
        else:
            largest = float(finfo(result.dtype).max)
            over = abs(value) > largest
            value = np.where(over, np.sign(value) * np.inf, value)
            good = abs(wide - value) <= bound
        good = np.where(np.isfinite(value), good, wide == value)
        flushed = computed(result.dtype) == np.float32
        tiny = WIDE(finfo(np.float32).smallest_normal)
        good |= flushed & (wide == 0) & (abs(value) < tiny)
        good |= np.isnan(wide) & np.isnan(value)
    assert good.all(), _worst(wide, value, expected, ~good, where)
    _record(name, result, wide, value, expected)


def _worst(
    wide: Array, value: Array, expected: Expected, bad: Array, where: Any
) -> str:
    places = np.argwhere(bad)[:5].tolist()
    units = np.broadcast_to(expected.units, value.shape)
    lines = [
        f"{where} at {place}: {wide[tuple(place)]!r}, not {value[tuple(place)]!r}, "
        f"unit {units[tuple(place)]!r}"
        for place in places
    ]
    return f"{int(bad.sum())} of {bad.size} wrong\n" + "\n".join(lines)


def _record(
    name: str, result: Array, wide: Array, value: Array, expected: Expected
) -> None:
    if result.dtype.itemsize == 2:
        return
    with np.errstate(all="ignore"):
        normal = abs(value) >= finfo(result.dtype).smallest_normal
        off = np.maximum(abs(wide - value) - expected.beside, 0) / expected.units
        off = off[normal & np.isfinite(off)]
    key = name, result.dtype.name
    largest_errors[key] = max(largest_errors[key], float(off.max(initial=0)))


def same_bits(a: Array, b: Array) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(_bits(a), _bits(b))


def _bits(a: Array) -> Array:
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")
