"""Plain NumPy formulas for what the kernels leave out.

They serve complex and long double input of the softmax family (the gradients: long
double alone). Four decisions are:

A. Sets are worked on block by block, so that what comes between input and result stays
   in the caches. The reduced axes are merged into one, last and contiguous ("rows"):
   the copy is ours to overwrite, and only along a contiguous axis does NumPy sum
   pairwise.
B. Single precision is computed in double and rounded once, at the end.
C. Nothing is subtracted where exp itself is in range: that spares a rounding, and four
   tenths of the time. Elsewhere the maximum is, and what is lost is made good.
D. Terms at the maximum stay out of the sum and meet the others in log1p, so that a
   remainder below the rounding error of the leading term is not lost.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# exp(-600) is a normal number in every type computed in, and exp(600) far from the end.
_FAR = 600.0

# Elements of a block: 256 KiB of long double or complex128.
_BLOCK = 16384


def softmax(x: Array, axes: tuple[int, ...], where: Array | None) -> Array:
    """exp(x), divided by its sum over `axes`.

    Parameters
    ----------
    x : IN, inexact array of any layout
    axes : sorted, unique, non-negative; `()` makes each element its own set
    where : IN, bool, broadcastable to `x`; entries that are False get 0

    Returns
    -------
    Array of the shape, dtype and memory order of `x`. A row with a NaN or +inf, or
    with nothing but -inf, is all NaN.
    """
    y = np.empty_like(x, subok=False)
    with np.errstate(all="ignore"):
        for block, to, included in _blocks(axes, x, y, where):
            rows, excluded = _prepare(block, axes, included)
            terms = _shifted_exp(rows, _shift(rows.real, _max_of(rows.real)))
            terms /= terms.sum(axis=-1, keepdims=True)
            _restore(terms, excluded, 0, to, axes)
    return y


def log_softmax(x: Array, axes: tuple[int, ...], where: Array | None) -> Array:
    """Logarithm of `softmax`, without its rounding and underflow.

    Parameters and result are those of `softmax`, but for these entries: -inf where
    `where` is False; beside a +inf, which itself becomes NaN, all others are -inf.
    """
    y = np.empty_like(x, subok=False)
    with np.errstate(all="ignore"):
        for block, to, included in _blocks(axes, x, y, where):
            rows, excluded = _prepare(block, axes, included)
            # A complex shift, rather than a real one, puts the imaginary part of the
            # result on the same branch as SciPy's.
            row_max = _max_of(rows)
            top = _finite_or_zero(row_max)
            rows -= top
            rows -= _signed_log(*_log_of_sum(rows, None, row_max.real - top.real))
            _restore(rows, excluded, -np.inf, to, axes)
    return y


def softmax_vjp(y: Array, axes: tuple[int, ...], dy: Array) -> Array:
    """Gradient through softmax, y (dy - sum(y dy))."""
    with np.errstate(all="ignore"):
        dot = np.sum(y * dy, axis=axes, keepdims=True)
        return np.asarray(y * (dy - dot))


def log_softmax_vjp(y: Array, axes: tuple[int, ...], dy: Array) -> Array:
    """Gradient through log_softmax, dy - exp(y) sum(dy)."""
    with np.errstate(all="ignore"):
        whole = np.sum(dy, axis=axes, keepdims=True)
        return np.asarray(dy - np.exp(y) * whole)


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
    if b is None:
        dtype = a.dtype
    else:
        dtype = np.result_type(a, b)
        a, b = np.broadcast_arrays(a, b)
    shape = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
    log_dtype = np.finfo(dtype).dtype if return_sign else dtype
    logs, signs = np.empty(shape, log_dtype), np.empty(shape, dtype)
    with np.errstate(all="ignore"):
        for block, to, to_sign, b_block, included in _blocks(
            axes, a, logs, signs, b, where
        ):
            rows = _rows(block, axes, _working(dtype))
            weights = None if b_block is None else _rows(b_block, axes, rows.dtype)
            excluded = _excluded(block, axes, included)
            if excluded is not None:
                rows[excluded] = -np.inf
                if weights is not None:
                    weights[excluded] = 0
            log, row_sum = _log_of_sum(rows, weights)
            if return_sign:
                to_sign[...] = np.sign(row_sum).reshape(to.shape)
            else:
                log = _signed_log(log, row_sum)
            to[...] = log.reshape(to.shape)
    if not keepdims:
        kept = tuple(n for i, n in enumerate(shape) if i not in axes)
        logs, signs = logs.reshape(kept), signs.reshape(kept)
    return (logs, signs) if return_sign else logs


def _log_of_sum(
    rows: Array, weights: Array | None, row_max: Array | None = None
) -> tuple[Array, Array]:
    """log|sum(weights * exp(rows))|, and the same sum scaled by a positive number.

    INOUT `rows`: entries that do not matter are overwritten with -inf.
    IN `row_max`: the largest real parts, if known.
    """
    if weights is not None:
        rows[weights == 0] = -np.inf
    real = rows.real
    row_max = _max_of(real) if row_max is None else row_max
    leading = real == row_max
    top = _finite_or_zero(row_max)
    lead = _lead(rows, leading, row_max, top, weights)
    if weights is not None:
        hiding = _hiding(real, leading, row_max, lead)
        if hiding is not None:
            rows[hiding] = -np.inf
            return _log_of_sum(rows, weights)
    if (row_max == np.inf).any():  # nothing finite counts; unshifted, it could overflow
        rows[(real < row_max) & (row_max == np.inf)] = -np.inf
    shift = _shift(real, top)
    terms = _shifted_exp(rows, shift)
    if weights is not None:
        terms *= weights
    terms[leading] = 0
    rest = terms.sum(axis=-1, keepdims=True) * np.exp(shift - top)
    row_sum, beyond_1 = lead + rest, (lead - 1) + rest
    if weights is None and row_sum.dtype.kind != "c":
        log_abs: Array = np.log1p(beyond_1)
    else:
        log_abs = np.where(
            np.abs(beyond_1) < 0.5, _log_abs_1p(beyond_1), np.log(np.abs(row_sum))
        )
    return log_abs + top, row_sum


def _lead(
    rows: Array, leading: Array, row_max: Array, top: Array, weights: Array | None
) -> Array:
    """Sum of the terms at the maximum, over exp(top): of their phases, if complex."""
    row_sum: Array
    if weights is None and rows.dtype.kind != "c":
        count = np.count_nonzero(leading, axis=-1, keepdims=True)
        row_sum = count * np.exp(row_max - top)
        return row_sum
    terms = np.zeros_like(rows)
    terms[leading] = np.exp(rows[leading] - np.broadcast_to(top, rows.shape)[leading])
    if weights is not None:
        terms[leading] *= weights[leading]
    row_sum = terms.sum(axis=-1, keepdims=True)
    return row_sum


def _hiding(real: Array, leading: Array, row_max: Array, lead: Array) -> Array | None:
    """Tell which leading terms cancel, and would hide all others; None if none do.

    Weights (1, -1, 1) on (1000, 1000, 0) leave exp(0), but relative to the maximum
    that is exp(-1000), which underflows. Without them the maximum is lower by at least
    `_FAR`, so that this happens a few times at most.
    """
    cancel = (lead == 0) & np.isfinite(row_max)
    if not cancel.any():
        return None
    gap = row_max - _max_of(np.where(leading, -np.inf, real))
    hiding: Array = leading & cancel & (gap > _FAR) & (gap < np.inf)
    return hiding if hiding.any() else None


def _shift(real: Array, row_max: Array) -> Array:
    """Return what to subtract before exp: 0 if neither terms nor quotients need more.

    Terms are at least the quotients where the maximum is 0 or more.
    """
    needless = (row_max >= 0) & (row_max < _FAR)
    if not needless.all():
        least = np.min(real, axis=-1, keepdims=True, initial=np.inf)
        needless |= (row_max < 0) & (least > -_FAR)
    return np.where(needless, 0, row_max)


def _shifted_exp(rows: Array, shift: Array) -> Array:
    """exp(rows - shift) for real `shift`, to the rounding error of exp itself.

    The error of the subtraction is exactly a number (Knuth's TwoSum); left alone it
    costs |rows - shift| / 2 ULP of the result. Infinities give NaN for it, not needed.
    """
    if not shift.any():
        unshifted: Array = np.exp(rows)
        return unshifted
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


def _signed_log(log_abs: Array, row_sum: Array) -> Array:
    """Logarithm of a sum, from that of its magnitude and a positive multiple of it."""
    if row_sum.dtype.kind != "c":
        return np.where(row_sum < 0, np.nan, log_abs)
    # By parts: in inf + 1j * nan, the NaN would spread to the real part.
    log = np.empty_like(row_sum)
    log.real = log_abs
    log.imag = np.angle(row_sum)
    return log


def _max_of(rows: Array) -> Array:
    """Maximum of each row, -inf if empty; complex numbers compare real part first."""
    row_max: Array = np.max(rows, axis=-1, keepdims=True, initial=-np.inf)
    return row_max


def _finite_or_zero(x: Array) -> Array:
    return np.where(np.isfinite(x), x, np.zeros_like(x))


# ---- blocks ----


def _blocks(
    axes: tuple[int, ...], x: Array, *others: Array | None
) -> Iterator[tuple[Any, ...]]:
    """Cut arrays that broadcast to x into blocks of whole sets, along one kept axis."""
    arrays = [
        a if a is None or a.ndim == x.ndim else np.broadcast_to(a, x.shape)
        for a in (x, *others)
    ]
    kept = [d for d in range(x.ndim) if d not in axes]
    if x.size <= _BLOCK or not kept:
        yield tuple(arrays)
        return
    longest = max(kept, key=x.shape.__getitem__)
    step = max(1, _BLOCK * x.shape[longest] // x.size)
    for first in range(0, x.shape[longest], step):
        at = (slice(None),) * longest + (slice(first, first + step),)
        yield tuple(a if a is None or a.shape[longest] == 1 else a[at] for a in arrays)


def _prepare(
    x: Array, axes: tuple[int, ...], where: Array | None
) -> tuple[Array, Array | None]:
    """Rows of x with -inf at the excluded entries, and their mask."""
    rows = _rows(x, axes, _working(x.dtype))
    excluded = _excluded(x, axes, where)
    if excluded is not None:
        rows[excluded] = -np.inf
    return rows, excluded


def _excluded(x: Array, axes: tuple[int, ...], where: Array | None) -> Array | None:
    if where is None:
        return None
    return ~_rows(np.broadcast_to(where, x.shape), axes, np.dtype(bool))


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


def _restore(
    rows: Array,
    excluded: Array | None,
    outside: float,
    to: Array,
    axes: tuple[int, ...],
) -> None:
    """Inverse of `_rows`, with its own number where entries are excluded. OUT `to`."""
    if excluded is not None:
        rows[excluded] = outside
    moved = to.transpose(_axes_last(to.ndim, axes))
    moved[...] = rows.reshape(moved.shape)
