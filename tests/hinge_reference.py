"""The hinge losses as a plain loop, what is put into them, and how it is passed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from references import Array, finfo

from fastsoftmax import hinge_loss, pair_hinge_loss

NAN = math.nan
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]

# What results may differ by, relative to exact ones. A term is within 1 ULP, which is
# less than eps; its square within twice that, and a rounding. Terms are >= 0, so that
# their sum is as good as they are; adding up n of them in float64 costs at most n / 2
# times its eps, which float32 does not see.


def loss_bound(dtype: Any, p: int, terms: int) -> float:
    """For a sum of so many terms, rounded once to `dtype`."""
    return (p + 0.5) * eps(dtype) + (terms + 1) / 2 * eps(np.float64)


def gradient_bound(dtype: Any, p: int, terms: int) -> float:
    """The factor is rounded, and for p = 2 its product with a term.

    A positive's is the sum of such, rounded; halves are rounded once more.
    """
    return loss_bound(dtype, p, terms) + eps(dtype) / 2 + half_rounding(dtype)


def pairs_bound(dtype: Any, p: int) -> float:
    """The weight is rounded, and its product with a term or a square."""
    return (p + 1.5) * eps(dtype) + half_rounding(dtype)


def eps(dtype: Any) -> float:
    """That of the type computed in."""
    return float(np.finfo(computed(dtype)).eps)


def half_rounding(dtype: Any) -> float:
    return 0.0 if np.dtype(dtype).itemsize > 2 else float(finfo(dtype).eps) / 2


def least(dtype: Any) -> float:
    """What halves lose at their bottom; the others' bottom is not reached."""
    if np.dtype(dtype).itemsize > 2:
        return 0.0
    return float(finfo(dtype).smallest_subnormal)


def computed(dtype: Any) -> np.dtype[Any]:
    """The type of losses."""
    is_wide = np.dtype(dtype).kind in "biu" or np.dtype(dtype).newbyteorder("=") == "f8"
    return np.dtype(np.float64 if is_wide else np.float32)


def graded(dtype: Any) -> np.dtype[Any]:
    """The type of gradients and pairs."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


# ---- the loop ----


class Row(NamedTuple):
    """One row's loss, its terms and its gradient."""

    loss: float
    terms: list[float]
    grad: list[float]


class Batch(NamedTuple):
    """The same of many rows, in float64."""

    losses: Array
    terms: Array
    grad: Array
    count: int  # of rows that count


def excess(margin: float, positive: float, score: float) -> float:
    """Return margin - s+ + s, rounded once where it is finite."""
    parts = (margin, -positive, score)
    if all(map(math.isfinite, parts)):
        return math.fsum(parts)
    return margin - positive + score


def one_row(
    scores: Sequence[float],
    label: int,
    kept: Sequence[bool],
    *,
    margin: float = 1.0,
    p: int = 1,
    variant: str = "sum",
    weight: float = 1.0,
) -> Row:
    if not counts(label, kept, weight):
        nothing = [0.0] * len(scores)
        return Row(0.0, nothing, nothing)
    terms, slopes = [], []
    for j, score in enumerate(scores):
        t = 0.0
        if kept[j] and j != label:
            t = excess(margin, scores[label], score)
            t = 0.0 if t <= 0 else t  # NaN stays
        terms.append(t**p)
        slopes.append(2 * t if p == 2 else 1.0 if t > 0 else t)
    counted = terms
    if variant == "max":
        best = first_largest(scores, terms)
        counted = terms[best : best + 1]
        slopes = [slope if j == best else 0.0 for j, slope in enumerate(slopes)]
    grad = [weight * slope for slope in slopes]
    grad[label] = -math.fsum(grad)
    return Row(weight * math.fsum(counted), [weight * t for t in terms], grad)


def counts(label: int, kept: Sequence[bool], weight: float) -> bool:
    """A row whose label is ignored (None here), or without weight, does not; nor does
    one whose negatives are all masked out."""
    negatives = [mask for j, mask in enumerate(kept) if j != label]
    return label is not None and weight != 0 and (any(negatives) or not negatives)


def first_largest(scores: Sequence[float], terms: Sequence[float]) -> int:
    """Return the place of the first NaN, or of the first largest term.

    Of terms that rounding made equal it is the one of the largest score.
    """
    for j, t in enumerate(terms):
        if math.isnan(t):
            return j
    key = [(t, s if t > 0 else 0.0) for t, s in zip(terms, scores, strict=True)]
    return key.index(max(key))


