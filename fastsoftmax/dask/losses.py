"""Losses of rows: each chunk holds the classes of its rows, and the rows are cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from .. import _arguments, _cpu
from .._arguments import Array
from .arrays import beside, blockwise, options, shape_of, sums

Parts = dict[str, Any]

FLOAT = np.dtype(float)


def hinge_loss(
    scores: Any,
    labels: Any,
    sample_weight: Any,
    where: Any,
    negatives: Any,
    ignore_index: int | None,
    margin: float,
    p: int,
    variant: str,
    reduction: str,
    return_grad: bool,
) -> Any:
    """Run hinge_loss."""
    if negatives is not None or reduction == "pairs":
        raise TypeError(
            'negatives and reduction="pairs" are not for Dask arrays: pass rows, '
            "scores.reshape(-1, negatives + 1); map_blocks gives pairs"
        )
    call = partial(_cpu.hinge_loss, margin=margin, p=p, variant=variant)
    parts = _parts(scores, labels, -1, sample_weight, where, ignore_index, False)
    place = parts["scores"].ndim - 1
    return _reduced(call, place, parts, _hinge_counts, reduction, return_grad)


def pair_hinge_loss(*arguments: Any) -> Any:
    """Refuse, and say what to call."""
    raise TypeError(
        "pair_hinge_loss takes no Dask arrays: pass hinge_loss "
        "da.concatenate([pos[:, None], neg], axis=-1).rechunk({-1: -1})"
    )


def cross_entropy(
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
    """Run cross_entropy."""
    parts = _parts(scores, labels, axis, sample_weight, where, ignore_index, True)
    scores = parts["scores"]
    place = _arguments.as_one_axis(axis, scores.ndim)
    wanted = _arguments.result_dtypes(scores.dtype)[0]
    parts |= options(scores, (place,), wanted, temperature, None, "scores")
    call = partial(_cpu.cross_entropy, axis=place, label_smoothing=label_smoothing)
    return _reduced(call, place, parts, _entropy_counts, reduction, return_grad)


def _parts(
    scores: Any,
    labels: Any,
    axis: int,
    sample_weight: Any,
    where: Any,
    ignore_index: int | None,
    may_be_targets: bool,
) -> Parts:
    """Return arrays beside scores, of length 1 along `axis` where they have rows'."""
    scores = da.asarray(scores)
    _arguments.as_scores(scores._meta, "scores")
    place = _arguments.as_one_axis(axis, scores.ndim)
    if scores.numblocks[place] != 1:
        raise ValueError(
            f"classes must be in one chunk: pass scores.rechunk({{{axis}: -1}})"
        )
    shape = shape_of(scores)
    rows = shape[:place] + shape[place + 1 :]
    parts = {"scores": scores, "ignore_index": ignore_index}
    if labels is not None:
        labels = da.asarray(labels)
        numbers = np.arange(scores.npartitions).reshape(scores.numblocks)
        parts |= {"chunks": scores.chunks, "number": da.from_array(numbers, 1)}
        if may_be_targets and shape_of(labels) == shape:
            parts["targets"] = beside(labels, scores, "labels", "scores")
        else:
            _arguments.check_labels(shape_of(labels), rows)
            if labels.dtype.kind not in "iu":
                raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
            parts["labels"] = _one_each(labels, scores, place, "labels")
    if sample_weight is not None:
        weights = da.asarray(sample_weight)
        _arguments.check_weights(shape_of(weights), rows)
        parts["sample_weight"] = _one_each(weights, scores, place, "sample_weight")
    if where is not None:
        parts["where"] = beside(where, scores, "where", "scores")
    return parts


def _one_each(array: Any, scores: Any, place: int, name: str) -> Any:
    """Return one element for each row, or for all, with the classes' axis back."""
    if array.ndim:
        array = array[(slice(None),) * place + (None,)]
    return beside(array, scores, name, "scores", (place,))


def _reduced(
    call: Callable[..., Any],
    place: int,
    parts: Parts,
    counts: Callable[..., Any],
    reduction: str,
    return_grad: bool,
) -> Any:
    """Return the loss, or a pair with the gradient; a mean is of what `counts` says."""
    probe = _tried(call, place, parts, reduction)
    grad_type, loss_type = probe[1].dtype, probe[0].dtype
    losses = blockwise(
        partial(_losses_of_chunk, call, place), parts, loss_type, (place,)
    )
    every = tuple(range(losses.ndim))
    if reduction == "none":
        loss = losses.squeeze(place)
    else:
        loss = sums(losses, every)
        if reduction == "mean":
            counted = blockwise(partial(counts, place), parts, FLOAT, (place,))
            count = sums(counted, every)
            loss = blockwise(_mean, {"total": loss, "count": count}, FLOAT)
            weights = parts.get("sample_weight", da.ones_like(count))
            shares = {"weights": weights, "count": count}
            parts = parts | {"sample_weight": blockwise(_scaled, shares, FLOAT)}
        loss = loss.astype(loss_type).squeeze()
    if not return_grad:
        return loss
    return loss, blockwise(partial(_grad_of_chunk, call, place), parts, grad_type)


