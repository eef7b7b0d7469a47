"""Inputs, the same in every process, and what results should be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import WEIGHTED, Case

Array = npt.NDArray[Any]

# Larger inputs repeat their first million numbers.
PERIOD = 1 << 20


@dataclass
class Data:
    """The arrays of one cell, made when they are asked for."""

    case: Case
    given: Array | None = None

    @cached_property
    def x(self) -> Array:
        """Logits: normal, times 5; peaked ones with one in each set 40 above them."""
        if self.given is not None:
            return self.given
        x = np.asarray(self._normal(0) * self._type(5))
        if self.case.inputs == "peaked":
            np.moveaxis(x, self.case.axis, 0)[self.case.n // 2] += 40
        return x

    @cached_property
    def y(self) -> Array:
        """Result of the function whose gradient is asked for."""
        softmax, log_softmax, _ = formulas(self.x, self.case.axis)
        y = softmax if self.case.op == "softmax_vjp" else log_softmax
        return y.astype(self.case.dtype)

    @cached_property
    def dy(self) -> Array:
        """Gradient of a loss with respect to y: normal."""
        return self._normal(1)

    @cached_property
    def labels(self) -> Array:
        """One class for each row."""
        rows, classes = self.case.shape
        return np.random.default_rng(2).integers(0, classes, rows)

    @cached_property
    def b(self) -> Array:
        """Weights: one for each place in a set, above 0; signed: one for each entry."""
        if self.case.op == "signed_logsumexp":
            return self._normal(1)
        shape = [1] * len(self.case.shape)
        shape[self.case.axis] = self.case.n
        return np.abs(self._normal(1)).ravel()[: self.case.n].reshape(shape)

    @cached_property
    def out(self) -> Array:
        """An array for the result, its memory in place."""
        if self.case.op == "logsumexp":
            shape = np.delete(self.case.shape, self.case.axis)
            return np.zeros(tuple(shape), self.case.dtype)
        return np.full(self.case.shape, 1, self.case.dtype)

    def _normal(self, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        some = rng.standard_normal(min(self.case.size, PERIOD), dtype=self._type)
        return np.resize(some, self.case.shape)

    @property
    def _type(self) -> Any:
        return np.dtype(self.case.dtype).type


def formulas(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """Softmax, log_softmax and logsumexp by their formulas in float64."""
    wide = x.astype(np.float64)
    top = wide.max(axis=axis, keepdims=True)
    e = np.exp(wide - top)
    total = e.sum(axis=axis, keepdims=True)
    log = top + np.log(total)
    return e / total, wide - log, np.squeeze(log, axis)


def expected(data: Data) -> Array:
    """Result of a cell by its formula in float64; hinge_grad: the gradient alone."""
    case = data.case
    if case.op.startswith("hinge"):
        loss, gradient = hinge(data.x.astype(np.float64), data.labels)
        return gradient if case.op == "hinge_grad" else np.asarray(loss)
    if case.op.endswith("_vjp"):
        return vjp(case.op, data.y.astype(np.float64), data.dy, case.axis)
    if case.op in WEIGHTED:
        return log_of_weighted(data.x.astype(np.float64), case.axis, data.b)[0]
    results = formulas(data.x, case.axis)
    return results[("softmax", "log_softmax", "logsumexp").index(case.op)]


def log_of_weighted(x: Array, axis: int, b: Array) -> tuple[Array, Array]:
    """Logarithm of the size of a weighted sum of exponentials, and its sign."""
    top = np.max(x, axis=axis, keepdims=True)
    total = np.sum(b * np.exp(x - top), axis=axis)
    return np.log(np.abs(total)) + np.squeeze(top, axis), np.sign(total)


def vjp(op: str, y: Array, dy: Array, axis: int) -> Array:
    """Gradient through softmax or log_softmax."""
    if op == "softmax_vjp":
        return np.asarray(y * (dy - np.sum(y * dy, axis=axis, keepdims=True)))
    return np.asarray(dy - np.exp(y) * np.sum(dy, axis=axis, keepdims=True))


def hinge_terms(scores: Array, labels: Array) -> Array:
    """All max(0, 1 - positive + negative), 0 in the positive's place."""
    rows = np.arange(len(scores))
    terms = np.maximum(0, 1 - scores[rows, labels][:, None] + scores)
    terms[rows, labels] = 0
    return np.asarray(terms)


def hinge(scores: Array, labels: Array) -> tuple[Any, Array]:
    """Loss, summed over all terms, and its gradient."""
    terms = hinge_terms(scores, labels)
    gradient = (terms > 0).astype(scores.dtype)
    gradient[np.arange(len(scores)), labels] = -gradient.sum(axis=-1)
    return terms.sum(dtype=np.float64), gradient
