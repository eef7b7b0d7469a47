"""What a weighted logsumexp should be: wide rows [B, n], special values included."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from mpmath import mp, mpf

from .arithmetic import WIDE, Array, Judge, computed, native, unit, widened

INF, NAN = np.inf, np.nan


class Row(NamedTuple):
    value: Any
    sign: Any
    largest: Any = 0  # entry whose weight is not 0
    below: Any = 0  # the absolute sum of smaller ones' terms, over the sum


def judge(
    a: Array, b: Array, where: Any = None, dtype: npt.DTypeLike | None = None
) -> tuple[Judge, Judge]:
    """log|sum(b exp(a))|, and the sum's sign.

    As near as without weights, but for 2^-53 of the terms below the largest entry. What
    cancels may leave 2^-95 of all terms: a smaller sum may be anything up to that.
    """
    dtype = native(np.result_type(a, b)) if dtype is None else np.dtype(dtype)
    number = computed(dtype)
    weights = np.where(True if where is None else where, widened(b), 0)
    found = [_row(x, w) for x, w in zip(widened(a), weights, strict=True)]
    parts = [[WIDE(each) for each in row] for row in found]
    value, sign, largest, below = np.array(parts, WIDE).reshape(-1, 4).T
    with np.errstate(all="ignore"):
        allowed = np.maximum(unit(value, number), abs(largest) * WIDE(2) ** -52)
        if number == np.float64:
            allowed = 2 * unit(np.maximum(abs(largest), abs(value - largest)), number)
        judge = Judge(value, allowed + below * WIDE(2) ** -53)
    return judge.rounded_to(dtype), Judge(sign, np.where(np.isposinf(below), 2, 0))


def _row(x: Array, w: Array) -> Row:
    x, w = x[w != 0], w[w != 0]
    none = x == -INF
    if np.isnan(x).any() or np.isnan(w).any() or np.isinf(w[none]).any():
        return Row(NAN, NAN)
    signs = set(np.sign(w[(x == INF) | np.isinf(w)]))
    if signs:
        return Row(INF, signs.pop()) if len(signs) == 1 else Row(NAN, NAN)
    x, w = x[~none], w[~none]
    return (_in_wide(x, w) or _by_mpmath(x, w)) if x.size else Row(-INF, 0)


def _in_wide(x: Array, w: Array) -> Row | None:
    """Unless terms, or the largest and the logarithm, cancel more than it may lose."""
    with np.errstate(all="ignore"):
        top = x.max()
        below = x - top
        part = below - x
        lost = (x - (below - part)) - (top + part)
        sizes = abs(w) * np.exp(below) * (1 + lost)
        total = (np.sign(w) * sizes).sum()
        log = np.log(abs(total))
        if total == 0 or sizes.sum() > 8 * max(abs(top), abs(log)) * abs(total):
            return None
        smaller = sizes[x < top].sum() / abs(total)
        return Row(top + log, np.sign(total), top, smaller)


def _by_mpmath(x: Array, w: Array) -> Row:
    """Equal entries' weights are added up exactly."""
    pairs = list(zip(x.astype(float).tolist(), w.astype(float).tolist(), strict=True))
    groups: dict[float, Fraction] = {}
    for entry, weight in pairs:
        groups[entry] = groups.get(entry, Fraction(0)) + Fraction(weight)
    left = {entry: weight for entry, weight in groups.items() if weight}
    top, largest = max(left, default=max(groups)), max(groups)
    with mp.workdps(120 if len(left) > 5 else 500):
        power = {
            entry: mp.exp(d) if (d := mpf(entry) - mpf(top)) > -20_000 else mpf(0)
            for entry in groups
        }
        total = mp.fsum(
            mpf(weight.numerator) / weight.denominator * power[entry]
            for entry, weight in left.items()
        )
        sizes = [(a, abs(mpf(b)) * power[a]) for a, b in pairs]
        of_all = mp.fsum(size for _, size in sizes)
        if abs(total) <= of_all * mpf(2) ** -95:
            return Row(mp.nstr(mp.log(of_all) + top, 25), 0, largest, INF)
        below = mp.fsum(size for a, size in sizes if a < largest) / abs(total)
        value = mp.nstr(mp.log(abs(total)) + top, 25)
        return Row(value, 1 if total > 0 else -1, largest, mp.nstr(below, 25))