def _tried(call: Callable[..., Any], place: int, parts: Parts, reduction: str) -> Any:
    """Return what no rows give: the types, or the error for what does not fit."""
    named = dict(parts)
    for name, part in named.items():
        if _arguments.is_dask(part):
            shape = [0] * part.ndim
            shape[place] = shape_of(part)[place] or 1
            like = np.ones_like if name == "temperature" else np.zeros_like
            named[name] = like(part._meta, shape=shape)
    return _of_chunk(call, place, named, reduction, True)


# ---- chunks ----


def _losses_of_chunk(call: Callable[..., Any], place: int, **named: Array) -> Array:
    return np.expand_dims(_of_chunk(call, place, named, "none", False), place)


def _grad_of_chunk(call: Callable[..., Any], place: int, **named: Array) -> Any:
    return _of_chunk(call, place, named, "sum", True)[1]


def _of_chunk(
    call: Callable[..., Any],
    place: int,
    named: Parts,
    reduction: str,
    return_grad: bool,
) -> Any:
    rows = dict(named)
    chunks, number = rows.pop("chunks", None), rows.pop("number", None)
    if "labels" in rows:
        rows["labels"] = rows["labels"].squeeze(place)
    if "sample_weight" in rows:
        shape = _of_rows(named["scores"].shape, place)
        weights = np.broadcast_to(rows["sample_weight"], shape)
        rows["sample_weight"] = weights.squeeze(place)
    if "targets" in rows:
        rows["labels"] = rows.pop("targets")
    try:
        return call(**rows, reduction=reduction, return_grad=return_grad)
    except IndexError:
        block = np.unravel_index(number.item(), [len(cuts) for cuts in chunks])
        starts = [sum(cuts[:at]) for cuts, at in zip(chunks, block, strict=True)]
        del starts[place]
        raise _bad_label(place, starts, **rows) from None


def _of_rows(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    return (*shape[:place], 1, *shape[place + 1 :])


def _bad_label(
    place: int,
    starts: list[float],
    scores: Array,
    labels: Array,
    ignore_index: int | None,
    **others: Any,
) -> IndexError:
    """Return the error, which names the first row of a chunk whose label is wrong."""
    classes = scores.shape[place]
    is_bad = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        is_bad &= labels != ignore_index
    row = int(np.flatnonzero(is_bad)[0])
    return _arguments.bad_label(labels, row, classes, starts)


# What a mean is of: for each row what it counts.


def _hinge_counts(
    place: int, scores: Array, where: Array | None = None, **named: Any
) -> Array:
    """Return 1 for rows that count, else 0: if all scores are 0, their largest term."""
    shape = list(scores.shape)
    if shape[place] == 1:  # no negatives: none that could be masked out
        shape[place], where = 2, None
    if "sample_weight" in named:
        named["sample_weight"] = (named["sample_weight"] != 0).astype(float)
    named |= {"scores": np.zeros(shape), "where": where}
    call = partial(_cpu.hinge_loss, variant="max")
    return _losses_of_chunk(call, place, **named)


def _entropy_counts(
    place: int,
    scores: Array,
    ignore_index: int | None,
    labels: Array | None = None,
    sample_weight: Array | None = None,
    where: Array | None = None,
    **others: Any,
) -> Array:
    """Return the weights of rows that count, else 0."""
    counts = np.ones(_of_rows(scores.shape, place))
    if sample_weight is not None:
        counts *= sample_weight
    if where is not None:
        counts = np.where(where.any(place, keepdims=True), counts, 0)
    if labels is not None and ignore_index is not None:
        counts[labels == ignore_index] = 0
    return counts


def _mean(total: Array, count: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.where(count != 0, total / count, np.nan)


def _scaled(weights: Array, count: Array) -> Array:
    """Return the weights divided by their sum, for gradients: no NaN without a row."""
    with np.errstate(all="ignore"):
        return np.where((weights == 0) | (count == 0), 0.0, weights / count)
