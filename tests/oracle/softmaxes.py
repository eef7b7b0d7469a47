"""What the softmaxes should be: wide rows [B, n], special values and masks included."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arithmetic import WIDE, Array, Judge, computed, unit, widened

INF, NAN = np.inf, np.nan


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
        wide = widened(x)
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


def exact_of_kept(x: Array, where: Array) -> Exact:
    """What `where` leaves of finite rows."""
    found = exact(np.where(where, widened(x), -np.finfo(WIDE).max / 2))
    return Exact(
        np.where(where, found.softmax, 0),
        np.where(where, found.log_softmax, -INF),
        np.where(where.any(axis=-1), found.logsumexp, -INF),
        found.largest,
    )


# ---- the table of special values ----


def by_table(name: str, row: Array, kept: Array | None = None) -> Array:
    """Result for one row that may hold NaN and infinities; `kept` is its `where`."""
    kept = np.ones(row.shape, bool) if kept is None else kept
    inside = row[kept]
    if name == "logsumexp":
        return np.asarray(_logsumexp_by_table(inside))
    result = np.full(row.shape, 0.0 if name == "softmax" else -INF, WIDE)
    result[kept] = _elementwise_by_table(name, inside)
    return result


def _logsumexp_by_table(inside: Array) -> Any:
    if np.isnan(inside).any():
        return NAN
    finite = inside[np.isfinite(inside)]
    if (inside == INF).any() or finite.size == 0:
        return np.max(inside, initial=-INF)
    return exact(finite).logsumexp


def _elementwise_by_table(name: str, inside: Array) -> Any:
    if np.isnan(inside).any():
        return NAN
    if (inside == INF).any():
        beside = NAN if name == "softmax" else -INF
        return np.where(inside == INF, NAN, beside)
    finite = np.isfinite(inside)
    if not finite.any():
        return NAN
    result = np.full(inside.shape, 0.0 if name == "softmax" else -INF, WIDE)
    result[finite] = getattr(exact(inside[finite]), name)
    return result


# ---- judging ----


class _Same:
    """An array as a key: that very one."""

    def __init__(self, x: Array) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.x is other.x


@functools.lru_cache(maxsize=1)
def _exact_of(rows: _Same) -> Exact:
    return exact(rows.x)


def judge(
    name: str,
    x: Array,
    where: Array | None = None,
    temperature: Any = 1.0,
    dtype: npt.DTypeLike | None = None,
) -> Judge:
    """Of rows [B, n]: 2 ULP of the result, subnormal ones included.

    logsumexp: in float32 1 ULP, or 2^-52 of the largest entry, where the logarithm
    cancels against that; in float64 2 ULP of the larger of both.
    """
    number = computed(x.dtype if dtype is None else dtype)
    if np.any(temperature != 1):
        with np.errstate(all="ignore"):
            x = x.astype(number) / number.type(temperature)
    if np.isfinite(widened(x)).all() and x.size:
        found = _exact_of(_Same(x)) if where is None else exact_of_kept(x, where)
        value, largest = getattr(found, name), found.largest
    else:
        kept = np.ones(x.shape, bool) if where is None else where
        rows = [by_table(name, row, k) for row, k in zip(widened(x), kept, strict=True)]
        shape = x.shape[:-1] if name == "logsumexp" else x.shape
        value = np.array(rows, WIDE).reshape(shape)
        with np.errstate(all="ignore"):
            top = np.where(kept, widened(x), -INF).max(axis=-1, initial=-INF)
            largest = np.maximum(abs(top), abs(value - top)) if value.ndim == 1 else top
    return Judge(value, _allowed(name, value, largest, number))


def _allowed(name: str, value: Array, largest: Array, number: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        if name != "logsumexp":
            # What where left out is 0, without an error.
            return np.where(value == 0, 0, 2 * unit(value, number))
        if number == np.float32:
            return np.maximum(unit(value, number), largest * WIDE(2) ** -52)
        return 2 * unit(np.where(np.isfinite(largest), largest, 1), number)
