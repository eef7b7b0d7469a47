"""Losses of rows: each chunk holds the classes of its rows, and the rows are cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from .. import _arguments, _cpu
from .._arguments import Array
from .arrays import beside, blockwise, options, sums

Parts = dict[str, Any]


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
    hinge = partial(_cpu.hinge_loss, ignore_index=ignore_index)
    call = partial(hinge, margin=margin, p=p, variant=variant)
    parts = _parts(scores, labels, -1, sample_weight, where)
    # A largest term of 1 in every row that counts.
    ones = partial(hinge, variant="max")
    flags = parts | {"scores": da.zeros_like(parts["scores"], dtype=float)}
    if sample_weight is not None:
        flags["sample_weight"] = (parts["sample_weight"] != 0).astype(float)
    place = parts["scores"].ndim - 1
    counted = _losses_of(ones, place, flags, np.dtype(float))
    return _reduced(call, place, parts, counted, reduction, return_grad)


def pair_hinge_loss(*arguments: Any) -> Any:
    """Refuse, and say what to call."""
    raise TypeError(
        "pair_hinge_loss takes no Dask arrays: pass hinge_loss "
        "da.concatenate([pos[:, None], neg], axis=-1).rechunk({-1: -1})"
    )


def cross_entropy(
    scores: Any,
    labels: Any,
    axis: int,
    temperature: Any,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    sample_weight: Any,
    where: Any,
    return_grad: bool,
) -> Any:
    """Run cross_entropy."""
    parts = _parts(scores, labels, axis, sample_weight, where)
    scores = parts["scores"]
    place = _arguments.as_one_axis(axis, scores.ndim)
    wanted = _arguments.result_dtypes(scores.dtype)[0]
    parts |= options(scores, (place,), wanted, temperature, None, "scores")
    counted = _weights(place, parts)
    if where is not None:
        counted = da.where(parts["where"].any(axis=place, keepdims=True), counted, 0)
    if ignore_index is not None and "labels" in parts:
        counted = da.where(parts["labels"] != ignore_index, counted, 0)
    call = partial(
        _cpu.cross_entropy,
        axis=place,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return _reduced(call, place, parts, counted, reduction, return_grad)


def _parts(
    scores: Any, labels: Any, axis: int, sample_weight: Any, where: Any
) -> Parts:
    """Return arrays cut as scores are, of length 1 along `axis` where it has rows'."""
    scores = da.asarray(scores)
    _arguments.as_scores(scores._meta, "scores")
    place = _arguments.as_one_axis(axis, scores.ndim)
    if scores.numblocks[place] != 1:
        raise ValueError(
            f"classes must be in one chunk: pass scores.rechunk({{{axis}: -1}})"
        )
    rows = scores.shape[:place] + scores.shape[place + 1 :]
    parts = {"scores": scores}
    if labels is not None:
        labels = da.asarray(labels)
        if labels.shape == scores.shape:
            parts["targets"] = beside(labels, scores, "labels", "scores")
        else:
            _arguments.check_labels(labels, (*rows, scores.shape[place]))
            if labels.dtype.kind not in "iu":
                raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
            parts["labels"] = _one_each(labels, scores, place, "labels")
    if sample_weight is not None:
        weights = da.asarray(sample_weight)
        _arguments.check_weights(weights, rows)
        parts["sample_weight"] = _one_each(weights, scores, place, "sample_weight")
    if where is not None:
        parts["where"] = beside(where, scores, "where", "scores")
    return parts


def _one_each(array: Any, scores: Any, place: int, name: str) -> Any:
    """Return one element for each row, or for all, with the classes' axis back."""
    if array.ndim:
        array = da.expand_dims(array, place)
    return beside(array, scores, name, "scores", (place,))


def _weights(place: int, parts: Parts) -> Any:
    if "sample_weight" in parts:
        return parts["sample_weight"].astype(float)
    return beside(1.0, parts["scores"], "sample_weight", "scores", (place,))


def _reduced(
    call: Callable[..., Any],
    place: int,
    parts: Parts,
    counted: Any,
    reduction: str,
    return_grad: bool,
) -> Any:
    """Return the loss, or a pair with the gradient; `counted` is what a mean is of."""
    probe = _tried(call, place, parts, reduction)
    grad_type, loss_type = probe[1].dtype, probe[0].dtype
    losses = _losses_of(call, place, parts, loss_type)
    every = tuple(range(losses.ndim))
    count = None
    if reduction == "none":
        loss = losses.squeeze(place)
    else:
        loss = sums(losses, every)
        if reduction == "mean":
            count = sums(counted, every)
            loss = da.map_blocks(_divided, loss, count, dtype=float)
        loss = loss.astype(loss_type).squeeze()
    if not return_grad:
        return loss
    if count is not None:
        scaled = da.map_blocks(
            _divided, _weights(place, parts), count.squeeze(), dtype=float
        )
        parts = parts | {"sample_weight": scaled}
    return loss, blockwise(partial(_grad_of_chunk, call, place), parts, grad_type)


def _tried(call: Callable[..., Any], place: int, parts: Parts, reduction: str) -> Any:
    """Return what no rows give: the types, or the error for what does not fit."""
    named = {}
    for name, part in parts.items():
        if _arguments.is_dask(part):
            one_each = name in ("labels", "sample_weight")
            kept = 1 if one_each or name == "temperature" else part.shape[place]
            shape = [kept if d == place else 0 for d in range(part.ndim)]
            named[name] = np.zeros_like(part._meta, shape=shape)
        else:
            named[name] = part
    return _of_chunk(call, place, named, reduction, True)


def _losses_of(
    call: Callable[..., Any], place: int, parts: Parts, dtype: np.dtype[Any]
) -> Any:
    """Return the losses, one a row, with the classes' axis of length 1."""
    of_chunk = partial(_losses_of_chunk, call, place)
    return blockwise(of_chunk, parts, dtype, (place,))


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
    rows = {
        name: np.squeeze(part, place) if name in ("labels", "sample_weight") else part
        for name, part in named.items()
        if name != "targets"
    }
    if "targets" in named:
        rows["labels"] = named["targets"]
    return call(**rows, reduction=reduction, return_grad=return_grad)


def _divided(part: Array, whole: Array) -> Array:
    """Return the quotient; a weight of 0 stays 0."""
    with np.errstate(all="ignore"):
        return np.where((part == 0) & (whole != 0), part, part / whole)
