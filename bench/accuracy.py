"""How far results are off, in units in the last place (ULP) of the exact value."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Case
from .data import Array, Data
from .peers import Library, UnsupportedError

OPS = ("softmax", "log_softmax", "logsumexp")
WIDE = np.longdouble
# Only then can long double judge float64.
JUDGES_FLOAT64 = np.finfo(WIDE).nmant >= 63
# Short rows, long rows, and columns, whose sums some libraries add up one by one.
SHAPES = (((2000, 10), -1), ((50, 1000), -1), ((1, 50000), -1), ((20000, 2), 0))


def inputs(kind: str, shape: tuple[int, ...], axis: int, dtype: str) -> Array:
    """Return logits: uniform in [-30, 30], normal times 5, or one 40 above those."""
    rng = np.random.default_rng(len(kind) + shape[0])
    if kind == "uniform":
        return rng.uniform(-30, 30, shape).astype(dtype)
    x = 5 * rng.standard_normal(shape)
    if kind == "peaked":
        at = rng.integers(0, shape[axis], np.delete(shape, axis))
        at = np.expand_dims(at, axis)
        top = x.max(axis=axis, keepdims=True)
        np.put_along_axis(x, at, top + 40, axis)
    return x.astype(dtype)


KINDS = ("uniform", "normal", "peaked")


def exact(op: str, x: Array, axis: int) -> Array:
    """Result in long double, good to some 2^-60, over a finite x.

    The lost part of each rounded difference (Knuth's TwoSum) corrects the result; the
    largest term stays out of the sum.
    """
    wide = x.astype(WIDE)
    top = wide.max(axis=axis, keepdims=True)
    below = wide - top
    part = below - wide
    lost = (wide - (below - part)) - (top + part)
    terms = np.exp(below) * (1 + lost)
    others = terms.copy()
    at = np.expand_dims(wide.argmax(axis=axis), axis)
    np.put_along_axis(others, at, 0, axis=axis)
    rest = others.sum(axis=axis, keepdims=True)
    if op == "softmax":
        return np.asarray(terms / (1 + rest))
    if op == "log_softmax":
        return np.asarray((below - np.log1p(rest)) + lost)
    return np.asarray(np.squeeze(top + np.log1p(rest), axis))


def ulps(result: Array, correct: Array, dtype: str) -> Array:
    """Errors in ULP of the exact value, in the given type."""
    info = np.finfo(dtype)
    exponent = np.maximum(np.frexp(correct)[1] - 1, info.minexp) - info.nmant
    return np.asarray(abs(result.astype(WIDE) - correct) / np.ldexp(WIDE(1), exponent))


def errors(library: Library, op: str, dtype: str) -> dict[str, list[float]]:
    """Largest and mean error of each kind of input, over the shapes that it can do."""
    found = {}
    for kind in KINDS:
        parts = [_errors(library, op, dtype, kind, *shape) for shape in SHAPES]
        known = [part for part in parts if part is not None]
        if known:
            done = np.concatenate(known)
            found[kind] = [_short(done.max()), _short(done.mean())]
    return found


def _errors(
    library: Library, op: str, dtype: str, kind: str, shape: tuple[int, ...], axis: int
) -> Array | None:
    x = inputs(kind, shape, axis, dtype)
    case = Case(op, dtype, shape, axis)
    try:
        call = library.prepare(Data(case, x))
    except UnsupportedError:
        return None
    result = call.finish(call.run())
    return ulps(result, exact(op, x, axis), dtype).ravel()


def _short(value: Any) -> float:
    return float(f"{float(value):.3g}")
