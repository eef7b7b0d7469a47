"""Plain NumPy formulas for what the kernels leave out.

They serve complex and long double input of the softmax family (the gradients: long
double alone). Speed is not their aim; three decisions are:

A. The reduced axes are merged into one, last and contiguous ("rows"). The copy is ours
   to overwrite, and only along a contiguous axis does NumPy sum pairwise.
B. Single precision is computed in double and rounded once, at the end.
C. Terms at the maximum stay out of the sum and meet the others in log1p, so that a
   remainder below the rounding error of the leading term is not lost.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# exp(-600) is a normal number in every type computed in.
_FAR = 600.0


def softmax(
    x: Array, axes: tuple[int, ...], where: Array | None, *, temperature: float
) -> Array:
    """exp(x / temperature), divided by its sum over `axes`.

    Parameters
    ----------
    x : IN, inexact array of any layout
    axes : sorted, unique, non-negative; `()` makes each element its own set
    where : IN, bool, broadcastable to `x`; entries that are False get 0
    temperature : finite and positive

    Returns
    -------
    Array of the shape, dtype and memory order of `x`. A row with a NaN or +inf, or
    with nothing but -inf, is all NaN.
    """
    with np.errstate(all="ignore"):
        rows, excluded = _prepare(x, axes, temperature, where)
        terms = _shifted_exp(rows, _peak(rows.real))
        y = terms / terms.sum(axis=-1, keepdims=True)
        y[excluded] = 0
        return _restore(y, x, axes)


def log_softmax(
    x: Array, axes: tuple[int, ...], where: Array | None, *, temperature: float
) -> Array:
    """Logarithm of `softmax`, without its rounding and underflow.

    Parameters and result are those of `softmax`, but for these entries: -inf where
    `where` is False; beside a +inf, which itself becomes NaN, all others are -inf.
    """
    with np.errstate(all="ignore"):
        rows, excluded = _prepare(x, axes, temperature, where)
        # A complex shift, rather than a real one, puts the imaginary part of the
        # result on the same branch as SciPy's.
        rows -= _finite_or_zero(_peak(rows))
        log_abs, total = _log_total(rows, None)
        y = rows - _signed_log(log_abs, total)
        y[excluded] = -np.inf
        return _restore(y, x, axes)


def softmax_vjp(
    y: Array, axes: tuple[int, ...], dy: Array, *, temperature: float
) -> Array:
    """Gradient through softmax, y (dy - sum(y dy)) / temperature."""
    with np.errstate(all="ignore"):
        dot = np.sum(y * dy, axis=axes, keepdims=True)
        return np.asarray(y * (dy - dot) / temperature)


def log_softmax_vjp(
    y: Array, axes: tuple[int, ...], dy: Array, *, temperature: float
) -> Array:
    """Gradient through log_softmax, (dy - exp(y) sum(dy)) / temperature."""
    with np.errstate(all="ignore"):
        total = np.sum(dy, axis=axes, keepdims=True)
        return np.asarray((dy - np.exp(y) * total) / temperature)


def logsumexp(
    a: Array,
    axes: tuple[int, ...],
    b: Array | None,
    *,
    keepdims: bool,
    return_sign: bool,
    where: Array | None,
) -> Array | tuple[Array, Array]:
    """log(sum(b * exp(a))) over `axes`, and on request the sign of that sum.

    Parameters
    ----------
    a : IN, inexact array of any layout
    axes : sorted, unique, non-negative, counted on the broadcast of `a` and `b`
    b : IN, numeric array, broadcastable with `a`; a weight of 0 takes its term out of
        the sum, be it inf or NaN
    keepdims : whether reduced axes stay, with length 1
    return_sign : whether to return (log|sum|, sign of the sum)
    where : IN, bool, broadcastable to the broadcast of `a` and `b`; entries that are
        False are not in the sum

    Returns
    -------
    One array, 0-d if need be, of dtype ``np.result_type(a, b)``: NaN for a negative
    sum of reals, the principal logarithm for a complex one. With `return_sign`, a pair:
    log|sum| is real, the sign is -1, 0, 1 or NaN, for complex sums their phase factor.
    An empty sum has logarithm -inf and sign 0.
    """
    with np.errstate(all="ignore"):
        if b is None:
            dtype = a.dtype
        else:
            dtype = np.result_type(a, b)
            a, b = np.broadcast_arrays(a, b)
        rows = _rows(a, axes, _working(dtype))
        weights = None if b is None else _rows(b, axes, rows.dtype)
        if where is not None:
            excluded = ~_rows(np.broadcast_to(where, a.shape), axes, np.dtype(bool))
            rows[excluded] = -np.inf
            if weights is not None:
                weights[excluded] = 0
        log_abs, total = _log_total(rows, weights)
        shape = _reduced_shape(a.shape, axes, keepdims)
        if return_sign:
            log_dtype = np.finfo(dtype).dtype
            sign = np.sign(total).astype(dtype)
            return log_abs.astype(log_dtype).reshape(shape), sign.reshape(shape)
        return _signed_log(log_abs, total).astype(dtype).reshape(shape)


def _log_total(rows: Array, weights: Array | None) -> tuple[Array, Array]:
    """log|sum(weights * exp(rows))|, and the same sum scaled by a positive number.

    INOUT `rows`: entries that do not matter are overwritten with -inf.
    """
    if weights is not None:
        rows[weights == 0] = -np.inf
        _drop_cancelled(rows, weights)
    real = rows.real
    peak = _peak(real)
    # Beside +inf nothing finite counts; unshifted, it could overflow to -inf.
    rows[(real < peak) & (peak == np.inf)] = -np.inf
    shift = _finite_or_zero(peak)
    terms = _shifted_exp(rows, shift)
    if weights is not None:
        terms *= weights
    leading = real == peak
    # Zeros, not `where=`: NumPy sums what lies between masked entries one by one.
    lead = np.where(leading, terms, 0).sum(axis=-1, keepdims=True)
    rest = np.where(leading, 0, terms).sum(axis=-1, keepdims=True)
    total = lead + rest
    # log1p gains nothing on a rest of 0, and with an infinite lead would spoil it.
    small = (rest != 0) & (2 * np.abs(rest) < np.abs(lead))
    log_abs = np.where(
        small,
        np.log(np.abs(lead)) + _log_abs_1p(rest / lead),
        np.log(np.abs(total)),
    )
    return log_abs + shift, total


def _drop_cancelled(rows: Array, weights: Array) -> None:
    """Set leading terms that cancel to -inf where they would hide all others.

    Weights (1, -1, 1) on (1000, 1000, 0) leave exp(0), but relative to the maximum
    that is exp(-1000), which underflows. Each pass lowers the maximum by at least
    `_FAR`, so there are few. INOUT `rows`.
    """
    while True:
        real = rows.real
        peak = _peak(real)
        leading = real == peak
        phases = _shifted_exp(rows, peak)
        lead = (weights * phases).sum(axis=-1, keepdims=True, where=leading)
        gap = peak - _peak(np.where(leading, -np.inf, real))
        hiding = leading & (lead == 0) & (gap > _FAR) & (gap < np.inf)
        if not hiding.any():
            return
        rows[hiding] = -np.inf


def _shifted_exp(rows: Array, shift: Array) -> Array:
    """exp(rows - shift) for real `shift`, to the rounding error of exp itself.

    The error of the subtraction is exactly a number (Knuth's TwoSum); left alone it
    costs |rows - shift| / 2 ULP of the result. Infinities give NaN for it, not needed.
    """
    terms: Array = np.exp(rows - shift)
    real = rows.real
    difference = real - shift
    part = real - difference
    error = (real - (difference + part)) + (part - shift)
    np.multiply(terms, 1 + error, out=terms, where=np.isfinite(error))
    return terms


def _log_abs_1p(z: Array) -> Array:
    """log|1 + z| for |z| < 1/2, accurate near 0; NumPy's complex log1p is not."""
    if z.dtype.kind != "c":
        log: Array = np.log1p(z)
    else:
        log = np.log1p(z.real * (2 + z.real) + z.imag**2) / 2
    return log


def _signed_log(log_abs: Array, total: Array) -> Array:
    """Logarithm of a sum, from that of its magnitude and a positive multiple of it."""
    if total.dtype.kind != "c":
        return np.where(total < 0, np.nan, log_abs)
    # By parts: in inf + 1j * nan, the NaN would spread to the real part.
    log = np.empty_like(total)
    log.real = log_abs
    log.imag = np.angle(total)
    return log


def _peak(rows: Array) -> Array:
    """Maximum of each row, -inf if empty; complex numbers compare real part first."""
    peak: Array = np.max(rows, axis=-1, keepdims=True, initial=-np.inf)
    return peak


def _finite_or_zero(x: Array) -> Array:
    return np.where(np.isfinite(x), x, np.zeros_like(x))


def _prepare(
    x: Array, axes: tuple[int, ...], temperature: float, where: Array | None
) -> tuple[Array, Array]:
    """Rows of x / temperature with -inf at the excluded entries, and their mask."""
    rows = _rows(x, axes, x.dtype)
    # By parts, for complex division turns inf + 0j into inf + nan j.
    parts = rows.view(np.finfo(x.dtype).dtype)
    parts /= temperature
    rows = rows.astype(_working(x.dtype), copy=False)
    included = np.broadcast_to(True if where is None else where, x.shape)
    excluded = ~_rows(included, axes, np.dtype(bool))
    rows[excluded] = -np.inf
    return rows, excluded


def _working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type computed in: `dtype`, but at least double precision."""
    return np.result_type(dtype, np.float64)


def _axes_last(ndim: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if i not in axes) + axes


def _rows(x: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Fresh C-contiguous copy, [..., n], with `axes` merged into the last one."""
    moved = x.transpose(_axes_last(x.ndim, axes))
    n = math.prod(x.shape[i] for i in axes)
    outer = moved.shape[: x.ndim - len(axes)]
    return np.array(moved, dtype=dtype, order="C").reshape(*outer, n)


def _restore(rows: Array, like: Array, axes: tuple[int, ...]) -> Array:
    """Inverse of `_rows`: shape, dtype and memory order of `like`."""
    out = np.empty_like(like, subok=False)
    moved = out.transpose(_axes_last(like.ndim, axes))
    moved[...] = rows.reshape(moved.shape)
    return out


def _reduced_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[int, ...]:
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)
