"""Wide numbers, one unit in the last place, and how far a result may be off."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]

HALVES = [np.float16, ml_dtypes.bfloat16]
DTYPES = [np.float32, np.float64, *HALVES]
INTEGERS = [np.dtype(c) for c in "?bBhHiIlLqQ"]

WIDE = np.longdouble
# Only then can long double judge float64.
WIDE_ENOUGH = np.finfo(WIDE).nmant >= 63

needs_wide = pytest.mark.skipif(not WIDE_ENOUGH, reason="no wider float to judge by")


def dtypes(*given: Any) -> Any:
    """Parametrise over these, each where it can be judged."""
    wide = {np.dtype(np.float64), np.dtype(WIDE)}
    return pytest.mark.parametrize(
        "dtype",
        [
            pytest.param(d, marks=[needs_wide] if np.dtype(d) in wide else [])
            for d in given
        ],
        ids=[np.dtype(d).name for d in given],
    )


def silently(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call with every floating-point error and warning an exception."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **options)


# ---- types ----


def finfo(dtype: npt.DTypeLike) -> Any:
    """np.finfo, bfloat16 included."""
    dtype = np.dtype(dtype)
    return ml_dtypes.finfo(dtype) if dtype.name == "bfloat16" else np.finfo(dtype)


def native(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the type of what has one element for each: float64 for integers."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


def computed(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the type that numbers of `dtype` are computed in."""
    dtype = native(dtype)
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def widened(x: Any) -> Array:
    """By way of float64: bfloat16 has no cast to long double."""
    x = np.asarray(x)
    return x if x.dtype == WIDE else x.astype(np.float64).astype(WIDE)


def unit(value: Any, dtype: npt.DTypeLike) -> Array:
    """Distance between the neighbours of a long double in `dtype`: one ULP."""
    info = finfo(dtype)
    least = info.minexp - info.nmant
    value = np.asarray(value)
    exponent = np.where(value == 0, least, np.frexp(value)[1] - 1 - info.nmant)
    return np.ldexp(WIDE(1), np.maximum(exponent, least))


# ---- judging ----


class Judge(NamedTuple):
    """What one result should be, and how far it may be off."""

    value: Array
    allowed: Array

    def rounded_to(self, dtype: npt.DTypeLike) -> Judge:
        """Of 16 bits: rounded once more, by half a unit of the number next to that."""
        if np.dtype(dtype).itemsize != 2:
            return self
        with np.errstate(all="ignore"):
            half = unit(abs(self.value) + self.allowed, dtype) / 2
        return self._replace(allowed=np.where(self.value == 0, 0, half) + self.allowed)

    def at(self, index: Any) -> Judge:
        return Judge(self.value[index], self.allowed[index])


def assert_right(result: Any, judge: Judge, message: str = "") -> None:
    """Same shape, NaN and infinities; finite numbers as near as allowed."""
    result = np.asarray(result)
    assert result.shape == judge.value.shape, message
    wide = widened(result)
    with np.errstate(all="ignore"):
        rounded = judge.value.astype(np.float64).astype(result.dtype)
        special = ~np.isfinite(rounded.astype(np.float64))
        if result.dtype == WIDE:
            rounded, special = judge.value, ~np.isfinite(judge.value)
        error = abs(wide - judge.value)
    if special.any():
        wanted = widened(rounded)[special]
        np.testing.assert_array_equal(wide[special], wanted, message)
    off = ~special & ~(error <= judge.allowed)  # so that NaN is
    assert not off.any(), (
        f"{error[off][:5]} where {judge.allowed[off][:5]} is allowed, "
        f"{np.count_nonzero(off)} of {off.size}, first at {np.argwhere(off)[0]} "
        f"{message}"
    )


def assert_all_right(
    results: Any, judges: tuple[Judge, ...], message: str = ""
) -> None:
    for result, judge in zip(results, judges, strict=True):
        assert_right(result, judge, message)


def bits(a: Any) -> Array:
    a = np.atleast_1d(np.ascontiguousarray(a))
    return a.view("V16") if a.dtype == WIDE else a.view(f"u{a.dtype.itemsize}")


def assert_same_bits(a: Any, b: Any, message: str = "") -> None:
    """Of arrays, or of tuples of them."""
    if isinstance(b, tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_bits(one, other, message)
        return
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), message
    a, b = bits(a), bits(b)
    if not np.array_equal(a, b):  # which costs a tenth of what can say where
        np.testing.assert_array_equal(a, b, message)
