"""NumPy: the formula, in the lines that everybody writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cases import OPS, WEIGHTED, Case
from ..data import Array, Data, hinge, hinge_terms, log_of_weighted, vjp
from .base import Call, Library


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(e / np.sum(e, axis=axis, keepdims=True))


def log_softmax(x: Array, axis: int) -> Array:
    below = x - np.max(x, axis=axis, keepdims=True)
    return np.asarray(below - np.log(np.sum(np.exp(below), axis=axis, keepdims=True)))


def logsumexp(x: Array, axis: int) -> Array:
    top = np.max(x, axis=axis, keepdims=True)
    log = top + np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True))
    return np.asarray(np.squeeze(log, axis))


class NumPy(Library):
    """The formulas; with `out=`, softmax and log_softmax with buffers that exist."""

    name = module = package = "numpy"
    ops = OPS
    has_out = True

    def supports(self, case: Case) -> str:
        if case.call == "out=" and case.op not in ("softmax", "log_softmax"):
            return "has no out="
        return super().supports(case)

    def call(self, data: Data) -> Call:
        op, axis = data.case.op, data.case.axis
        if op == "hinge":
            x, labels = data.x, data.labels
            return Call(lambda: hinge_terms(x, labels).sum(dtype=np.float64))
        if op == "hinge_grad":
            x, labels = data.x, data.labels
            return Call(lambda: hinge(x, labels), lambda pair: pair[1])
        if op.endswith("_vjp"):
            y, dy = data.y, data.dy
            return Call(lambda: vjp(op, y, dy, axis))
        if op in WEIGHTED:
            x, b = data.x, data.b
            return Call(lambda: log_of_weighted(x, axis, b), lambda pair: pair[0])
        if data.case.call == "out=":
            return Call(_into_buffers(data))
        functions = {f.__name__: f for f in (softmax, log_softmax, logsumexp)}
        x, function = data.x, functions[op]
        return Call(lambda: function(x, axis))


def _into_buffers(data: Data) -> Callable[[], Array]:
    x, y, axis = data.x, data.out, data.case.axis
    per_set = np.max(x, axis=axis, keepdims=True)
    scratch = np.empty_like(x)

    def softmax_out() -> Array:
        np.max(x, axis=axis, keepdims=True, out=per_set)
        np.subtract(x, per_set, out=y)
        np.exp(y, out=y)
        np.sum(y, axis=axis, keepdims=True, out=per_set)
        np.divide(y, per_set, out=y)
        return y

    def log_softmax_out() -> Array:
        np.max(x, axis=axis, keepdims=True, out=per_set)
        np.subtract(x, per_set, out=y)
        np.exp(y, out=scratch)
        np.sum(scratch, axis=axis, keepdims=True, out=per_set)
        np.log(per_set, out=per_set)
        np.subtract(y, per_set, out=y)
        return y

    return softmax_out if data.case.op == "softmax" else log_softmax_out
