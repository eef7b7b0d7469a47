"""Cross-entropy and its gradient by plain formulas in long double."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from references import Array, exact, unit


class Judge(NamedTuple):
    """What rows [B, C] should give, how far each may be off, and whether it counts."""

    losses: Array
    of_losses: Array
    grads: Array
    of_grads: Array
    counts: Array


def judge(
    x: Array, t: Array, weights: Array, where: Array, smoothing: float, is_hard: bool
) -> Judge:
    """Work in long double on scores that are divided already; allow what is promised.

    Beside what is promised, n roundings of a sum in double of the row's terms.
    """
    wide = x.astype(np.longdouble)
    each = exact(np.where(where, wide, wide.min() - 12_000))  # exp gives 0 there
    smooth = np.longdouble(smoothing)
    share = smooth / np.maximum(where.sum(axis=1, keepdims=True), 1)
    t = np.where(where, t * (1 - smooth) + share, 0)
    whole = t.sum(axis=1, keepdims=True)
    terms = np.where(t == 0, 0, -t * each.log_softmax)
    units = 3 if is_hard and smoothing == 0 else 5
    eps = np.finfo(x.dtype).eps
    lost = x.shape[1] * 2.0**-53
    counts = (weights != 0) & where.any(axis=1)
    by = np.where(counts, weights, 0).astype(np.longdouble)
    across = by[:, np.newaxis]
    return Judge(
        terms.sum(axis=1) * by,
        (units * eps + lost) * abs(terms).sum(axis=1) * abs(by),
        (each.softmax * whole - t) * across,
        (units * eps + lost) * np.maximum(each.softmax * whole, t) * abs(across),
        counts,
    )


def assert_within(result: Any, wanted: Array, allowed: Array, units: float = 0) -> None:
    """Near enough, with so many units of the result's type for its own rounding."""
    result = np.asarray(result)
    allowed = allowed + units * unit(abs(wanted) + allowed, result.dtype)
    off = abs(result.astype(np.float64).astype(np.longdouble) - wanted) - allowed
    assert not (~(off <= 0)).any(), f"{off.max()} beyond {allowed}"


def draw(shape: tuple[int, ...], dtype: Any, spread: float = 3) -> Array:
    return np.random.default_rng([*shape]).normal(0, spread, shape).astype(dtype)
