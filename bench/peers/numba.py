"""Numba: the loops that a user writes, compiled; several threads share the rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case
from ..data import Array, Data
from .base import Call, Library


class Numba(Library):
    """njit with the exact (default) floating-point rules."""

    name = module = package = "numba"
    ops = ("softmax", "log_softmax", "logsumexp")

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        return {"NUMBA_NUM_THREADS": str(threads)}

    def start(self) -> None:
        self.compiled: dict[str, Any] = {}
        # Compiled code finds its prange under this name.
        globals()["prange"] = self.lib.prange

    def supports(self, case: Case) -> str:
        if case.axis_word != "last" and case.op != "softmax":
            return "not written for this axis"
        return super().supports(case)

    def call(self, data: Data) -> Call:
        case, x = data.case, data.x
        if case.axis_word == "last":
            rows = x.reshape(-1, case.n)
            function = self._compile({f.__name__: f for f in ROWS}[case.op])
            shape = x.shape[:-1] if case.op == "logsumexp" else x.shape
            return Call(lambda: function(rows), lambda y: y.reshape(shape))
        outer = math.prod(case.shape[: case.axis])
        blocks = x.reshape(outer, case.n, -1)
        columns = self._compile(softmax_columns)
        return Call(lambda: columns(blocks), lambda y: y.reshape(x.shape))

    def _compile(self, function: Any) -> Any:
        name = function.__name__
        if name not in self.compiled:
            njit = self.lib.njit(parallel=self.threads > 1)
            self.compiled[name] = njit(function)
        return self.compiled[name]


prange: Any = range


def softmax(x: Array) -> Array:
    y = np.empty_like(x)
    for i in prange(x.shape[0]):
        top = x[i, 0]
        for j in range(1, x.shape[1]):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            y[i, j] = np.exp(x[i, j] - top)
            total += y[i, j]
        for j in range(x.shape[1]):
            y[i, j] /= total
    return y


def log_softmax(x: Array) -> Array:
    y = np.empty_like(x)
    for i in prange(x.shape[0]):
        top = x[i, 0]
        for j in range(1, x.shape[1]):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] - top
            total += np.exp(y[i, j])
        log = np.log(total)
        for j in range(x.shape[1]):
            y[i, j] -= log
    return y


def logsumexp(x: Array) -> Array:
    y = np.empty(x.shape[0], x.dtype)
    for i in prange(x.shape[0]):
        top = x[i, 0]
        for j in range(1, x.shape[1]):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += np.exp(x[i, j] - top)
        y[i] = top + np.log(total)
    return y


def softmax_columns(x: Array) -> Array:
    """Softmax of [outer, n, inner] over n."""
    y = np.empty_like(x)
    for i in prange(x.shape[0]):
        top = x[i, 0].copy()
        for j in range(1, x.shape[1]):
            for k in range(x.shape[2]):
                top[k] = max(top[k], x[i, j, k])
        total = np.zeros_like(top)
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                y[i, j, k] = np.exp(x[i, j, k] - top[k])
                total[k] += y[i, j, k]
        for j in range(x.shape[1]):
            for k in range(x.shape[2]):
                y[i, j, k] /= total[k]
    return y


ROWS = (softmax, log_softmax, logsumexp)
