"""What the hinge losses should be: wide rows [B, n], their positives among them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arithmetic import (
    WIDE,
    Array,
    Judge,
    assert_right,
    computed,
    finfo,
    native,
    unit,
    widened,
)

LOSSES = [(1, "sum"), (2, "sum"), (1, "max"), (2, "max")]
REDUCTIONS = ["sum", "mean", "none", "pairs"]
KEPT_ROWS = 256


class Batch(NamedTuple):
    """Losses of rows, their terms and their gradient.

    Terms are 0 in the place that a label names; a positive in column 0 has none.
    """

    losses: Array
    terms: Array
    grad: Array
    counting: int  # rows
    p: int
    added: int = 0  # losses, where a total is an ordinary sum of them

    # Results may differ from these, relative to them. A term is within 1 ULP, which is
    # less than eps; its square within twice that, and a rounding. Terms are >= 0, so
    # that their sum is as good as they are; adding up n of them in float64 costs at
    # most n / 2 times its eps, which float32 does not see.

    def loss(self, dtype: npt.DTypeLike, reduction: str = "none") -> Judge:
        """For scores of `dtype`: a total is rounded once, a mean once more."""
        eps = finfo(computed(dtype)).eps
        if reduction == "pairs":
            # The weight is rounded, and its product with a term or a square.
            bound = (self.p + 1.5) * eps
            return _relative(self.terms, bound, dtype)
        added = self.grad.shape[-1]
        bound = (self.p + 0.5) * eps + (added + 1) / 2 * finfo(np.float64).eps
        if reduction == "none":
            return _relative(self.losses, bound, computed(dtype))
        rows = (self.counting or math.nan) if reduction == "mean" else 1
        bound += self.added / 2 * finfo(np.float64).eps
        value, allowed = _relative(self.losses.sum() / rows, bound, computed(dtype))
        with np.errstate(all="ignore"):
            half = unit(abs(value) + allowed, computed(dtype)) / 2
        roundings = np.where(value == 0, 0, 2 if reduction == "mean" else 1)
        return Judge(value, allowed + roundings * half)

    def gradient(self, dtype: npt.DTypeLike, reduction: str = "none") -> Judge:
        """The factor is rounded, for p = 2 its product with a term; then their sum."""
        eps, n = finfo(computed(dtype)).eps, self.grad.shape[-1]
        value = self.grad / ((self.counting or 1) if reduction == "mean" else 1)
        bound = (self.p + 1) * eps + (n + 1) / 2 * finfo(np.float64).eps
        return _relative(value, bound, dtype)


def assert_loss(
    loss: Any, batch: Batch, dtype: npt.DTypeLike, reduction: str = "none"
) -> None:
    """`dtype` is that of the scores."""
    loss = np.asarray(loss)
    assert loss.dtype == (native if reduction == "pairs" else computed)(dtype)
    assert_right(loss, batch.loss(dtype, reduction), reduction)


def assert_gradient(
    grad: Array,
    batch: Batch,
    dtype: npt.DTypeLike,
    reduction: str = "none",
    of: Any = ...,
) -> None:
    """`of` says which part of it this is."""
    assert grad.dtype == native(dtype)
    assert_right(grad, batch.gradient(dtype, reduction).at(of), reduction)


def assert_both(
    result: Any, batch: Batch, dtype: npt.DTypeLike, reduction: str = "none"
) -> None:
    """The pair that a call with return_grad gives."""
    assert_loss(result[0], batch, dtype, reduction)
    assert_gradient(result[1], batch, dtype, reduction)


def _relative(value: Array, bound: float, dtype: npt.DTypeLike) -> Judge:
    with np.errstate(all="ignore"):
        judge = Judge(np.asarray(value, WIDE), np.asarray(abs(value) * bound))
    return judge.rounded_to(native(dtype))


def batch(
    scores: Array,
    labels: Any = None,
    *,
    where: Any = True,
    sample_weight: Any = 1.0,
    margin: float = 1.0,
    p: int = 1,
    variant: str = "sum",
    ignore_index: int | None = None,
) -> Batch:
    """Rows over the last axis; without labels the positive is in column 0.

    A row does not count whose label is ignored, that has no weight, or whose negatives
    are all masked out.
    """
    *lead, n = scores.shape
    rows, shape = (math.prod(lead), n), (math.prod(lead), 1)
    counted = np.broadcast_to(True if where is None else where, scores.shape)
    counted = counted.reshape(rows).copy()
    weights = np.broadcast_to(sample_weight, lead).reshape(shape).astype(WIDE)
    places = np.zeros(shape, int) if labels is None else np.reshape(labels, shape)
    counts = np.ones(shape, bool) if ignore_index is None else places != ignore_index
    places = np.where(counts, places, 0)
    margin = float(computed(scores.dtype).type(margin))
    with np.errstate(all="ignore"):
        wide = widened(scores).reshape(rows)
        positives = np.take_along_axis(wide, places, axis=-1)
        np.put_along_axis(counted, places, False, axis=-1)
        some = counted.any(axis=-1, keepdims=True) | (n == 1)
        counts = counts & (weights != 0) & some
        counted &= counts
        t = np.where(counted, excess(margin, positives, wide), 0)
        t = np.where(t < 0, 0, t)
        terms = t**p
        slopes = 2 * t if p == 2 else np.where(t > 0, 1, t)
        picked = np.ones(t.shape, bool)
        if variant == "max":
            picked[...] = False
            first = first_largest(np.where(counted, wide, -np.inf), t)
            np.put_along_axis(picked, first, True, axis=-1)
        losses = _times(weights[..., 0], np.where(picked, terms, 0).sum(axis=-1))
        grad = _times(weights, np.where(picked, slopes, 0))
        np.put_along_axis(grad, places, -grad.sum(axis=-1, keepdims=True), axis=-1)
        terms = _times(weights, terms)[:, int(labels is None) :]
        terms = terms.reshape(*lead, terms.shape[1])
        losses, grad = losses.reshape(lead), grad.reshape(scores.shape)
        return Batch(losses, terms, grad, int(counts.sum()), p)


def _times(weights: Array, values: Array) -> Array:
    """A loss of 0 stays 0, whatever its weight."""
    return np.where(values == 0, 0, weights * values)


def excess(margin: float, positives: Array, scores: Array) -> Array:
    """margin - s+ + s: exact, where it is finite, but for the last rounding."""
    high = margin - positives
    part = high - margin
    low = (margin - (high - part)) + (-positives - part)
    return (scores + high) + np.where(np.isfinite(high), low, 0)


def first_largest(scores: Array, t: Array) -> Array:
    """The place of the first NaN, or of the first largest score, in each row."""
    nan = np.isnan(t)
    first = np.where(
        nan.any(axis=-1), nan.argmax(axis=-1), np.nan_to_num(scores).argmax(axis=-1)
    )
    return first[..., None]
