"""What a call costs beside its arithmetic: python -m bench.call_cost.

Every form on one array of (8, 20) float32, as a ratio to numpy.exp on the same array,
in turns within one process; the least of many short rounds, which others disturb least.
"""

from __future__ import annotations

import math
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np

from . import prefer_installed_package

prefer_installed_package()

from fastsoftmax import (  # noqa: E402
    cross_entropy,
    hinge_loss,
    log_softmax,
    logsumexp,
    pair_hinge_loss,
    softmax,
    softmax_vjp,
)

CALLS, ROUNDS = 100, 100


def forms() -> dict[str, tuple[Callable[[], Any], float]]:
    """Return each form and the most that it may cost, in numpy.exp's."""
    x = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    wide = np.repeat(x, 2, axis=1)
    half, whole, rows = x.astype(np.float16), (10 * x).astype(np.int64), x.tolist()
    mask, labels = np.arange(20) != 3, np.arange(8, dtype=np.int32)
    axis, two = np.int64(-1), np.float32(2)
    y, dy = softmax(x, axis=-1), np.ones((8, 1), np.float32)
    return {
        "softmax": (lambda: softmax(x, axis=-1), 1.5),
        "log_softmax": (lambda: log_softmax(x, axis=-1), 1.5),
        "logsumexp": (lambda: logsumexp(x, axis=-1), 1.5),
        "axis=(-1,)": (lambda: softmax(x, axis=(-1,)), 6),
        "axis of NumPy": (lambda: softmax(x, axis=axis), 6),
        "x.T": (lambda: softmax(x.T, axis=-1), 6),
        "x[:, ::2]": (lambda: softmax(wide[:, ::2], axis=-1), 6),
        "float16": (lambda: softmax(half, axis=-1), 6),
        "integers": (lambda: softmax(whole, axis=-1), 6),
        "a list": (lambda: softmax(rows, axis=-1), 12),
        "keepdims": (lambda: logsumexp(x, axis=-1, keepdims=True), 6),
        "temperature=2": (lambda: softmax(x, axis=-1, temperature=2), 6),
        "temperature of NumPy": (lambda: softmax(x, axis=-1, temperature=two), 6),
        "dtype": (lambda: softmax(x, axis=-1, dtype=np.float64), 6),
        "where, broadcast": (lambda: softmax(x, axis=-1, where=mask), 6),
        "hinge, int32 labels": (lambda: hinge_loss(x, labels), 6),
        "hinge, where": (lambda: hinge_loss(x, where=mask), 6),
        "pair_hinge_loss": (lambda: pair_hinge_loss(x[:, 0], x), 6),
        "softmax_vjp, dy broadcast": (lambda: softmax_vjp(y, dy, axis=-1), 6),
        "cross_entropy": (lambda: cross_entropy(x, labels), 6),
        "cross_entropy, gradient": (
            lambda: cross_entropy(x, labels, return_grad=True),
            6,
        ),
        "cross_entropy, where": (lambda: cross_entropy(x, labels, where=mask), 6),
        "cross_entropy of targets": (lambda: cross_entropy(x, y), 6),
    }


def ratios() -> dict[str, tuple[float, float]]:
    """Return what each form costs, and may cost, in numpy.exp's."""
    x = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
    calls = {name: call for name, (call, _) in forms().items()}
    calls["numpy.exp"] = lambda: np.exp(x)
    least = dict.fromkeys(calls, math.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            least[name] = min(least[name], timeit.timeit(call, number=CALLS))
    exp = least["numpy.exp"]
    return {name: (least[name] / exp, most) for name, (_, most) in forms().items()}


def main() -> int:
    """Print the table; fail where a form costs more than it may."""
    found = ratios()
    for name, (ratio, most) in found.items():
        print(f"{name:26} {ratio:5.2f}  (at most {most:g})")
    return int(any(ratio > most for ratio, most in found.values()))


if __name__ == "__main__":
    sys.exit(main())
