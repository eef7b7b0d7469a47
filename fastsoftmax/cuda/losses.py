"""The hinge losses for CuPy arrays: decodes a call, and launches it. See call.py."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from .. import _arguments
from . import choose, launch
from .launch import Array

# What is written beside losses, as int: FS_NOTHING, FS_GRADIENT and FS_PAIRS, and p.
INTS = tuple(map(np.int32, range(3)))
NOTHING, GRADIENT, PAIRS = INTS


class _Scores(NamedTuple):
    """Rows of scores and where their positives are, contiguous."""

    scores: Array
    positives: Array | None
    labels: Array | None
    where: Array | None
    dtype: np.dtype[Any]
    compute: np.dtype[Any]
    device: int

    @property
    def rows(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.scores.shape
        return shape[:-1]


class _Options(NamedTuple):
    """Which loss: the options of a call, decoded."""

    margin: np.floating[Any]
    p: int
    largest: bool
    reduction: str
    return_grad: bool


def _as_options(
    compute: np.dtype[Any],
    margin: float,
    p: int,
    variant: str,
    reduction: str,
    return_grad: bool,
) -> _Options:
    p = _arguments.as_options(p, variant, reduction, return_grad)
    width = compute.type(_arguments.as_margin(margin, compute))
    return _Options(width, p, variant == "max", reduction, bool(return_grad))


def _contiguous(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    if dtype is not None and array.dtype != dtype:
        array = array.astype(dtype)
    return launch.in_order(array, None)


def _as_rows(
    scores: Array,
    positives: Array | None,
    labels: Array | None,
    mask: Array | None,
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    device: int,
) -> _Scores:
    return _Scores(
        _contiguous(scores, dtypes[0]),
        None if positives is None else _contiguous(positives, dtypes[0]),
        labels,
        None if mask is None else _contiguous(mask),
        *dtypes,
        device,
    )


def _as_labels(labels: Any, scores: Array) -> Array:
    _arguments.check_labels(labels.shape, scores.shape)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    return _contiguous(labels, np.dtype(np.int64))


def _ignoring(
    labels: Array, given: np.dtype[Any], ignore_index: int, weights: Array | None
) -> tuple[Array, Array | None]:
    """Give ignored rows the weight 0, and a label that there is."""
    ignored = _arguments.as_ignored(ignore_index)
    limits = np.iinfo(given)
    if not limits.min <= ignored <= limits.max:
        return labels, weights
    counts = labels != (ignored + 2**63) % 2**64 - 2**63  # uint64's bits
    if weights is None:
        weights = cupy.full(labels.shape, 1.0, np.float64)
    return cupy.where(counts, labels, 0), cupy.where(counts, weights, 0)


def _as_mean(rows: _Scores, weights: Array | None) -> tuple[Array, Array]:
    """Return weights that make a sum the mean of rows that count; whether any do."""
    counts = cupy.full(rows.rows, True, np.bool_)
    if weights is None:
        weights = cupy.full(rows.rows, 1.0, np.float64)
    else:
        counts = weights != 0
    if rows.where is not None and rows.scores.shape[-1] > (rows.positives is None):
        negatives = rows.where
        if rows.labels is not None:
            places = cupy.arange(rows.scores.shape[-1])
            negatives = negatives & (places != rows.labels[..., None])
        elif rows.positives is None:
            negatives = negatives[..., 1:]
        counts = counts & negatives.any(axis=-1)
    count = counts.sum()
    weights = cupy.where(counts, weights / cupy.maximum(count, 1), 0)
    return _contiguous(weights), count > 0


def _as_weights(sample_weight: Any, rows: tuple[int, ...]) -> Array | None:
    if sample_weight is None:
        return None
    weights = launch.as_array(sample_weight, "sample_weight")
    _arguments.check_weights(weights.shape, rows)
    weights = weights.astype(np.float64, copy=False)
    return _contiguous(cupy.broadcast_to(weights, rows))


@launch.on_device_of("scores", "labels", "sample_weight", "where")
def hinge_loss(
    device: int,
    scores: Any,
    labels: Any,
    sample_weight: Any,
    where: Any,
    negatives: int | None,
    ignore_index: int | None,
    *options: Any,
) -> Any:
    """Run hinge_loss for CuPy arrays."""
    array = launch.as_array(scores, "scores")
    mask = launch.as_mask(where, array.shape, "scores")
    flat = array.shape
    if negatives is not None:
        if labels is not None:
            raise TypeError("give labels or negatives, not both")
        shape = _arguments.as_groups(array, negatives)
        array = array.reshape(shape)
        mask = None if mask is None else mask.reshape(shape)
    _arguments.check_has_positive(array, labels is not None)
    dtype, compute = _arguments.result_dtypes(array.dtype)
    weights = _as_weights(sample_weight, array.shape[:-1])
    places = None
    if labels is not None:
        labels = launch.as_array(labels, "labels")
        places = _as_labels(labels, array)
    if ignore_index is not None:
        if labels is None:
            raise TypeError("ignore_index needs labels")
        places, weights = _ignoring(places, labels.dtype, ignore_index, weights)
    rows = _as_rows(array, None, places, mask, (dtype, compute), device)
    loss = _as_options(compute, *options)
    if loss.reduction == "pairs":
        pairs = cupy.empty(rows.scores.shape, dtype)
        _run(rows, loss, weights, pairs, None)
        return pairs if labels is not None else _contiguous(pairs[..., 1:])
    grad = cupy.empty(rows.scores.shape, dtype) if loss.return_grad else None
    value = _run(rows, loss, weights, grad, None)
    return value if grad is None else (value, grad.reshape(flat))


@launch.on_device_of("pos", "neg", "sample_weight", "where")
def pair_hinge_loss(
    device: int, pos: Any, neg: Any, sample_weight: Any, where: Any, *options: Any
) -> Any:
    """Run pair_hinge_loss for CuPy arrays."""
    positives, others = launch.as_array(pos, "pos"), launch.as_array(neg, "neg")
    _arguments.check_pairs(positives, others)
    mask = launch.as_mask(where, others.shape, "neg")
    dtype, compute = _arguments.result_dtypes(
        _arguments.promote((pos, positives), (neg, others))
    )
    rows = _as_rows(others, positives, None, mask, (dtype, compute), device)
    loss = _as_options(compute, *options)
    weights = _as_weights(sample_weight, rows.rows)
    if loss.reduction == "pairs":
        pairs = cupy.empty(others.shape, dtype)
        _run(rows, loss, weights, pairs, None)
        return pairs
    if not loss.return_grad:
        return _run(rows, loss, weights, None, None)
    grads = cupy.empty(positives.shape, dtype), cupy.empty(others.shape, dtype)
    return _run(rows, loss, weights, grads[1], grads[0]), grads


def _run(
    rows: _Scores,
    loss: _Options,
    weights: Array | None,
    out: Array | None,
    out_positives: Array | None,
) -> Any:
    """Write what is to be written; return the loss as its reduction has it."""
    losses = parts = None
    if loss.reduction == "none":
        losses = cupy.empty(rows.rows, rows.compute)
    elif loss.reduction != "pairs":
        parts = cupy.empty(rows.rows, np.float64)
    count, some = math.prod(rows.rows), None
    is_mean = loss.reduction == "mean"
    if is_mean and (weights is not None or rows.where is not None):
        weights, some = _as_mean(rows, weights)
    if rows.scores.size > 0:
        largest = loss.largest and loss.reduction != "pairs"
        operation = choose.HINGE_LARGEST if largest else choose.HINGE_SUM
        places = launch.places_of(rows.scores, rows.where)
        written = NOTHING
        if out is None:
            operation = operation._replace(has_results=False)
        else:
            places |= out.data.ptr
            written = GRADIENT if loss.return_grad else PAIRS
        shape = (count, rows.scores.shape[-1], 1)
        extra = (
            rows.positives,
            rows.labels,
            weights,
            losses,
            parts,
            out_positives,
            loss.margin,
            np.float64(1 / count if is_mean and some is None else 1.0),
            INTS[loss.p],
            written,
        )
        launch.launch(
            launch.prepared(
                operation, rows.dtype, shape, places % 16 == 0, rows.device
            ),
            rows.scores,
            rows.where,
            out,
            rows.compute.type(1),
            extra,
        )
    else:
        nothing = 0 if rows.labels is None else math.nan  # no label is in [0, 0)
        for array in (losses, parts, out_positives):
            if array is not None:
                array.fill(nothing)
    if parts is None:
        return losses
    total = parts.sum()
    if some is not None:
        total = cupy.where(some, total, math.nan)
    elif is_mean:
        total = total / count if count else cupy.full((), math.nan, np.float64)
    return total.astype(rows.compute, copy=False)
