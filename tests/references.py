"""What results should be, over any axes, and how many ULP they are off."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from oracle.arithmetic import WIDE, WIDE_ENOUGH, Array, finfo, silently, unit
from oracle.arrays import LAYOUTS
from oracle.softmaxes import Exact, by_table, exact


def reference(name: str, x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Result of the function called `name`, or `largest`, over any axes of finite x."""
    everything = range(x.ndim) if axis is None else np.atleast_1d(axis)
    axes = tuple(int(a) % x.ndim for a in everything)
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(x, axes, last)
    outer = moved.shape[: x.ndim - len(axes)]
    n = math.prod(x.shape[a] for a in axes)
    result: Array = getattr(exact(moved.reshape(-1, n)), name)
    if result.ndim == 1:
        return result.reshape(outer)
    return np.moveaxis(result.reshape(moved.shape), last, axes)


def ulps(result: Array, exact_value: Array, magnitude: Array | None = None) -> float:
    """Largest error in ULP of the exact value, or of `magnitude`; NaN if one is."""
    scale = unit(exact_value if magnitude is None else magnitude, result.dtype)
    return in_units(result, exact_value, scale)


def in_units(result: Array, exact_value: Array, scale: Array) -> float:
    """Largest error in units of `scale`; NaN if there is one."""
    wide = result.astype(np.float64).astype(WIDE)
    return float(np.max(abs(wide - exact_value) / scale, initial=0))


def assert_close(
    result: Any, expected: Any, message: str = "", magnitude: Array | None = None
) -> None:
    """Same shape, zeros, infinities and NaN; finite numbers within 2 ULP.

    That is the ULP of the result, or of the larger `magnitude` (for logsumexp).
    """
    result = np.asarray(result)
    expected = np.asarray(expected, dtype=WIDE)
    assert result.shape == expected.shape, message
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float64).astype(result.dtype)
    wide, rounded = result.astype(np.float64), rounded.astype(np.float64)
    special = ~np.isfinite(rounded) | (expected == 0)
    np.testing.assert_array_equal(wide[special], rounded[special], err_msg=message)
    assert np.isfinite(wide[~special]).all(), message
    scale = None if magnitude is None else np.asarray(magnitude)[~special]
    error = ulps(result[~special], expected[~special], scale)
    assert error <= 2, f"{error} ULP {message}"


__all__ = [
    "LAYOUTS",
    "WIDE",
    "WIDE_ENOUGH",
    "Array",
    "Exact",
    "assert_close",
    "by_table",
    "exact",
    "finfo",
    "in_units",
    "reference",
    "silently",
    "ulps",
    "unit",
]