def by_loop(
    scores: Array,
    labels: Array | None = None,
    *,
    where: Any = True,
    sample_weight: Any = 1.0,
    ignore_index: int | None = None,
    **options: Any,
) -> Batch:
    """Rows over the last axis of scores; without labels the positive is in column 0.

    `options` are margin, p, variant.
    """
    shape = scores.shape
    rows = scores.astype(np.float64).reshape(-1, shape[-1]).tolist()
    kept = np.broadcast_to(where, shape).reshape(-1, shape[-1]).tolist()
    weights = np.broadcast_to(sample_weight, shape[:-1]).ravel().tolist()
    places = [0] * len(rows) if labels is None else np.ravel(labels).tolist()
    if ignore_index is not None:
        places = [None if place == ignore_index else place for place in places]
    done = [
        one_row(row, place, mask, weight=weight, **options)
        for row, place, mask, weight in zip(rows, places, kept, weights, strict=True)
    ]
    terms = np.array([row.terms for row in done]).reshape(shape)
    return Batch(
        np.array([row.loss for row in done]).reshape(shape[:-1]),
        terms[..., 1:] if labels is None else terms,
        np.array([row.grad for row in done]).reshape(shape),
        sum(map(counts, places, kept, weights)),
    )


def reduced(batch: Batch, reduction: str) -> Any:
    if reduction == "pairs":
        return batch.terms
    if reduction == "none":
        return batch.losses
    total = math.fsum(batch.losses.flat)
    return total / (batch.count or NAN) if reduction == "mean" else total


# ---- four ways to pass the same rows ----


def _column_0(scores: Array, options: dict[str, Any]) -> Any:
    return hinge_loss(scores, **options)


def _flat(scores: Array, options: dict[str, Any]) -> Any:
    if options.get("where") is not None:
        mask = np.broadcast_to(options["where"], scores.shape).reshape(-1)
        options = {**options, "where": mask}
    negatives = scores.shape[-1] - 1
    result = hinge_loss(scores.reshape(-1), negatives=negatives, **options)
    if options.get("return_grad"):
        return result[0], result[1].reshape(scores.shape)
    return result


def _labels(scores: Array, options: dict[str, Any]) -> Any:
    result = hinge_loss(scores, np.zeros(scores.shape[:-1], int), **options)
    if options.get("reduction") == "pairs":
        np.testing.assert_array_equal(result[..., 0].astype(float), 0)
        return result[..., 1:]
    return result


def _pairs(pos: Array, scores: Array, options: dict[str, Any]) -> Any:
    where = options.get("where")
    if where is not None and np.ndim(where) and np.shape(where)[-1] > 1:
        options = {**options, "where": where[..., 1:]}
    result = pair_hinge_loss(pos, scores[..., 1:], **options)
    if not options.get("return_grad"):
        return result
    loss, (d_pos, d_neg) = result
    assert d_pos.shape == pos.shape
    d_pos = d_pos.reshape(*scores.shape[:-1], 1)
    return loss, np.concatenate([d_pos, d_neg], axis=-1)


FORMS: dict[str, Callable[[Array, dict[str, Any]], Any]] = {
    "column 0": _column_0,
    "flat": _flat,
    "labels": _labels,
    "pairs": lambda scores, options: _pairs(scores[..., 0], scores, options),
    "pairs [B, 1]": lambda scores, options: _pairs(scores[..., :1], scores, options),
}


# ---- judging ----


def assert_loss(loss: Any, batch: Batch, dtype: Any, reduction: str, p: int) -> None:
    """`dtype` is that of the scores."""
    expected = reduced(batch, reduction)
    loss = np.asarray(loss)
    wanted, tiny = computed(dtype), 0.0
    added = batch.grad.shape[-1] if reduction == "none" else batch.grad.size
    bound = loss_bound(wanted, p, added)
    if reduction == "pairs":
        wanted = graded(dtype)
        bound, tiny = pairs_bound(wanted, p), least(wanted)
    assert loss.dtype == wanted
    assert loss.shape == np.shape(expected)
    np.testing.assert_allclose(loss.astype(np.float64), expected, rtol=bound, atol=tiny)


def assert_gradient(
    grad: Array, expected: Array, dtype: Any, p: int, terms: int = 64
) -> None:
    """`terms` is how many were added up for a positive, at most."""
    assert grad.dtype == graded(dtype)
    assert grad.shape == expected.shape
    np.testing.assert_allclose(
        grad.astype(np.float64),
        expected,
        rtol=gradient_bound(grad.dtype, p, terms),
        atol=least(grad.dtype),
    )


# ---- scores ----


def draw(shape: tuple[int, ...], dtype: Any = np.float64, spread: float = 1) -> Array:
    """Scores about which a margin of 1 says something, ties and kinks included."""
    rng = np.random.default_rng([*shape])
    x = rng.normal(0, spread, shape)
    x = np.where(rng.random(shape) < 0.3, np.round(4 * x) / 4, x)
    if np.dtype(dtype).kind == "u":
        x = abs(x)
    return x.astype(dtype)


def draw_labels(shape: tuple[int, ...], classes: int) -> Array:
    return np.random.default_rng([*shape, classes]).integers(0, classes, shape)
