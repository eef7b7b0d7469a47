"""What is done with a chunk: NumPy arrays in and out, nothing of Dask."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _arguments, _cpu
from .._arguments import Array

# Of a part of a set: its largest element; the logarithm of the absolute value, and the
# sign, of the sum of exp((x - largest) / temperature); the set's temperature.
FIELDS = ("largest", "log", "sign", "temperature")
STATE = np.dtype([(name, float) for name in FIELDS])


def as_it_is(states: Array, axis: Any, keepdims: bool) -> Array:
    """Return the states: they are joined next."""
    return states


def state_of_sets(
    axes: tuple[int, ...],
    dtype: np.dtype[Any],
    x: Array,
    b: Array | None = None,
    where: Array | None = None,
) -> Array:
    """Return the states of whole sets as the kernels know them: largest is 0."""
    log, sign = _cpu.logsumexp(
        x, axes, b, keepdims=True, return_sign=True, where=where, dtype=dtype
    )
    return _packed(np.zeros(np.shape(log)), log, sign, 1.0)


def state_of_chunk(
    axes: tuple[int, ...],
    compute: np.dtype[Any],
    x: Array,
    b: Array | None = None,
    where: Array | None = None,
    temperature: Any = 1.0,
) -> Array:
    """Return the states of parts of sets."""
    counts: Any = True if where is None else where
    if b is not None:
        counts = counts & (b != 0)
    x = x.astype(float) if x.dtype.kind in "biu" else x
    largest = x.max(axes, keepdims=True, initial=-np.inf, where=counts).astype(float)
    below = _below(x, largest, temperature, compute)
    log, sign = _cpu.logsumexp(
        below, axes, b, keepdims=True, return_sign=True, where=where
    )
    return _packed(largest, log, sign, temperature)


def _packed(largest: Array, log: Array, sign: Array, temperature: Any) -> Array:
    state = np.empty(largest.shape, STATE)
    for name, value in zip(FIELDS, (largest, log, sign, temperature), strict=True):
        state[name] = value
    return state


def joined(
    compute: np.dtype[Any], states: Array, axis: Any, keepdims: bool = True
) -> Array:
    """Join the states along `axis`."""
    axes = _arguments.as_axes(axis, states.ndim)
    largest = states["largest"].max(axes, keepdims=True)
    temperature = states["temperature"].max(axes, keepdims=True)
    logs = _below(states["largest"], largest, temperature, compute) + states["log"]
    log, sign = _cpu.logsumexp(
        logs, axes, states["sign"], keepdims=True, return_sign=True
    )
    return _packed(largest, log, sign, temperature)


def _below(x: Array, largest: Array, temperature: Any, compute: np.dtype[Any]) -> Array:
    """Return x / temperature less that of the largest element, in float64.

    Quotients are rounded to `compute`, as the kernels do; where that overflows, it is
    the difference that is divided. Where the largest is infinite, nothing is taken off.
    """
    peak: Array = np.where(np.isfinite(largest), largest, 0)
    difference: Array
    with np.errstate(all="ignore"):
        divisor = np.asarray(temperature, compute)
        quotient, top = x.astype(compute, copy=False), peak.astype(compute)
        if np.any(divisor != 1):
            quotient, top = quotient / divisor, top / divisor
        difference = np.subtract(quotient, top, dtype=float)
        overflows = ~np.isfinite(top) | (np.isinf(quotient) & np.isfinite(x))
        if overflows.any():
            exact = np.subtract(x, peak, dtype=float) / divisor
            np.copyto(difference, exact, where=overflows)
    return difference


def finish(
    is_log: bool,
    compute: np.dtype[Any],
    dtype: np.dtype[Any],
    x: Array,
    state: Array,
    where: Array | None = None,
) -> Array:
    """Return the results of a chunk."""
    y = _below(x, state["largest"], state["temperature"], compute)
    with np.errstate(all="ignore"):
        y -= state["log"]
        if not is_log:
            np.exp(y, out=y)
            # Beside +inf a term is no 0, but has no value.
            np.copyto(y, np.nan, where=state["largest"] == np.inf)
        if where is not None:
            np.copyto(y, -np.inf if is_log else 0, where=~where)
        return y.astype(dtype, copy=False)


def log(return_sign: bool, dtype: np.dtype[Any], state: Array) -> Array:
    """Return the logarithm of a sum; of a negative one, with its sign alone."""
    with np.errstate(all="ignore"):
        total: Array = state["largest"] + state["log"]
        if not return_sign:
            total = np.where(state["sign"] < 0, np.nan, total)
        return total.astype(dtype)


# ---- gradients ----


def dot(
    is_log: bool,
    axes: tuple[int, ...],
    y: Array,
    dy: Array,
    where: Array | None = None,
) -> Array:
    """Return what a VJP sums, of a chunk: y * dy, or dy."""
    counts: Any = True if where is None else where
    with np.errstate(all="ignore"):
        terms = np.broadcast_to(dy.astype(float), y.shape)
        if not is_log:
            terms = terms * y
        return np.asarray(terms.sum(axes, keepdims=True, where=counts))


def finish_vjp(
    is_log: bool,
    dtype: np.dtype[Any],
    y: Array,
    dy: Array,
    dot: Array,
    temperature: Any,
    where: Array | None = None,
) -> Array:
    """Return the gradients of a chunk."""
    with np.errstate(all="ignore"):
        dx = y.astype(float)
        if is_log:
            dx = dy - np.exp(dx, out=dx) * dot
        else:
            dx *= dy - dot
        dx /= temperature
        if where is not None:
            np.copyto(dx, 0, where=~where)
        return dx.astype(dtype)
