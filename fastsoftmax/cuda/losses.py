"""The losses for CuPy arrays: decodes a call, and launches it. See call.py.

A loss is a kernel over rows, and one that adds its losses up. Where the device alone
knows which rows count, because of labels, a mask or weights, two more find out before.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from .. import _arguments
from . import choose, launch, temperatures
from .choose import Operation
from .launch import Array

# What is written beside losses, as int: FS_NOTHING, FS_GRADIENT and FS_PAIRS, and p.
INTS = tuple(map(np.int32, range(3)))
NOTHING, GRADIENT, PAIRS = INTS

WITHOUT_RESULTS = {
    operation.name: operation._replace(has_results=False)
    for operation in (choose.HINGE_SUM, choose.HINGE_LARGEST, choose.CROSS_ENTROPY)
}

# Of sums: threads to a block, the shortest chunk of one, the most chunks.
ADDING, ADDED, MOST_SUMS = 256, 4096, 1024
WEIGHING = 128
ONE = np.float64(1)


class _Rows(NamedTuple):
    """Rows of scores, contiguous, and what is known of them."""

    scores: Array
    positives: Array | None
    labels: Array | None
    where: Array | None
    weights: Array | None
    ignored: np.int64 | None
    device: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.scores.shape[:-1]
        return shape


class _Options(NamedTuple):
    """Which hinge loss: the options of a call, decoded."""

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
    if type(margin) is not float or not 0 < margin <= 1:
        margin = _arguments.as_margin(margin, compute)
    width = compute.type(margin)
    return _Options(width, p, variant == "max", reduction, bool(return_grad))


# ---- decoding ----


def _contiguous(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    if dtype is not None and array.dtype != dtype:
        array = array.astype(dtype)
    return launch.in_order(array, None)


def _as_rows(
    scores: Array,
    positives: Array | None,
    labels: Array | None,
    ignore_index: int | None,
    sample_weight: Any,
    mask: Array | None,
    dtype: np.dtype[Any],
    device: int,
) -> _Rows:
    places = None if labels is None else _as_labels(labels, scores)
    ignored = None
    if ignore_index is not None:
        if labels is None:
            raise TypeError("ignore_index needs labels")
        ignored = _as_ignored(ignore_index, labels.dtype)
    return _Rows(
        _contiguous(scores, dtype),
        None if positives is None else _contiguous(positives, dtype),
        places,
        None if mask is None else _contiguous(mask),
        _as_weights(sample_weight, scores.shape[:-1]),
        ignored,
        device,
    )


def _as_labels(labels: Any, scores: Array) -> Array:
    _arguments.check_labels(labels.shape, scores.shape[:-1])
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    return _contiguous(labels, np.dtype(np.int64))


def _as_ignored(ignore_index: int, labels: np.dtype[Any]) -> np.int64 | None:
    """Return the label to ignore as int64, which has uint64's bits; None: no label."""
    ignored = _arguments.as_ignored(ignore_index)
    limits = np.iinfo(labels)
    if not limits.min <= ignored <= limits.max:
        return None
    return np.int64((ignored + 2**63) % 2**64 - 2**63)


def _as_weights(sample_weight: Any, rows: tuple[int, ...]) -> Array | None:
    if sample_weight is None:
        return None
    weights = launch.as_array(sample_weight, "sample_weight")
    _arguments.check_weights(weights.shape, rows)
    weights = weights.astype(np.float64, copy=False)
    return _contiguous(cupy.broadcast_to(weights, rows))


# ---- which rows count, and their sum ----


class _Counting(NamedTuple):
    """What divides a loss; of rows, weights that are 0 where one does not count."""

    weights: Array | None
    left: Array | None  # elements of each row in the mask
    total: Array | None  # None: it is known, and `divisor`
    divisor: np.float64


