"""Dask arrays in, lazy Dask arrays out: each function over chunks.

Where the chunks hold whole sets, the functions for NumPy run on each. Where an axis is
split, every chunk gives the state of its part of a set: its largest element, and the
logarithm of the sum of exp(x - largest), in float64. States are joined as a tree; then
each chunk is finished with its set's state. So a chunk is read twice, and nothing but
states, of one entry a set, moves between workers.

A float32 element less the largest is exact in float64, or so far from it that its term
vanishes: results keep their bounds. Of float64 elements the difference is rounded;
docs/dask.md has how far results were off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike

from .. import _arguments, _cpu
from .._arguments import Axis
from . import chunks
from .arrays import (
    beside,
    blockwise,
    check_real,
    compute_of,
    holds_sets,
    meta,
    options,
    refuse_out,
    shape_of,
    sums,
)
from .chunks import STATE
from .losses import cross_entropy, hinge_loss, pair_hinge_loss

__all__ = [
    "cross_entropy",
    "hinge_loss",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "pair_hinge_loss",
    "softmax",
    "softmax_vjp",
]


def logsumexp(
    a: Any,
    b: Any,
    where: Any,
    out: Any,
    axis: Axis,
    keepdims: bool,
    return_sign: bool,
    dtype: DTypeLike | None,
) -> Any:
    """Run logsumexp."""
    refuse_out(out)
    a = da.asarray(a)
    probe = _cpu.logsumexp(a._meta, axis, meta(b), where=meta(where), dtype=dtype)
    wanted = probe.dtype
    check_real(wanted, a)
    parts = {"x": a}
    if b is not None:
        b = da.asarray(b)
        if None in shape_of(a) + shape_of(b):
            parts["b"] = beside(b, a, "b", "a")
        else:
            _arguments.broadcast_shape(a.shape, b.shape)
            parts["x"], parts["b"] = da.broadcast_arrays(a, b)
    whole = parts["x"]
    if where is not None:
        parts["where"] = beside(where, whole, "where", "a")
    axes = _arguments.as_axes(axis, whole.ndim) if whole.ndim else ()
    if holds_sets(whole, axes):
        of_chunk = partial(chunks.state_of_sets, axes, wanted)
        state = blockwise(of_chunk, parts, STATE, axes)
    else:
        state = _state(
            parts, axes, compute_of(wanted) if b is None else np.dtype(float)
        )
    results = [
        blockwise(partial(chunks.log, return_sign, wanted), {"state": state}, wanted)
    ]
    if return_sign:
        results.append(state["sign"].astype(wanted))
    if not keepdims:
        results = [result.squeeze(axes) for result in results]
    return tuple(results) if return_sign else results[0]


def _softmax_like(
    function: Callable[..., Any],
    x: Any,
    where: Any,
    out: Any,
    axis: Axis,
    temperature: Any,
    dtype: DTypeLike | None,
) -> Any:
    refuse_out(out)
    x = da.asarray(x)
    wanted = function(x._meta, axis, where=meta(where), dtype=dtype).dtype
    axes = _arguments.as_axes(axis, x.ndim)
    parts = {"x": x} | options(x, axes, wanted, temperature, where, "x")
    if holds_sets(x, axes):
        whole = partial(function, axis=axes, dtype=wanted)
        return blockwise(whole, parts, wanted)
    check_real(wanted, x)
    parts["state"] = _state(parts, axes, compute_of(wanted))
    del parts["temperature"]  # which the state holds
    is_log = function is _cpu.log_softmax
    finish = partial(chunks.finish, is_log, compute_of(wanted), wanted)
    return blockwise(finish, parts, wanted)


def _vjp(
    function: Callable[..., Any],
    y: Any,
    dy: Any,
    where: Any,
    out: Any,
    axis: Axis,
    temperature: Any,
    dtype: DTypeLike | None,
) -> Any:
    refuse_out(out)
    y = da.asarray(y)
    probe = function(y._meta, meta(dy), axis, where=meta(where), dtype=dtype)
    wanted, axes = probe.dtype, _arguments.as_axes(axis, y.ndim)
    parts = {"y": y, "dy": beside(dy, y, "dy", "y")}
    parts |= options(y, axes, wanted, temperature, where, "y")
    if holds_sets(y, axes):
        return blockwise(partial(function, axis=axes, dtype=wanted), parts, wanted)
    check_real(wanted, y)
    is_log = function is _cpu.log_softmax_vjp
    dotted: dict[str, Any] = {
        name: parts[name] for name in ("y", "dy", "where") if name in parts
    }
    dots = blockwise(partial(chunks.dot, is_log, axes), dotted, np.dtype(float), axes)
    parts["dot"] = sums(dots, axes)
    return blockwise(partial(chunks.finish_vjp, is_log, wanted), parts, wanted)


def _state(parts: dict[str, Any], axes: tuple[int, ...], compute: np.dtype[Any]) -> Any:
    """Return each set's state, the reduced axes of length 1."""
    of_chunk = partial(chunks.state_of_chunk, axes, compute)
    states = blockwise(of_chunk, parts, STATE, axes)
    join = partial(chunks.joined, compute)
    return da.reduction(
        states,
        chunks.as_it_is,
        join,
        combine=join,
        axis=axes,
        keepdims=True,
        dtype=STATE,
        meta=states._meta,
    )


softmax = partial(_softmax_like, _cpu.softmax)
log_softmax = partial(_softmax_like, _cpu.log_softmax)
softmax_vjp = partial(_vjp, _cpu.softmax_vjp)
log_softmax_vjp = partial(_vjp, _cpu.log_softmax_vjp)
