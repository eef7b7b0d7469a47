"""What results should be, in wider arithmetic; arrays that are hard to get right."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDE = np.longdouble
# Only then can long double judge float64.
WIDE_ENOUGH = np.finfo(WIDE).nmant >= 63


def silently(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call with every floating-point error and warning an exception."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **options)


# ---- what results should be ----


class Exact(NamedTuple):
    """The functions over the last axis, in long double."""

    softmax: Array
    log_softmax: Array
    logsumexp: Array
    largest: Array  # the larger of the two terms whose sum logsumexp is, in modulus


def exact(x: Array) -> Exact:
    """Work on finite rows [..., n], n > 0; good to some 2^-60.

    Where a difference is rounded, the lost part (Knuth's TwoSum) corrects the result;
    the largest term stays out of the sum.
    """
    with np.errstate(all="ignore"):
        # By way of float64: bfloat16 has no cast to long double.
        wide = (x if x.dtype == WIDE else x.astype(np.float64)).astype(WIDE)
        top = wide.max(axis=-1, keepdims=True)
        below = wide - top
        part = below - wide
        lost = (wide - (below - part)) - (top + part)
        terms = np.exp(below) * (1 + lost)
        others = terms.copy()
        np.put_along_axis(others, wide.argmax(axis=-1, keepdims=True), 0, axis=-1)
        rest = others.sum(axis=-1, keepdims=True)
        log_term = np.log1p(rest)
        return Exact(
            terms / (1 + rest),
            (below - log_term) + lost,
            (top + log_term)[..., 0],
            np.maximum(abs(top), abs(log_term))[..., 0],
        )


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


def by_table(name: str, row: Array, kept: Array | None = None) -> Array:
    """Result for one row that may hold NaN and infinities; `kept` is its `where`."""
    kept = np.ones(row.shape, bool) if kept is None else kept
    inside = row[kept]
    if name == "logsumexp":
        return np.asarray(_logsumexp_by_table(inside))
    result = np.full(row.shape, 0.0 if name == "softmax" else -np.inf)
    result[kept] = _elementwise_by_table(name, inside)
    return result


def _logsumexp_by_table(inside: Array) -> Any:
    if np.isnan(inside).any():
        return np.nan
    finite = inside[np.isfinite(inside)]
    if (inside == np.inf).any() or finite.size == 0:
        return np.max(inside, initial=-np.inf)
    return exact(finite).logsumexp


def _elementwise_by_table(name: str, inside: Array) -> Any:
    if np.isnan(inside).any():
        return np.nan
    if (inside == np.inf).any():
        beside = np.nan if name == "softmax" else -np.inf
        return np.where(inside == np.inf, np.nan, beside)
    finite = np.isfinite(inside)
    if not finite.any():
        return np.nan
    result = np.full(inside.shape, 0.0 if name == "softmax" else -np.inf)
    result[finite] = getattr(exact(inside[finite]), name)
    return result


# ---- how far results are off ----


def finfo(dtype: npt.DTypeLike) -> Any:
    """np.finfo, bfloat16 included."""
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.finfo(dtype)
    return np.finfo(dtype)


def unit(value: Array, dtype: npt.DTypeLike) -> Array:
    """Distance between the neighbours of a long double in `dtype`: one ULP."""
    info = finfo(dtype)
    least = info.minexp - info.nmant
    exponent = np.where(value == 0, least, np.frexp(value)[1] - 1 - info.nmant)
    return np.ldexp(WIDE(1), np.maximum(exponent, least))


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


# ---- the same numbers, laid out in other ways ----


def _copied_to(room: Array, x: Array) -> Array:
    room[...] = x
    return room


def _spaced(x: Array) -> Array:
    return np.zeros((*x.shape[:-1], 3 * x.shape[-1]), x.dtype)[..., ::3]


def _spaced_first(x: Array) -> Array:
    return np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)[::2]


def _unaligned(x: Array) -> Array:
    """Contiguous, one byte behind an aligned address."""
    memory = bytearray(x.nbytes + 1)
    return np.ndarray(x.shape, x.dtype, memory, offset=1)


def _shifted(x: Array) -> Array:
    """Contiguous, one element behind the start of an allocation."""
    return np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)


def _field(x: Array) -> Array:
    """A field of packed records: neither aligned nor a whole number of items apart."""
    record = np.dtype([("before", "u1"), ("x", x.dtype), ("after", "u2")])
    return np.zeros(x.shape, record)["x"]


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x.copy(order="C"),
    "F": lambda x: x.copy(order="F"),
    "axes rotated": lambda x: np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1),
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "first axis backwards": lambda x: x[::-1].copy()[::-1],
    "every third": lambda x: _copied_to(_spaced(x), x),
    "every second row": lambda x: _copied_to(_spaced_first(x), x),
    "one byte off": lambda x: _copied_to(_unaligned(x), x),
    "one element off": lambda x: _copied_to(_shifted(x), x),
    "field": lambda x: _copied_to(_field(x), x),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "byte-swapped F": lambda x: x.astype(x.dtype.newbyteorder(), order="F"),
    "read-only": _read_only,
}