def _count(rows: _Rows, positives: int | None, is_mean: bool) -> _Counting:
    """Find out on the device what must be; `positives` of a hinge loss among scores."""
    count, n = math.prod(rows.shape), rows.scores.shape[-1]
    is_hinge, mask = positives is not None, rows.where
    of_mean = is_mean and (mask is not None or rows.weights is not None)
    if not (of_mean or rows.ignored is not None or (mask is not None and not is_hinge)):
        return _Counting(
            rows.weights, None, None, np.float64(count) if is_mean else ONE
        )
    weights = cupy.empty(rows.shape, np.float64)
    left = None if is_hinge or mask is None else cupy.empty(rows.shape, np.int64)
    counted = cupy.empty(rows.shape, np.float64) if is_mean else None
    if count:
        team = 1 if mask is None else choose.WARP
        launch.function(f"weigh_rows<{team}>", rows.device)(
            (-(-count * team // WEIGHING),),
            (WEIGHING,),
            (
                rows.labels,
                rows.weights,
                mask,
                np.int64(count),
                np.int64(n),
                rows.ignored or np.int64(0),
                INTS[rows.ignored is not None],
                INTS[positives or 0],
                INTS[is_hinge],
                weights,
                left,
                counted,
            ),
        )
    total = None
    if counted is not None:
        total = _add_up(counted, ONE.dtype, ONE, None, rows.device)
    return _Counting(weights, left, total, ONE)


@functools.lru_cache(maxsize=1024)
def _adding(count: int, number: str, device: int) -> tuple[Any, ...]:
    """Return the kernel that adds up, how many chunks it needs first, sizes for it."""
    chunk = max(ADDED, -(-count // MOST_SUMS))
    chunks = -(-count // chunk) if count > chunk else 0
    sizes = np.int64(count), np.int64(chunk)
    last = np.int64(chunks or count)
    return launch.function(f"add_up<{number}>", device), chunks, sizes, (last, last)


def _add_up(
    parts: Array,
    dtype: np.dtype[Any],
    divisor: np.float64,
    total: Array | None,
    device: int,
) -> Array:
    """Return the sum of float64 numbers over a number, or a total on the device."""
    number = "double" if dtype == np.float64 else "float"
    add, chunks, sizes, last = _adding(parts.size, number, device)
    if chunks:
        sums = cupy.empty(chunks, np.float64)
        add((chunks,), (ADDING,), (parts, *sizes, divisor, None, sums, None))
        parts = sums
    result = cupy.empty((), dtype)
    add((1,), (ADDING,), (parts, *last, divisor, total, None, result))
    return result


# ---- running ----


def _run(
    operation: Operation,
    rows: _Rows,
    counting: _Counting,
    reduction: str,
    second: Array | None,
    out: Array | None,
    temperature: np.floating[Any],
    own: tuple[Any, ...],
    out_positives: Array | None = None,
) -> Array | None:
    """Write what is to be written; return the loss as its reduction has it.

    `own` are the operation's arguments behind those that all losses have.
    """
    losses = parts = None
    if reduction == "none":
        losses = cupy.empty(rows.shape, temperature.dtype)
    elif reduction != "pairs":
        parts = cupy.empty(rows.shape, np.float64)
    if rows.scores.size == 0:
        _fill_empty(rows, counting, losses, parts, out_positives)
    else:
        divisor, total = counting.divisor * temperature, counting.total
        extra = (rows.labels, counting.weights, total, losses, parts, ONE / divisor)
        places = launch.places_of(rows.scores, rows.where)
        places |= 0 if second is None else second.data.ptr
        if out is None:
            operation = WITHOUT_RESULTS[operation.name]
        else:
            places |= out.data.ptr
        shape = (math.prod(rows.shape), rows.scores.shape[-1], 1)
        prepared = launch.prepared(
            operation, rows.scores.dtype, shape, places % 16 == 0, rows.device
        )
        launch.launch(prepared, rows.scores, second, out, temperature, (*extra, *own))
    if parts is None:
        return losses
    dtype, divisor = temperature.dtype, counting.divisor
    return _add_up(parts, dtype, divisor, counting.total, rows.device)


def _fill_empty(rows: _Rows, counting: _Counting, *arrays: Array | None) -> None:
    """Rows without a score lose nothing; NaN, if they count: no label is in [0, 0)."""
    for array in arrays:
        if array is None:
            continue
        array.fill(0 if rows.labels is None else math.nan)
        if rows.labels is not None and counting.weights is not None:
            array[...] = cupy.where(abs(counting.weights) > 0, array, 0.0)


# ---- hinge losses ----


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
    if labels is not None:
        labels = launch.as_array(labels, "labels")
    rows = _as_rows(
        array, None, labels, ignore_index, sample_weight, mask, dtype, device
    )
    loss = _as_options(compute, *options)
    value, out = _run_hinge(rows, loss, None)
    if loss.reduction == "pairs":
        return out if labels is not None else _contiguous(out[..., 1:])
    if out is None:
        return value
    return value, out if negatives is None else out.reshape(flat)


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
    loss = _as_options(compute, *options)
    rows = _as_rows(others, positives, None, None, sample_weight, mask, dtype, device)
    grad = cupy.empty(positives.shape, dtype) if loss.return_grad else None
    value, out = _run_hinge(rows, loss, grad)
    if loss.reduction == "pairs":
        return out
    return value if grad is None else (value, (grad, out))


def _run_hinge(
    rows: _Rows, loss: _Options, out_positives: Array | None
) -> tuple[Any, Any]:
    """Return the loss, and the gradient or the pairs."""
    out, written, is_pairs = None, NOTHING, loss.reduction == "pairs"
    if is_pairs or loss.return_grad:
        out = cupy.empty(rows.scores.shape, rows.scores.dtype)
        written = PAIRS if is_pairs else GRADIENT
    value = _run(
        choose.HINGE_LARGEST if loss.largest and not is_pairs else choose.HINGE_SUM,
        rows,
        _count(rows, int(rows.positives is None), loss.reduction == "mean"),
        loss.reduction,
        rows.where,
        out,
        temperatures.ONE[type(loss.margin)],
        (rows.positives, out_positives, loss.margin, INTS[loss.p], written),
        out_positives,
    )
    return value, out


# ---- cross-entropy ----


@launch.on_device_of("scores", "labels", "sample_weight", "where")
def cross_entropy(
    device: int,
    scores: Any,
    labels: Any,
    sample_weight: Any,
    where: Any,
    axis: int,
    temperature: Any,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    return_grad: bool,
) -> Any:
    """Run cross_entropy for CuPy arrays."""
    x = launch.as_array(scores, "scores")
    place = _arguments.as_one_axis(axis, x.ndim)
    mask = launch.as_mask(where, x.shape, "scores")
    result, compute = _arguments.result_dtypes(x.dtype)
    _arguments.check_choice("reduction", reduction, _arguments.ENTROPY_REDUCTIONS)
    divisors = None
    if temperatures.are_many(temperature):
        divisors = temperatures.of_sets(temperature, compute.type, x, place, "scores")
        x = temperatures.quotients(x, divisors, compute.type, place, mask)
        temperature = 1.0
    divisor = temperatures.number(temperature, compute.type)
    smoothing = np.float64(_arguments.as_smoothing(label_smoothing))
    labels, targets = launch.as_array(labels, "labels"), None
    dtype = np.dtype(np.float64) if x.dtype.kind in "biu" else x.dtype
    if labels.shape == x.shape:
        if ignore_index is not None:
            raise TypeError("ignore_index needs labels that are integers")
        dtype = dtype if labels.dtype == dtype else compute
        targets, labels = _moved(labels, place, dtype), None
    rows = _as_rows(
        _moved(x, place, dtype),
        None,
        labels,
        ignore_index,
        sample_weight,
        None if mask is None else _moved(mask, place, mask.dtype),
        dtype,
        device,
    )
    grad = cupy.empty(rows.scores.shape, dtype) if return_grad else None
    counting = _count(rows, None, reduction == "mean")
    own = rows.where, counting.left, smoothing
    loss = _run(
        choose.CROSS_ENTROPY, rows, counting, reduction, targets, grad, divisor, own
    )
    if grad is None:
        return loss
    order = [d for d in range(x.ndim) if d != place]
    grad = grad.transpose(launch.inverse((*order, place)))
    grad = grad if divisors is None else grad / divisors
    return loss, grad.astype(result, copy=False)


def _moved(array: Array, place: int, dtype: np.dtype[Any]) -> Array:
    """Return an array with an axis at the end."""
    order = (*(d for d in range(array.ndim) if d != place), place)
    return _contiguous(array.transpose(order), dtype)
