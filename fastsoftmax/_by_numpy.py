"""The one door to NumPy: what the kernels cannot compute, and copies that they can.

Complex numbers and long double take the formulas of _formulas.py. Arrays whose reduced
axes do not join into one are copied: into the order of the result or, where they do not
join there either, with those axes last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _arguments, _formulas
from ._arguments import Array, Axis

# ---- formulas ----


def softmax_like(
    is_log: bool,
    x: Array,
    axis: Axis,
    temperature: ArrayLike,
    where: ArrayLike | None,
    out: Array | None,
    dtype: DTypeLike | None,
) -> Any:
    """Run softmax or log_softmax."""
    wanted = _arguments.result_dtype(x.dtype, dtype)
    mask = _arguments.as_mask(where, x.shape, "x")
    formula = _formulas.log_softmax if is_log else _formulas.softmax
    return _elementwise(formula, x, mask, axis, temperature, out, wanted)


def vjp(
    is_log: bool,
    y: Array,
    dy: Array,
    axis: Axis,
    temperature: ArrayLike,
    where: Array | None,
    out: Array | None,
    wanted: np.dtype[Any],
) -> Any:
    """Run softmax_vjp or log_softmax_vjp."""
    formula = _formulas.log_softmax_vjp if is_log else _formulas.softmax_vjp
    second = _arguments.cast(_arguments.broadcast(dy, y.shape, "dy", "y"), wanted)
    if where is None:
        return _elementwise(formula, y, second, axis, temperature, out, wanted)
    absent, y, second = masked(is_log, y, second, where, wanted)
    dx = np.asarray(_elementwise(formula, y, second, axis, temperature, None, wanted))
    dx[absent] = 0
    if out is not None:
        _arguments.check_out(out, dx.shape, wanted)
    return _delivered(dx, out)


def masked(
    is_log: bool, y: Array, dy: Array, where: Array, compute: np.dtype[Any]
) -> tuple[Array, Array, Array]:
    """Return what is masked out of a VJP, and copies of y and dy that lack it."""
    absent = ~_arguments.broadcast(where, y.shape, "where", "y")
    copies = []
    for array, name, none in ((y, "y", -np.inf if is_log else 0), (dy, "dy", 0)):
        whole = _arguments.broadcast(array, y.shape, name, "y")
        copy = _copied(np.empty_like(y, compute, "K", False), whole)
        np.copyto(copy, none, where=absent)
        copies.append(copy)
    return absent, copies[0], copies[1]


def _elementwise(
    formula: Callable[..., Array],
    x: Array,
    second: Array | None,
    axis: Axis,
    temperature: ArrayLike,
    out: Array | None,
    dtype: np.dtype[Any],
) -> Any:
    if out is not None:
        _arguments.check_out(out, x.shape, dtype)
    shape, axes = x.shape or (1,), _arguments.as_axes(axis, x.ndim)
    divisor: Any
    if _arguments.is_one_number(temperature):
        divisor = _arguments.as_temperature(temperature, dtype)
    else:
        divisor = _arguments.as_temperatures(temperature, dtype, x.shape, axes)
    given = x.reshape(shape)
    mate = None if second is None else second.reshape(shape)
    is_gradient = formula in (_formulas.softmax_vjp, _formulas.log_softmax_vjp)
    if not is_gradient:
        given = quotients(given, axes, mate, divisor, dtype)
    y = formula(_arguments.cast(given, dtype), axes, mate).reshape(x.shape)
    if is_gradient:
        y = divided(y, divisor, None, dtype)
    return _delivered(y, out)


def logsumexp(
    a: ArrayLike,
    axis: Axis,
    b: ArrayLike | None,
    keepdims: bool,
    return_sign: bool,
    where: ArrayLike | None,
    out: Array | None,
    dtype: DTypeLike | None,
) -> Any:
    """Run logsumexp, with weights and sign or without.

    Weights broadcast against a, in both directions; `axis` counts in what results.
    """
    exponents = _arguments.as_array(a, "a")
    weights = None
    if b is not None:
        exponents, weights, dtype = _weighted(a, exponents, b, dtype)
    wanted = _arguments.result_dtype(exponents.dtype, dtype)
    if weights is not None:
        if weights.dtype.kind == "c" and wanted.kind != "c":
            raise TypeError(f"dtype {wanted} cannot hold the complex weights b")
        weights = _arguments.cast(weights, wanted)
    shape = exponents.shape or (1,)
    mask = _arguments.as_mask(where, shape, "a")
    result = _formulas.logsumexp(
        _arguments.cast(exponents, wanted).reshape(shape),
        _arguments.as_axes(axis, exponents.ndim),
        None if weights is None else np.broadcast_to(weights, shape),
        keepdims=bool(keepdims),
        return_sign=bool(return_sign),
        where=mask,
    )
    log, sign = result if isinstance(result, tuple) else (result, None)
    keeps_dtype = sign is None or wanted.kind != "c"
    log = _arguments.cast(log, wanted if keeps_dtype else np.finfo(wanted).dtype)
    if out is not None:
        _arguments.check_out(out, log.shape, log.dtype)
    log = _delivered(log, out)
    if sign is None:
        return log
    return log, _delivered(_arguments.cast(sign, wanted), None)


def sign_of_positive(log: Any) -> Any:
    """Return the sign of a sum that is not negative, given its logarithm."""
    return np.where(np.isnan(log), log, np.greater(log, -np.inf).astype(log.dtype))[()]


def _weighted(
    a: ArrayLike, exponents: Array, b: ArrayLike, dtype: DTypeLike | None
) -> tuple[Array, Array, DTypeLike]:
    """Return a, broadcast against b; b; and the type computed in."""
    weights = _arguments.as_array(b, "b")
    shape = _arguments.broadcast_shape(exponents.shape, weights.shape)
    if dtype is None:
        promoted = _arguments.promote((a, exponents), (b, weights))
        dtype = np.float64 if promoted.kind in "biu" else promoted
    return np.broadcast_to(exponents, shape), weights, dtype


def _delivered(y: Array, out: Array | None) -> Any:
    if out is not None:
        out[...] = y
        return out
    return y[()] if y.ndim == 0 else y


# ---- temperatures ----


def quotients(
    x: Array,
    axes: tuple[int, ...],
    where: Array | None,
    temperature: Any,
    compute: np.dtype[Any],
) -> Array:
    """Return x / temperature in the type computed in, of which softmax is to be taken.

    Of a set where that overflows, (x - max) / temperature, which has the same softmax;
    beside +inf and NaN elements are finite as before, which is all that matters there.
    """
    with np.errstate(all="ignore"):
        y = _divided(x.astype(compute), temperature)
        overflows = np.isinf(y) & np.isfinite(x)
        if where is not None:
            overflows &= where
        sets = overflows.any(axis=axes, keepdims=True)
        if sets.any():
            wide = x if compute.kind == x.dtype.kind == "f" else x.astype(compute)
            wide = wide.astype(np.result_type(wide, compute), copy=False)
            kept = True if where is None else where
            largest = wide.real.max(axes, keepdims=True, initial=-np.inf, where=kept)
            lowered = _divided(wide - largest, temperature)
            sets &= largest < np.inf
            np.copyto(y, lowered, "same_kind", where=sets)
            most = np.copysign(np.finfo(compute).max, x.real)
            np.copyto(y, most, "same_kind", where=overflows & ~sets)
    return y


def _divided(x: Array, temperature: Any) -> Array:
    """Divide in place, complex numbers by parts: inf + 0j stays so."""
    x.real /= temperature
    if x.dtype.kind == "c":
        x.imag /= temperature
    return x


def divided(
    x: Array, temperature: Array, out: Array | None, dtype: np.dtype[Any]
) -> Array:
    """Return x / temperature as dtype, in `out` if there is one; x is overwritten."""
    with np.errstate(all="ignore"):
        x /= temperature
    if out is None:
        return _arguments.cast(x, dtype)
    return _copied(out, x)


def overflows(x: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether a finite element of x is infinite in another type."""
    return bool(np.any(np.isinf(_arguments.cast(x, dtype)) & np.isfinite(x)))


# ---- copies ----


def _copied(to: Array, array: Array) -> Array:
    with np.errstate(all="ignore"):
        np.copyto(to, array, casting="unsafe")
    return to


def ordered_as(like: Array, array: Array) -> Array:
    """Copy an array, broadcast, into memory ordered as that of another one."""
    return _copied(np.empty_like(like, array.dtype, "K", False), array)


def computed_in(result: Array, x: Array, compute: np.dtype[Any]) -> Array:
    """Copy x to the result, or where that has another type into memory ordered so."""
    if result.dtype == compute:
        return _copied(result, x)
    return _copied(np.empty_like(result, compute, "K", False), x)


def axes_last(
    x: Array, second: Array | None, axes: tuple[int, ...], compute: np.dtype[Any]
) -> tuple[Array, Array | None]:
    """Copy x and what goes with it with the reduced axes last."""
    if second is not None:
        second = _moved(np.broadcast_to(second, x.shape), axes, second.dtype)
    return _moved(x, axes, compute), second


def _moved(array: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    moved = np.moveaxis(array, axes, range(-len(axes), 0))
    return _copied(np.empty(moved.shape, dtype), moved)
