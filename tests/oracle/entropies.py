"""What cross-entropy should be: wide rows [B, C], special values and masks included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import softmaxes
from .arithmetic import WIDE, Array, Judge, computed, finfo, native, unit, widened


class Batch(NamedTuple):
    """Losses of rows and the gradient of their sum, and how far both may be off."""

    losses: Judge
    grad: Judge
    counting: Any  # the weight of the rows that do

    def loss(self, dtype: npt.DTypeLike, reduction: str = "none") -> Judge:
        """For scores of `dtype`: a total is rounded once more."""
        if reduction == "none":
            return self.losses
        by = self.counting if reduction == "mean" else 1
        with np.errstate(all="ignore"):
            value, allowed = (each.sum() / by for each in self.losses)
            rounding = unit(abs(value) + allowed, computed(dtype)) / 2
            return Judge(value, allowed + rounding)

    def gradient(self, dtype: npt.DTypeLike, reduction: str = "none") -> Judge:
        """A mean's quotient is rounded: below the normal numbers to a multiple."""
        by = (self.counting or 1) if reduction == "mean" else 1
        value, allowed = (each / by for each in self.grad)
        least = WIDE(finfo(computed(dtype)).smallest_subnormal)
        rounding = np.where((value == 0) | (by == 1), 0, least / 2)
        return Judge(value, allowed + rounding).rounded_to(native(dtype))


def batch(
    x: Array,
    labels: Array,
    *,
    where: Any = None,
    temperature: Any = 1.0,
    label_smoothing: float = 0.0,
    sample_weight: Any = 1.0,
    ignore_index: int | None = None,
) -> Batch:
    """Labels [B], or targets [B, C].

    Within 3 units of 2^-23 (float64: 2^-52), or 5 of targets that are smoothed or
    probabilities: of the terms' absolute sum, and of the larger term of a gradient.
    Beside that, n roundings of sums in double, and those of subnormal steps.
    """
    kept = np.broadcast_to(True if where is None else where, x.shape)
    softmax, logs, total = (
        softmaxes.judge(name, x, None if where is None else kept, temperature).value
        for name in ("softmax", "log_softmax", "logsumexp")
    )
    is_hard = labels.ndim == 1
    counts = np.ones(len(x), bool)
    if is_hard and ignore_index is not None:
        counts = labels != ignore_index
    if is_hard:
        places = np.where(counts, labels, 0)[:, np.newaxis]
        t = (places == np.arange(x.shape[1])).astype(WIDE)
    else:
        t = widened(labels)
    weights = np.broadcast_to(sample_weight, len(x)).astype(WIDE)
    counts = counts & (weights != 0) & kept.any(axis=1)
    by = np.where(counts, weights, 0)
    exactly = is_hard and label_smoothing == 0
    number = computed(x.dtype)
    info = finfo(number)
    bound = (3 if exactly else 5) * WIDE(info.eps) + x.shape[1] * WIDE(2) ** -53
    tiny = WIDE(info.smallest_subnormal)
    with np.errstate(all="ignore"):
        divisor = widened(np.asarray(temperature, number))
        if not exactly:
            smooth = WIDE(label_smoothing)
            share = smooth / np.maximum(kept.sum(axis=1, keepdims=True), 1)
            t = np.where(kept, t * (1 - smooth) + share, 0)
        logs = np.where(kept, logs, -np.inf - total[:, np.newaxis])
        terms = np.where(t == 0, 0, -t * logs)
        product = softmax * t.sum(axis=1, keepdims=True)
        larger = np.maximum(abs(product), abs(t))
        losses = Judge(terms.sum(axis=1), bound * abs(terms).sum(axis=1) + tiny)
        grad = Judge(product - t, bound * larger + tiny)
        across = by[:, np.newaxis] / divisor
        return Batch(
            _times(losses, by, counts, tiny),
            _times(grad, across, counts[:, np.newaxis] & kept, tiny),
            by.sum(),
        )


def _times(judge: Judge, factor: Array, counts: Array, tiny: Any) -> Judge:
    return Judge(
        np.where(counts, judge.value * factor, 0),
        np.where(counts, judge.allowed * abs(factor) + tiny, 0),
    )
